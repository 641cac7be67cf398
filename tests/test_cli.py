"""Does the command say what it did, refuse what it should in one line, and end with the right status?"""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tipslib import __version__, cli
from tipslib.experiments import compute, plan, plan_all
from tipslib.profiles import PROFILES, get_profile
from tipslib.records import Record, Store
from tipslib.reporting import ledger
from tipslib.reporting.claims import Claim, Finding, Verdict

if TYPE_CHECKING:
    from batch_shell import Shell

Output = pytest.CaptureFixture[str]

NETWORK = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 10)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = x + F.relu(self.second(x))
        return self.last(x.mean((2, 3)))

def made():
    return Net(4)

def wants(width):
    return Net(width)

class Odd(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

net, number, nothing = Net(), 3, lambda: None
"""


def status(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:  # argparse leaves this way
        return int(end.code or 0)


def refused(capsys: Output, *arguments: str) -> str:
    """The message of a command that is refused as wrong input: on stderr alone, and no traceback."""
    assert status(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_help_names_every_command_with_examples_and_loads_nothing_slow() -> None:
    code = "import sys; from tipslib import cli; sys.argv = ['tipslib', '--help']; sys.exit(cli.main())"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    for word in ("list", "run", "reproduce", "verify", "analyze", "--version", "examples:", "exit status:"):
        assert word in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "tipslib.cli" in loaded
    assert not loaded & {"torch", "numpy", "matplotlib", "pandas", "snakemake"}


@pytest.mark.parametrize("command", ["list", "run", "reproduce", "verify", "analyze"])
def test_every_command_has_help(command: str, capsys: Output) -> None:
    assert status(command, "--help") == 0
    assert f"usage: tipslib {command}" in capsys.readouterr().out


def test_version(capsys: Output) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out == f"tipslib {__version__}\n"


def test_the_installed_command_is_this_one() -> None:
    done = subprocess.run([str(Path(sys.executable).parent / "tipslib"), "--version"], capture_output=True, text=True)
    assert done.stdout == f"tipslib {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["fly"], "invalid choice: 'fly'"),
        (["list", "--profile", "huge"], "tipslib: no profile 'huge'; there are smoke, laptop, gpu, paper\n"),
        (["list", "--prof", "smoke"], "unrecognized arguments: --prof"),
        (["run"], "required: EXPERIMENT"),
        (["run", "nothing"], "tipslib: no experiment 'nothing'; there are walkthrough, proposition, stability, coupling"),
        (["run", "toy", "--profile", "huge"], "tipslib: no profile 'huge'; there are smoke, laptop, gpu, paper\n"),
        (["run", "toy", "-p", "nubmer=3"], "tipslib: no parameter 'nubmer'; there are number, share\n"),
        (["run", "toy", "-p", "seed=3"], "tipslib: no parameter 'seed'; there are number, share\n"),
        (["run", "toy", "-p", "name=3"], "tipslib: no parameter 'name'; there are number, share\n"),
        (["run", "toy", "-p", "number"], "tipslib: 'number' is not of the form key=value\n"),
        (["run", "toy", "-p", "number=1.5"], "tipslib: number = 1.5 is of type float; int is wanted\n"),
        (["run", "toy", "-p", "number=-1"], "tipslib: number = -1; 0 or more is wanted\n"),
        (["run", "toy", "-p", "number=1", "-p", "number=2"], "tipslib: a parameter is given twice; each may be given once\n"),
        (["run", "toy", "--seed", "-1"], "tipslib: seed = -1; a whole number from 0 is wanted\n"),
        (["run", "toy", "--seed", "one"], "argument --seed: invalid int value: 'one'"),
        (["reproduce", "tips-fig99"], "tipslib: no artefact or notebook 'tips-fig99'; there are tips-fig1, "),
        (["reproduce", "--jobs", "0"], "tipslib: jobs = 0; at least 1 is wanted\n"),
        (["reproduce", "--profile", "huge"], "tipslib: no profile 'huge'; there are smoke, laptop, gpu, paper\n"),
        (["verify", "--sample", "0"], "tipslib: --sample 0; at least 1 is wanted\n"),
        (["verify", "--seed", "-1"], "tipslib: --seed -1; a whole number from 0 is wanted\n"),
        (["verify", "--profile", "huge"], "tipslib: no profile 'huge'; there are smoke, laptop, gpu, paper\n"),
    ],
)
def test_wrong_input_is_refused_with_what_is_allowed(toy: ModuleType, capsys: Output, arguments: list[str], message: str) -> None:
    err = refused(capsys, *arguments)
    assert message in err
    assert err.startswith(message) == message.startswith("tipslib: ")


def test_list_shows_artefacts_with_their_state_and_claims_with_their_verdict(capsys: Output) -> None:
    assert status("list", "--profile", "paper") == 0
    out = capsys.readouterr().out
    assert re.search(r"^  tips-fig6 +not run +Spread of path scores against .* \[stability\]$", out, re.MULTILINE)
    assert re.search(r"^  progressive-table1 +not run ", out, re.MULTILINE)
    from tipslib.reporting.claims import claims

    for claim in claims().values():
        assert f"{claim.id}: {claim.words} [{claim.where}]\n" in out


def test_run_shows_the_record_and_finds_it_again(toy: ModuleType, capsys: Output) -> None:
    assert status("run", "toy", "--seed", "3", "-p", "number=2") == 0
    out = capsys.readouterr().out
    path = Path(out.splitlines()[0])
    assert path == Store(get_profile("smoke")).path(plan("toy", seed=3, number=2))
    assert "  number: 2\n" in out
    assert "  counts: array (2,) int64\n" in out
    before = path.stat()
    assert status("run", "toy", "--seed", "3", "-p", "number=2", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_run_makes_one_run_the_profiles_first_seed_by_default(toy: ModuleType, capsys: Output) -> None:
    assert status("run", "toy", "--profile", "laptop") == 0
    (path,) = Store(get_profile("laptop")).paths()
    assert capsys.readouterr().out.startswith(f"{path}\n")
    assert json.loads(path.read_text())["seed"] == PROFILES["laptop"].seeds[0]


def test_run_makes_planned_runs_by_key(toy: ModuleType, capsys: Output) -> None:
    first, second, third = plan_all("toy")
    assert status("run", "toy", "--key", third.key, "--key", first.key, "--quiet") == 0
    assert capsys.readouterr().out == ""
    store = Store(get_profile("smoke"))
    assert [store.find(run) is not None for run in (first, second, third)] == [True, False, True]
    assert status("run", "toy", "--key", first.key) == 0
    assert capsys.readouterr().out.startswith(f"{store.path(first)}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--key", "0" * 16), "no run '0000000000000000' of toy at profile smoke; there are "),
        (("--key", "0" * 16, "--seed", "1"), "--key says all about a run; leave --seed and -p out"),
        (("--key", "0" * 16, "-p", "number=2"), "--key says all about a run; leave --seed and -p out"),
    ],
)
def test_run_refuses_a_key_that_no_artefact_needs(toy: ModuleType, capsys: Output, arguments: tuple[str, ...], message: str) -> None:
    assert status("run", "toy", *arguments) == 2
    assert capsys.readouterr().err.startswith(f"tipslib: {message}")


def test_a_folder_that_cannot_be_written_is_a_failure_not_wrong_input(toy: ModuleType, capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "build").write_text("in the way")
    assert status("run", "toy") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tipslib: \S+\.(npz|json): cannot be written \(.*\)\. Free space or allow writing in \S+, then repeat\n", err)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m tipslib.cli list | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("artefacts at profile smoke")
    assert done.stderr == ""


# verify


def test_verify_with_nothing_stored_says_so(toy: ModuleType, capsys: Output) -> None:
    assert status("verify") == 0
    assert capsys.readouterr().out == "nothing stored at profile smoke: no record to check\n"


def test_verify_recomputes_a_sample_that_its_seed_decides(toy: ModuleType, capsys: Output) -> None:
    compute("toy", seeds=range(6))
    drawn = []
    for seed in ("0", "0", "1"):
        assert status("verify", "--sample", "3", "--seed", seed) == 0
        out = capsys.readouterr().out
        assert out.endswith(
            "profile smoke: 6 records, 0 corrupt, 0 of other versions of the code (not recomputed); 3 recomputed, 0 different\n"
        )
        drawn.append(re.findall(r"^agrees +(\S+)$", out, re.MULTILINE))
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1] != drawn[2]
    assert status("verify", "--sample", "99") == 0
    assert capsys.readouterr().out.count("agrees ") == 6


def test_verify_names_what_differs_and_fails(toy: ModuleType, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    compute("toy", number=3)
    run = toy.run

    def drifting(parameters: object, **how: object) -> object:
        outcome = run(parameters, **how)
        outcome.values["mean"] *= 1 + 1e-6
        outcome.values["timing"] = {"threads": 99}
        outcome.arrays["draws"][2] += 1
        return outcome

    monkeypatch.setattr(toy, "run", drifting)
    assert status("verify") == 1
    out = capsys.readouterr().out
    assert re.search(r"^differs  \S+\.json\n +values\.mean: 0\.\d+ in the record, 0\.\d+ now\n", out, re.MULTILINE)
    assert "arrays.draws: 1 of 4 numbers differ, the first at 2: 0." in out
    assert "timing" not in out
    assert "1 recomputed, 1 different" in out


def test_verify_names_corrupt_records_and_fails(toy: ModuleType, capsys: Output) -> None:
    first, second = compute("toy", seeds=[0, 1])
    first.path.write_bytes(first.path.read_bytes()[:50])
    assert status("verify") == 1
    out = capsys.readouterr().out
    assert f"corrupt  {first.path}: not a whole record" in out
    assert f"agrees   {second.path}\n" in out


def test_verify_leaves_out_what_other_code_made(toy: ModuleType, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    compute("toy", profile="laptop", seeds=[0])
    monkeypatch.setattr(toy, "VERSION", 2)
    assert status("verify", "--profile", "laptop") == 0
    assert "1 records, 0 corrupt, 1 of other versions of the code (not recomputed); 0 recomputed" in capsys.readouterr().out


# claims


def judged(records: Sequence[Record]) -> Finding:
    return Finding(Verdict.HOLDS, 0.5, (0.25, math.inf) if len(records) < 2 else (0.25, 0.75), len(records), "made up")


@pytest.fixture
def claimed(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One claim, on the toy."""
    claim = Claim("toys-play", "companion", "Sec. 0", "Toys play.", "fun", "toy", ("laptop", "gpu"), judged)
    monkeypatch.setattr(ledger, "claims", lambda: {claim.id: claim})


def ledger_of(capsys: Output, *arguments: str) -> dict[str, Any]:
    assert status("claims", "--json", *arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)
    return dict(found)


def test_each_claim_is_shown_at_the_largest_profile_that_says_anything(claimed: None, capsys: Output) -> None:
    capsys.readouterr()
    nothing = ledger_of(capsys)
    assert (nothing["verdict"], nothing["profile"], nothing["effect"], nothing["interval"], nothing["seeds"]) == (
        "not run",
        None,
        None,
        None,
        0,
    )
    compute("toy", profile="smoke", seeds=[0])
    assert (ledger_of(capsys)["verdict"], ledger_of(capsys)["profile"]) == ("undecided", "smoke")
    compute("toy", profile="laptop", seeds=[0, 1])
    found = ledger_of(capsys)
    wanted = {"id": "toys-play", "paper": "companion", "verdict": "holds", "profile": "laptop", "effect": 0.5, "interval": [0.25, 0.75]}
    assert found.items() >= (wanted | {"seeds": 2}).items()
    assert ledger_of(capsys, "--profile", "smoke")["profile"] == "smoke"
    assert ledger_of(capsys, "--profile", "gpu")["verdict"] == "not run"
    # an interval without an end is none
    assert ledger_of(capsys, "--profile", "smoke")["interval"] is None


def test_claims_are_printed_with_their_evidence(claimed: None, capsys: Output) -> None:
    compute("toy", profile="laptop", seeds=[0, 1])
    assert status("claims") == 0
    out = capsys.readouterr().out
    assert "holds          toys-play: Toys play. [Sec. 0]" in out
    assert "fun: 0.5 (95 % interval 0.25 to 0.75; 2 seeds); profile laptop" in out
    assert status("claims", "--profile", "huge") == 2


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "tipslib", "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == f"tipslib {__version__}"


# analyze


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file of networks in it."""
    (tmp_path / "mynet.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return tmp_path


@pytest.mark.parametrize("factory", ["Net", "made", "net"])
def test_analyze_takes_a_class_a_function_or_a_network_from_the_current_folder(here: Path, capsys: Output, factory: str) -> None:
    assert status("analyze", f"mynet:{factory}", "--input", "1,3,32,32", "--json", "out.json", "--picture", "deep/out.svg") == 0
    out = capsys.readouterr().out
    assert "Net: " in out
    found = json.loads((here / "out.json").read_text())
    assert [operation["name"] for operation in found["operations"]][:2] == ["first", "second"]
    assert found["settings"] == {"subnetworks": 8, "coupling": 1.0, "restart": 1e-05, "seed": 0}
    assert "<svg" in (here / "deep" / "out.svg").read_text()


def test_analyze_passes_its_settings_on_and_repeats(here: Path, capsys: Output) -> None:
    for name in ("a.json", "b.json"):
        arguments = ["--subnetworks", "4", "--coupling", "0.5", "--restart", "0.01", "--seed", "7", "--leaf", "second", "--json", name]
        assert status("analyze", "mynet:Net", "--input", "2,3,16,16", *arguments) == 0
    first, second = ((here / name).read_text() for name in ("a.json", "b.json"))
    assert first == second
    assert json.loads(first)["settings"] == {"subnetworks": 4, "coupling": 0.5, "restart": 0.01, "seed": 7}
    assert {operation["name"]: operation["kind"] for operation in json.loads(first)["operations"]}["second"] == "leaf"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mynet", "--input", "1,3,8,8"], "'mynet' is not of the form package.module:factory"),
        (["mynet:", "--input", "1,3,8,8"], "'mynet:' is not of the form"),
        (["nonet:Net", "--input", "1,3,8,8"], "cannot import nonet (ModuleNotFoundError: No module named 'nonet')"),
        (["broken:Net", "--input", "1,3,8,8"], "cannot import broken (ModuleNotFoundError: No module named 'nowhere')"),
        (["spoilt:Net", "--input", "1,3,8,8"], "cannot import spoilt (SyntaxError: "),
        (["mynet:Nte", "--input", "1,3,8,8"], "mynet has no Nte; it defines Net, made, wants, Odd"),
        (["mynet:net.nothing.more", "--input", "1,3,8,8"], "mynet has no net.nothing.more"),
        (["mynet:wants", "--input", "1,3,8,8"], "mynet:wants cannot be called without arguments (missing a required argument: 'width')"),
        (
            ["mynet:number", "--input", "1,3,8,8"],
            "mynet:number is of type int; a network, or a class or function that makes one, is wanted",
        ),
        (["mynet:nothing", "--input", "1,3,8,8"], "mynet:nothing gave something of type NoneType; a network (torch.nn.Module) is wanted"),
        (["mynet:Net", "--input", "1,3,x"], "input '1,3,x'; whole numbers from 1 with commas are wanted"),
        (["mynet:Net", "--input", "8"], "input '8'; whole numbers from 1"),
        (["mynet:Net", "--input", "1,0,8,8"], "input '1,0,8,8'; whole numbers from 1"),
        (["mynet:Net", "--input", "1,3,8,8", "--subnetworks", "0"], "0"),
        (["mynet:Net", "--input", "1,3,8,8", "--coupling", "1.5"], "1.5"),
        (["mynet:Net", "--input", "1,3,8,8", "--coupling", "nan"], "nan"),
        (["mynet:Net", "--input", "1,3,8,8", "--restart", "1"], "1"),
        (["mynet:Net", "--input", "1,3,8,8", "--seed", "-1"], "seed = -1"),
        (["mynet:Net", "--input", "1,3,8,8", "--leaf", "third"], "'third' is no submodule of Net"),
        (["mynet:Net", "--input", "1,3,8,8", "--picture", "out.gif"], "--picture out.gif; the name must end in .svg, .png, .pdf"),
        (["mynet:Odd", "--input", "1,3,8,8"], "the network itself (Odd) cannot be traced (mynet.py, line 24"),
    ],
)
def test_analyze_refuses_with_what_is_wanted(here: Path, capsys: Output, arguments: list[str], message: str) -> None:
    (here / "broken.py").write_text("import nowhere\n")
    (here / "spoilt.py").write_text("def (:\n")
    err = refused(capsys, "analyze", *arguments)
    assert err.startswith("tipslib: ")
    assert message in err


# interruption


def test_ctrl_c_during_a_run_leaves_no_half_record(shell: Shell, until: Callable[[Callable[[], object]], None]) -> None:
    process = shell.start("run", "toy")
    until(lambda: shell.started(1))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err == "tipslib: interrupted; what was finished is kept\n"
    assert not (shell.home / "build").exists()
    shell.let_go(1)
    assert shell.run("run", "toy").returncode == 0
    assert len(shell.files()) == 2


def test_a_corrupt_record_is_named_on_stderr_and_computed_again(shell: Shell) -> None:
    shell.let_go(1)
    assert shell.run("run", "toy").returncode == 0
    (path,) = shell.records().values()
    path.write_text(path.read_text().replace("0.5", "0.6"))
    done = shell.run("run", "toy")
    assert done.returncode == 0
    assert done.stderr.startswith(f"tipslib: {path}: the checksum does not fit the content")
    assert "recomputing it now" in done.stderr
    assert shell.started(1) == 2
    assert shell.run("run", "toy").stderr == ""
