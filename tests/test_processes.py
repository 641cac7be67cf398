"""Does a run in several processes give what one gives, write once, say so when a process is lost, and go on with another number?"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from batch_shell import Shell
from tipslib import experiments, processes
from tipslib.processes import anywhere, batch_norm, mean, of_the_first
from tipslib.records import read

STEPS, EPOCHS = 10, 4

TOY = f'''
"""An experiment that trains a network with batch norms on noise, and writes down its steps."""

import os
import time
from dataclasses import dataclass

import torch
from torch import nn

from tipslib import project, training
from tipslib.branched.joint import JointLoss
from tipslib.processes import make_fabric
from tipslib.records import Outcome
from tipslib.training import Recipe, fit

VERSION = 1
TOLERANCE = 1e-4
training.CHECK_EVERY = 1


@dataclass(frozen=True)
class Parameters:
    channels: int = 6


class Exits(nn.Module):
    def __init__(self, channels):
        super().__init__()
        layers = nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6)
        self.body, self.head = nn.Sequential(*layers, nn.Flatten()), nn.Linear(96, 2)

    def forward(self, x):
        return (self.head(self.body(x)),)


class Images:
    def __init__(self, fabric, journal):
        self.share, self.journal = (fabric.global_rank, fabric.world_size), journal

    def __len__(self):
        return {STEPS}

    def batches(self, epoch, first=0):
        for step in range(first, {STEPS}):
            x = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(epoch * {STEPS} + step))
            with self.journal.open("a") as file:
                file.write(f"{{self.share[0]}} {{os.getpid()}} {{epoch * {STEPS} + step}}\\n")
            time.sleep(float(os.environ.get("TOY_PAUSE", 0)))
            yield x[self.share[0] :: self.share[1]], (x.mean((1, 2, 3)) > 0).long()[self.share[0] :: self.share[1]]


def run(parameters, *, seed, profile):
    fabric, build = make_fabric("cpu"), project.root() / "build"
    build.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    net, loader = Exits(parameters.channels), Images(fabric, build / "journal")
    recipe, options = Recipe({EPOCHS}, learning_rate=0.1), {{"checkpoint": build / "run.ckpt", "checkpoint_seconds": 0}}
    losses = fit(net, JointLoss((1.0,)), loader, recipe, seed=seed, fabric=fabric, **options)
    state = torch.cat([value.double().flatten() for value in net.state_dict().values()])
    return Outcome({{"losses": list(losses)}}, {{"state": state.numpy()}}, {{"noise": "0" * 64}})
'''


@pytest.fixture
def home(tmp_path):
    """A project folder whose only experiment trains."""
    return trains_in(tmp_path / "home")


def trains_in(folder):
    folder.mkdir()
    shell = Shell(folder)
    (folder / "code" / "toy.py").write_text(TOY)
    shell.environment["OMP_NUM_THREADS"] = "1"
    return shell


def together(home, processes, *arguments):
    """`tipslib` with these arguments in so many processes, started."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command = [*launcher, f"--nproc-per-node={processes}", "-m", "tipslib", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=home.environment, cwd=home.home, start_new_session=True, **pipes)


def journal(home):
    """(process, its number in the system, step), a line for each step of each process."""
    file = home.home / "build" / "journal"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(int(word) for word in line.split()) for line in lines if len(line.split()) == 3]


def record_of(home):
    (path,) = (home.home / "build" / "records" / "smoke" / "toy").glob("*.json")
    return read(path)


def agree(one, other):
    assert one.values["losses"] == pytest.approx(other.values["losses"], rel=1e-4)
    np.testing.assert_allclose(one.arrays["state"], other.arrays["state"], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
    """The record of one process that nobody stopped."""
    shell = trains_in(tmp_path_factory.mktemp("one") / "home")
    done = shell.run("run", "toy")
    assert done.returncode == 0, done.stderr
    return record_of(shell)


def test_two_processes_make_the_record_of_one_and_the_first_writes_and_speaks(home, of_one):
    done = together(home, 2, "run", "toy")
    said, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    agree(record_of(home), of_one)
    assert said.count("losses") == 1
    assert {process for process, _, _ in journal(home)} == {0, 1}
    again = together(home, 2, "run", "toy")
    assert again.communicate(timeout=300)[0] == said
    assert len(journal(home)) == 2 * STEPS * EPOCHS, "a record that is there is not made again"


def test_a_lost_process_ends_the_run_with_a_message_and_another_number_goes_on(home, of_one):
    home.environment["TOY_PAUSE"] = "0.05"
    begun = together(home, 2, "run", "toy")
    deadline = time.monotonic() + 120
    while not (lost := [pid for process, pid, step in journal(home) if process == 1 and step >= 15]):
        assert time.monotonic() < deadline
        assert begun.poll() is None, begun.communicate()
        time.sleep(0.02)
    os.kill(lost[0], signal.SIGKILL)
    _, errors = begun.communicate(timeout=120)
    assert begun.returncode != 0
    assert "tipslib: another process of this run has ended, or whoever started this one ends it." in errors
    assert "What the last checkpoint holds is kept" in errors
    assert not list((home.home / "build").rglob("*.json"))
    before = len(journal(home))
    home.environment["TOY_PAUSE"] = "0"
    done = together(home, 3, "run", "toy")
    _, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    agree(record_of(home), of_one)
    went_on = journal(home)[before:]
    assert {process for process, _, _ in went_on} == {0, 1, 2}
    assert min(step for _, _, step in went_on) >= 10, "the steps before the checkpoint are not made again"


def test_only_a_run_can_be_shared(home):
    done = together(home, 1, "list")
    _, errors = done.communicate(timeout=120)
    assert done.returncode != 0
    assert "torchrun shares a run among processes; it is for `tipslib run` alone" in errors


@pytest.mark.parametrize("shape", [(6, 4, 3, 5), (7, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_one_process_is_that_of_torch(monkeypatch, shape, affine):
    monkeypatch.setattr("tipslib.processes.summed", lambda value: value.detach().clone())
    torch.manual_seed(0)
    x, slope = torch.randn(*shape) * 3 + 5, torch.randn(*shape)
    found = []
    for function in (F.batch_norm, batch_norm):
        inputs = x.clone().requires_grad_()
        weight, bias = (nn.Parameter(torch.linspace(0.5, 2, 4)) for _ in range(2)) if affine else (None, None)
        statistics = torch.zeros(4), torch.ones(4)
        y = function(inputs, *statistics, weight, bias, True, 0.1, 1e-5)
        (y * slope).sum().backward()
        found.append([y, inputs.grad, *statistics, *([weight.grad, bias.grad] if affine else [])])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_one_process_alone_is_asked_nothing():
    value = torch.ones(2)
    assert mean(value) is value
    assert of_the_first(value) is value
    assert [anywhere(True), anywhere(False)] == [True, False]


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_only_where_the_processor_computes_in_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    assert processes.computes_in_bfloat16("cpu") is has
    for precision, dtype in (("bf16-mixed", torch.bfloat16 if has else torch.float32), ("32-true", torch.float32)):
        with processes.make_fabric("cpu", precision).autocast():  # type: ignore[arg-type]
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


def test_the_processor_is_asked_in_the_words_of_this_torch() -> None:
    assert processes.computes_in_bfloat16("cpu") in (True, False)
    kernels = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert not kernels or processes.computes_in_bfloat16("cpu")  # every AVX-512 that torch takes is enough for oneDNN's kernels


def test_a_record_says_if_there_was_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(processes, "computes_in_bfloat16", lambda device="auto", has=has: has)
        assert ("without bfloat16" in experiments._provenance(1.0)["device"]) is not has
