"""What can be asked for from the shell? Exit status: 0 done, 1 a check or a run failed, 2 wrong input, 130 interrupted."""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tipslib import __version__
from tipslib.errors import CorruptFile, InvalidInput, TipslibError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tipslib.records import Record
    from tipslib.reporting.ledger import Entry

EPILOG = """examples:
  tipslib list
  tipslib run stability --seed 3 -p "subnetworks=[2, 4, 8]"
  tipslib reproduce tips-fig6 --profile laptop --jobs 4
  tipslib claims --profile laptop --json
  tipslib epochs fronts --profile gpu --hours 24 --keep
  tipslib verify --profile smoke --sample 3
  tipslib analyze torchvision.models:resnet18 --input 1,3,224,224 --picture importance.svg

exit status:
  0 done, 1 a check or a run failed, 2 wrong input, 130 interrupted
"""

ANALYZE = """MODULE:FACTORY names a class, a function without arguments, or a network; a file in the current folder will do:

  tipslib analyze torchvision.models:mobilenet_v2 --input 1,3,224,224
  tipslib analyze mynet:Net --input 1,3,32,32 --json mynet.json --picture mynet.svg
"""

EPOCHS = """Some steps of each training are timed. Searching, probing and testing come on top and are not counted;
so are the later phases of a training that has several."""

PICTURES = (".svg", ".png", ".pdf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command `tipslib`; returns the exit status."""
    chosen = _parser().parse_args(arguments)
    logging.basicConfig(format="tipslib: %(message)s", level=logging.WARNING, stream=sys.stderr)
    command: Callable[[argparse.Namespace], int] = chosen.command
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _be_one_of_several(command)
        status = command(chosen)
        sys.stdout.flush()
    except TipslibError as error:
        print(f"tipslib: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("tipslib: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _be_one_of_several(command: Callable[[argparse.Namespace], int]) -> None:
    """What `torchrun` started several times is one run: its first process speaks for all."""
    require(command is _run, "torchrun shares a run among processes; it is for `tipslib run` alone")

    from tipslib.processes import tell_of_loss

    tell_of_loss()
    if os.environ["RANK"] != "0":
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tipslib",
        description="Recompute the figures and tables of two papers on adaptive networks, or analyse a network of your own.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tipslib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], about: str, **more: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False, **more)
        sub.set_defaults(command=function)
        return sub

    def sized(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--profile", default="smoke", metavar="NAME", help="smoke, laptop, gpu or paper (default: smoke)")

    sized(command("list", _list, "show every artefact of the papers, its state, and the verdicts on its claims"))

    ledger = command("claims", _claims, "show the verdict on every claim of the papers, with its evidence")
    ledger.add_argument("--profile", metavar="NAME", help="smoke, laptop, gpu or paper (default: for each claim the largest that has run)")
    ledger.add_argument("--json", action="store_true", help="as a JSON list, one object a claim")

    run = command("run", _run, "make one run and show its record; a record that is there is not computed again")
    run.add_argument("experiment", metavar="EXPERIMENT", help="such as stability; a wrong name lists those there are")
    sized(run)
    run.add_argument("--seed", type=int, metavar="N", help="default: the profile's first")
    run.add_argument(
        "-p", dest="parameters", metavar="KEY=VALUE", action="append", default=[], help="a parameter, its value as JSON; repeatable"
    )
    run.add_argument(
        "--key", dest="keys", metavar="KEY", action="append", default=[], help="instead: a run the artefacts need, by its key; repeatable"
    )
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")

    reproduce = command("reproduce", _reproduce, "make what is missing of artefacts, or of everything and the book")
    reproduce.add_argument(
        "artefacts", metavar="ARTEFACT", nargs="*", help="such as tips-fig6, or a notebook such as stability; default: all"
    )
    sized(reproduce)
    reproduce.add_argument("--jobs", type=int, metavar="N", help="how many runs at once; the cores are divided (default: one a core)")

    epochs = command("epochs", _epochs, "find how many epochs fit a time budget on this machine", epilog=EPOCHS)
    epochs.add_argument("experiments", metavar="EXPERIMENT", nargs="+", help="such as fronts; all get the same number of epochs")
    epochs.add_argument("--profile", default="gpu", metavar="NAME", help="laptop, gpu or paper (default: gpu)")
    epochs.add_argument("--hours", type=float, required=True, metavar="H", help="for all their runs and seeds, one after another")
    epochs.add_argument("--keep", action="store_true", help="let the profile train for so many from now on: its runs, pages and claims")

    verify = command("verify", _verify, "check that stored records are whole, recompute a random sample of them and compare")
    sized(verify)
    verify.add_argument("--sample", type=int, default=5, metavar="N", help="how many to recompute (default: 5)")
    verify.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")

    analyse = command(
        "analyze",
        _analyze,
        "say which operations of a network matter",
        epilog=ANALYZE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    analyse.add_argument("network", metavar="MODULE:FACTORY", help="such as torchvision.models:resnet18")
    analyse.add_argument("--input", required=True, metavar="N,C,H,W", help="shape of an input, batch dimension first")
    analyse.add_argument("--subnetworks", type=int, default=8, metavar="T", help="how many are drawn (default: 8)")
    analyse.add_argument("--coupling", type=float, default=1.0, metavar="LAMBDA", help="from 0 to 1 (default: 1)")
    analyse.add_argument("--restart", type=float, default=1e-5, metavar="KAPPA", help="from 0 to below 1 (default: 1e-5)")
    analyse.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")
    analyse.add_argument(
        "--leaf", dest="leaves", action="append", default=[], metavar="NAME", help="a submodule to count as one operation; repeatable"
    )
    analyse.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    analyse.add_argument("--picture", type=Path, metavar="FILE", help=f"also draw it ({', '.join(PICTURES)})")
    return parser


def _list(chosen: argparse.Namespace) -> int:
    from tipslib.experiments import EXPERIMENTS
    from tipslib.profiles import get_profile
    from tipslib.reporting.artefacts import ARTEFACTS, state
    from tipslib.reporting.claims import claims_of
    from tipslib.reporting.ledger import ledger

    profile = get_profile(chosen.profile)
    verdicts = {entry.claim.id: entry.finding.verdict for entry in ledger(profile)}
    print(f"artefacts at profile {profile.name} ({profile.summary})")
    for artefact in ARTEFACTS.values():
        print(f"  {artefact.id:20} {state(artefact, profile):11} {artefact.title} [{artefact.notebook}]")
    for experiment, about in EXPERIMENTS.items():
        print(f"\nclaims decided by the experiment {experiment}: {about}")
        for claim in claims_of(experiment):
            print(f"  {verdicts[claim.id].value:14} {claim.id}: {claim.words} [{claim.where}]")
    return 0


def _claims(chosen: argparse.Namespace) -> int:
    from tipslib.reporting.ledger import ledger

    entries = ledger(chosen.profile)
    if chosen.json:
        print(json.dumps([_as_object(entry) for entry in entries], indent=2))
        return 0
    for entry in entries:
        claim, finding = entry.claim, entry.finding
        size = f"profile {entry.profile}" if entry.profile else "no profile"
        print(f"{finding.verdict.value:14} {claim.id}: {claim.words} [{claim.where}]")
        print(f"{'':14} {claim.quantity}: {finding.evidence}; {size}")
    return 0


def _as_object(entry: Entry) -> dict[str, Any]:
    claim, finding = entry.claim, entry.finding
    about = {name: getattr(claim, name) for name in ("id", "paper", "where", "words", "quantity", "experiment", "page")}
    bounds = finding.interval
    # an infinite bound says that there is no interval, and JSON has no infinity
    interval = list(bounds) if bounds is not None and all(map(math.isfinite, bounds)) else None
    said = {
        "verdict": finding.verdict.value,
        "effect": finding.effect,
        "interval": interval,
        "seeds": finding.seeds,
        "reason": finding.reason,
    }
    return about | {"profile": entry.profile} | said


def _run(chosen: argparse.Namespace) -> int:
    if chosen.keys:
        return _run_planned(chosen)

    from tipslib.experiments import compute, get_experiment
    from tipslib.parameters import parse, parse_text
    from tipslib.profiles import get_profile

    given = [parse_text(text) for text in chosen.parameters]
    overrides = dict(given)
    require(len(given) == len(overrides), "a parameter is given twice; each may be given once")
    parse(get_experiment(chosen.experiment).Parameters, overrides)
    seeds = get_profile(chosen.profile).seeds[:1] if chosen.seed is None else [chosen.seed]
    (record,) = compute(chosen.experiment, profile=chosen.profile, seeds=seeds, **overrides)
    if not chosen.quiet:
        _show(record)
    return 0


def _run_planned(chosen: argparse.Namespace) -> int:
    from tipslib.experiments import obtain, plan_all
    from tipslib.profiles import get_profile
    from tipslib.progress import track
    from tipslib.records import Store

    require(chosen.seed is None and not chosen.parameters, "--key says all about a run; leave --seed and -p out")
    profile = get_profile(chosen.profile)
    planned = {run.key: run for run in plan_all(chosen.experiment, profile)}
    for key in chosen.keys:
        require(key in planned, f"no run {key!r} of {chosen.experiment} at profile {profile.name}; there are {', '.join(planned)}")
    for key in track(chosen.keys, chosen.experiment):
        record = obtain(planned[key], profile, Store(profile))
        if not chosen.quiet:
            _show(record)
    return 0


def _show(record: Record) -> None:
    print(record.path)
    for name, value in record.values.items():
        print(f"  {name}: {_short(value)}")
    for name, array in record.arrays.items():
        print(f"  {name}: array {array.shape} {array.dtype}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 or not isinstance(value, dict | list) else f"{len(value)} entries"


def _reproduce(chosen: argparse.Namespace) -> int:
    from tipslib.batch import notebooks, reproduce
    from tipslib.reporting.artefacts import ARTEFACTS

    names: list[str] = []
    for name in chosen.artefacts:
        if name not in ARTEFACTS and name not in notebooks():
            raise InvalidInput(f"no artefact or notebook {name!r}; there are {', '.join([*ARTEFACTS, *notebooks()])}")
        notebook = ARTEFACTS[name].notebook if name in ARTEFACTS else name
        if notebook not in names:
            names.append(notebook)
    for path in reproduce(names, profile=chosen.profile, jobs=chosen.jobs):
        print(f"open {path}")
    return 0


def _epochs(chosen: argparse.Namespace) -> int:
    from tipslib.pace import epochs_within, hours, keep_epochs, paces
    from tipslib.profiles import get_profile

    profile, found = get_profile(chosen.profile), []
    for pace in paces(chosen.experiments, profile):
        found.append(pace)
        kind = ", ".join(str(pace.run.parameters[n]) for n in ("data", "network", "strategy", "weights") if n in pace.run.parameters)
        networks = f"{pace.trainings} networks, " if pace.trainings > 1 else ""
        print(f"{pace.seconds:10.1f} s an epoch, {networks}{pace.seeds} seeds: {pace.run.experiment} ({kind})", flush=True)
    planned = sorted({pace.epochs for pace in found})
    print(f"{hours(found):.3g} hours for the {' or '.join(map(str, planned))} epochs that profile {profile.name} plans")
    epochs = epochs_within(found, chosen.hours)
    print(f"{epochs} epochs fit {chosen.hours:g} hours, for each of {sum(pace.seeds for pace in found)} runs")
    if chosen.keep:
        keep_epochs(profile, dict.fromkeys(chosen.experiments, epochs))
        print(f"kept: profile {profile.name} trains them for {epochs} epochs from now on")
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    import numpy as np

    from tipslib.profiles import get_profile
    from tipslib.progress import track
    from tipslib.records import Store, read
    from tipslib.verification import differences, is_current

    profile = get_profile(chosen.profile)
    require(chosen.sample >= 1, f"--sample {chosen.sample}; at least 1 is wanted")
    require(chosen.seed >= 0, f"--seed {chosen.seed}; a whole number from 0 is wanted")
    paths = Store(profile).paths()
    if not paths:
        print(f"nothing stored at profile {profile.name}: no record to check")
        return 0
    records, corrupt, different = [], 0, 0
    for path in paths:
        try:
            records.append(read(path))
        except CorruptFile as error:
            corrupt += 1
            print(f"corrupt  {error}")
    current = [record for record in records if is_current(record, profile)]
    drawn = np.random.default_rng(chosen.seed).permutation(len(current))[: chosen.sample]
    for i in track(drawn, "verify"):
        found = differences(current[i], profile)
        different += bool(found)
        print("\n         ".join([f"{'differs' if found else 'agrees':8} {current[i].path}", *found]), flush=True)
    older = len(records) - len(current)
    print(
        f"profile {profile.name}: {len(paths)} records, {corrupt} corrupt, {older} of other versions of the code (not recomputed); "
        f"{len(drawn)} recomputed, {different} different"
    )
    return 1 if corrupt or different else 0


def _analyze(chosen: argparse.Namespace) -> int:
    if chosen.picture and chosen.picture.suffix.lower() not in PICTURES:
        raise InvalidInput(f"--picture {chosen.picture}; the name must end in {', '.join(PICTURES)}")

    from tipslib.analysis import analyze
    from tipslib.factory import network_of, shape_of
    from tipslib.records import write_atomically

    shape = shape_of(chosen.input)
    asked = {name: getattr(chosen, name) for name in ("subnetworks", "coupling", "restart", "seed", "leaves")}
    result = analyze(network_of(chosen.network), shape, **asked)
    print(result.table())
    if chosen.json:
        write_atomically(chosen.json, (json.dumps(result.to_json(), indent=1) + "\n").encode())
    if chosen.picture:
        write_atomically(chosen.picture, _image(result.draw(), chosen.picture.suffix.lower()))
    return 0


def _image(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix.removeprefix("."), bbox_inches="tight")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
