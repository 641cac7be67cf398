"""Which experiments are there, and how is one run? Parameters in, a Record out; a record that exists is not computed again."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from tipslib import parameters, project
from tipslib.errors import CorruptFile, InvalidInput
from tipslib.profiles import Cell, Profile, get_profile
from tipslib.progress import track
from tipslib.records import Outcome, Record, Run, Store, read

log = logging.getLogger(__name__)

EXPERIMENTS: Mapping[str, str] = {
    "walkthrough": "the analysis on the toy supernet, two blocks and MobileNet-v2 (TIPS Figs. 2, 9, 10, 11)",
    "proposition": "TPS against mean singular values on deep MLPs (TIPS Figs. 3, 5a)",
    "stability": "spread of TPS against the number of subnetworks (TIPS Fig. 6)",
    "coupling": "TPS against the coupling strength lambda (TIPS Fig. 7)",
    "pruning": "accuracy when one operation at a time loses channels, important or not (TIPS Figs. 4, 8)",
    "fronts": "supernets by nine strategies of training, and their fronts of accuracy and MACs (TIPS Figs. 1, 5b, 5c, Tables 1, 2, 4-6)",
    "latency": "accuracy against latency on the machine at hand, in place, alone and as ONNX (TIPS Table 3)",
    "switching": "time and storage of switching subnetworks, and a budget that is followed (TIPS Algorithm 2, B.8)",
    "costs": "what the trainings of a profile cost, and Step 1 beside them (TIPS Sec. 3.5)",
    "weights": "sixteen exit weightings: probes, class separation, inference modes (progressive intelligence Table 1, Figs. 1, 2, 4)",
    "similarity": "CKA of plain and branched networks, layer by layer (progressive intelligence Fig. 3)",
    "backbones": "inference modes for widths, depths and numbers of exits (progressive intelligence Fig. 4)",
    "agreement": "entropic mutual agreement against the entropy rule (progressive intelligence Fig. 5)",
}


class Experiment(Protocol):
    """What a module `tipslib.experiments.<name>` defines.

    `VERSION` is raised by hand whenever a change of the code changes results; `Parameters` is a frozen dataclass whose defaults are
    the paper's; `run` is deterministic in its arguments; `TOLERANCE` is the relative difference within which a repeated run agrees.
    A module may also name `VARIANTS`, the overrides of the runs that its artefacts are made of; without it there is one, the default.
    And `needs(parameters, *, seed, profile)`, the runs of other experiments whose records it reads; without it there are none. Where
    networks are trained in epochs, `Parameters.trainings(seed)` says which; runs for which it says the same share one training.
    """

    VERSION: int
    TOLERANCE: float
    Parameters: type

    def run(self, parameters: Any, *, seed: int, profile: Profile) -> Outcome: ...


def get_experiment(name: str) -> Experiment:
    """The module of that name; `InvalidInput` lists the names there are."""
    if name not in EXPERIMENTS:
        raise InvalidInput(f"no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    return importlib.import_module(f"{__name__}.{name}")


def plan(name: str, *, profile: str | Profile = "smoke", seed: int | None = None, **overrides: Any) -> Run:
    """The run that would be made, checked, before any work. `overrides` go before the profile's settings, those before the defaults.

    Of the profile's cells for this experiment the first counts that agrees with `overrides`.

    Raises
    ------
    InvalidInput
        Unknown experiment, profile or parameter, wrong type, impossible value.
    """
    experiment, profile = get_experiment(name), get_profile(profile)
    seed = profile.seeds[0] if seed is None else seed
    if type(seed) is not int or seed < 0:
        raise InvalidInput(f"seed = {seed!r}; a whole number from 0 is wanted")
    cell = next((dict(c.of) | dict(c.settings) for c in profile.cells.get(name, ()) if c.allows(overrides)), {})
    chosen: Any = parameters.parse(experiment.Parameters, dict(profile.settings.get(name, {})) | cell | overrides)
    code = code_version(experiment.VERSION, experiment.__name__, profile)  # type: ignore[attr-defined]
    return Run(name, parameters.to_json(chosen), profile.name, seed, code)


def plan_all(name: str, profile: str | Profile = "smoke") -> list[Run]:
    """Every run that the artefacts of an experiment need at a profile: cells times variants times seeds.

    A variant is left out where it is not meant for the cell, or where the profile does not read its data set.
    """
    profile = get_profile(profile)
    cells = profile.cells.get(name, (Cell({}, {}),))
    each: Sequence[Mapping[str, Any]] = getattr(get_experiment(name), "VARIANTS", ({},))
    variants = [dict(cell.of) | dict(overrides) for cell in cells for overrides in each if cell.allows(overrides)]
    readable = [overrides for overrides in variants if "data" not in overrides or overrides["data"] in profile.datasets]
    return [plan(name, profile=profile, seed=seed, **overrides) for overrides in readable for seed in profile.seeds]


def needs(run: Run, profile: Profile) -> list[Run]:
    """The runs whose records a run reads; it makes those that are not there."""
    experiment: Any = get_experiment(run.experiment)
    if not hasattr(experiment, "needs"):
        return []
    found: list[Run] = experiment.needs(parameters.parse(experiment.Parameters, run.parameters), seed=run.seed, profile=profile)
    return found


def compute(
    name: str, *, profile: str | Profile = "smoke", seeds: Sequence[int] | None = None, store: Store | None = None, **overrides: Any
) -> list[Record]:
    """One record per seed: read where it exists and is whole, computed and written where not.

    Parameters
    ----------
    name, profile
        Experiment and size.
    seeds
        Default: the profile's.
    store
        Default: the profile's own folder.
    overrides
        Parameters that go before the profile's.
    """
    profile = get_profile(profile)
    store = store or Store(profile)
    runs = [plan(name, profile=profile, seed=seed, **overrides) for seed in (profile.seeds if seeds is None else seeds)]
    return [obtain(run, profile, store) for run in track(runs, name)]


def recompute(run: Run, profile: Profile) -> tuple[Outcome, dict[str, Any]]:
    """Run it, whatever is stored; returns the outcome and its provenance."""
    experiment = get_experiment(run.experiment)
    started = time.perf_counter()
    outcome = experiment.run(parameters.parse(experiment.Parameters, run.parameters), seed=run.seed, profile=profile)
    return outcome, _provenance(time.perf_counter() - started)


def obtain(run: Run, profile: Profile, store: Store) -> Record:
    """The stored record of a run; computed and stored now where there is none, or only one that was cut or altered.

    Of the processes that `torchrun` started all compute, and the first stores.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _obtain_together(run, profile, store)
    return _stored(run, store) or store.save(run, *recompute(run, profile))


def _obtain_together(run: Run, profile: Profile, store: Store) -> Record:
    from tipslib import processes  # PyTorch takes a second, and one process alone may not need it

    first = processes.make_fabric().is_global_zero
    record = _stored(run, store)
    if processes.anywhere(record is None):
        made = recompute(run, profile)
        record = store.save(run, *made) if first else None
        processes.anywhere(True)  # nobody reads before the first has written
    return record or read(store.path(run), run)


def _stored(run: Run, store: Store) -> Record | None:
    try:
        return store.find(run)
    except CorruptFile as error:
        log.warning("%s; recomputing it now", error)
        return None


def _provenance(seconds: float) -> dict[str, Any]:
    import torch

    from tipslib.processes import computes_in_bfloat16

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    try:
        git = subprocess.run(["git", "-C", str(project.root()), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        revision = git.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        revision = None
    return {
        "versions": {name: version(name) for name in ("tipslib", "torch", "torchvision", "numpy", "scipy")}
        | {"python": platform.python_version()},
        "device": device if computes_in_bfloat16() else f"{device} without bfloat16",
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision,
    }


def code_version(version: int, module: str, profile: Profile) -> str:
    """What stands for the code in a key: the hand-raised version, and where results are recomputed the digest of the source too."""
    return f"v{version}" if profile.committed else f"v{version}-{source_digest(module)}"


@cache
def source_digest(module: str) -> str:
    """Digest of the syntax trees (comments and layout do not count) of `module` and the tipslib modules it imports, transitively.

    `tipslib.reporting` is left out: it draws what experiments have found, and nothing an experiment returns comes from there.
    """
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and (source := _source(name)) is not None:
            seen[name], imported = source
            waiting += imported if name != __name__ else []
    return hashlib.sha256("".join(f"{n}:{seen[n]}" for n in sorted(seen)).encode()).hexdigest()[:12]


@cache
def _source(module: str) -> tuple[str, list[str]] | None:
    """Syntax tree of a module and the tipslib modules it imports; None if there is no such module."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text())
    found = [name for name in _imports(tree) if name.startswith("tipslib.")]
    return ast.dump(tree), [name for name in found if not f"{name}.".startswith("tipslib.reporting.")]


def _imports(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module, *(f"{node.module}.{a.name}" for a in node.names if _is_module(f"{node.module}.{a.name}"))]
    return names


def _is_module(name: str) -> bool:
    try:
        return name.startswith("tipslib.") and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
