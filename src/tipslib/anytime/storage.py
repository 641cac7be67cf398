"""How does an anytime network lie on disk? A few widths as JSON, and one checkpoint that knows which network it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor

from tipslib.anytime.elastic import Supernet
from tipslib.anytime.layers import Statistics
from tipslib.errors import CorruptFile, InvalidInput, unreadable
from tipslib.records import canonical, write_atomically

FORMAT = 1
_ABOUT = "tipslib"
"""The key of safetensors' metadata under which a checkpoint says of which supernet it is."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What stands in the two files besides the weights.

    Attributes
    ----------
    subnetworks
        What the JSON says of each.
    statistics
        Of each, from the checkpoint.
    """

    subnetworks: Sequence[Mapping[str, Any]]
    statistics: Sequence[Statistics | None]


def write(path: Path, net: Supernet, stored: Stored) -> Path:
    """Write the JSON to `path` and the checkpoint beside it; returns the checkpoint's path, which ends in the beginning of its digest."""
    tensors = {f"weights.{name}": value for name, value in net.state_dict().items()}
    for number, statistics in enumerate(stored.statistics):
        pairs = statistics.pairs if statistics is not None else ()
        for norm, pair in enumerate(pairs):
            tensors |= {f"statistics.{number}.{norm}.{kind}": value for kind, value in zip(("mean", "variance"), pair, strict=True)}
    # copies, since safetensors refuses what shares memory, and channels last
    own = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    content = pack(own, {_ABOUT: canonical(_about(net)).decode()})
    digest = hashlib.sha256(content).hexdigest()
    checkpoint = path.with_name(f"{path.stem}-{digest[:12]}.safetensors")
    body = {"format": FORMAT, "checkpoint": checkpoint.name, "sha256 of checkpoint": digest, "subnetworks": list(stored.subnetworks)}
    write_atomically(checkpoint, content)
    write_atomically(path, canonical(body | {"sha256": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n")
    return checkpoint


def read(path: Path, net: Supernet) -> tuple[Stored, dict[str, Tensor]]:
    """What `write` wrote, and the weights for `net.load_state_dict`, all checked against each other and against `net`."""
    body = _body(path)
    try:
        checkpoint = path.with_name(Path(body["checkpoint"]).name)
        wanted, rows = body["sha256 of checkpoint"], list(body["subnetworks"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path}: not the widths of an anytime network ({error}). Save it anew") from error
    content = _content(checkpoint, f", which {path.name} names")
    if hashlib.sha256(content).hexdigest() != wanted:
        raise CorruptFile(
            f"{checkpoint}: not the checkpoint that {path.name} was saved with: it was cut, altered or replaced. Save both anew"
        )
    try:
        tensors = unpack(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"][_ABOUT])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{checkpoint}: no checkpoint of an anytime network ({error}). Save it anew") from error
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    _compare(checkpoint, about, weights, net)
    _refuse_untrained(checkpoint, weights)
    return Stored(rows, [_statistics(checkpoint, tensors, number, len(net.batch_norms)) for number in range(len(rows))]), weights


def _about(net: Supernet) -> dict[str, Any]:
    """What a supernet must share with the one whose weights it is to take, apart from the shapes."""
    return {
        "format": FORMAT,
        "input": list(net.input_shape),
        "layers": {name: type(layer).__name__ for name, layer in net.body.named_modules()},
        "space": {f"dimension {i}, {d.name}": list(d.choices) for i, d in enumerate(net.space.dimensions)},
    }


def _body(path: Path) -> dict[str, Any]:
    content = _content(path)
    try:
        body = json.loads(content)
        claimed = body.pop("sha256")
        whole = claimed == hashlib.sha256(canonical(body)).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFile(f"{path}: not the widths of an anytime network ({type(error).__name__}: {error}). Save it anew") from error
    if not whole:
        raise CorruptFile(f"{path}: the checksum does not fit the content: it was cut or edited. Save it anew")
    if body.get("format") != FORMAT:
        raise CorruptFile(f"{path}: format {body.get('format')!r}; this version reads {FORMAT}. Save it anew")
    return dict(body)


def _content(path: Path, named: str = "") -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ValueError) as error:
        raise CorruptFile(f"{path}: no such file{named}. An anytime network is a JSON and, beside it, the checkpoint it names") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _compare(checkpoint: Path, about: Mapping[str, Any], weights: Mapping[str, Tensor], net: Supernet) -> None:
    """Refuse a checkpoint of another supernet, with the first difference."""
    ours = _about(net)
    if about.keys() != ours.keys() or about["format"] != FORMAT:
        raise CorruptFile(f"{checkpoint}: no checkpoint of format {FORMAT}. Save it anew")
    another = f"{checkpoint}: of another supernet"
    for part, name in (("input", "input"), ("layers", "layer"), ("space", "widths of")):
        if about[part] != ours[part]:
            raise InvalidInput(f"{another}: {name} {_difference(about[part], ours[part])}. Build it as the saved one was")
    shapes = {name: f"{value.dtype} {tuple(value.shape)}" for name, value in weights.items()}
    wanted = {name: f"{value.dtype} {tuple(value.shape)}" for name, value in net.state_dict().items()}
    if shapes != wanted:
        raise InvalidInput(f"{another}: tensor {_difference(shapes, wanted)}. Build it as the saved one was")


def _refuse_untrained(checkpoint: Path, weights: Mapping[str, Tensor]) -> None:
    """Batch norms count the batches they were trained on."""
    counts = [int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")]
    if counts and not any(counts):
        raise InvalidInput(f"{checkpoint}: of an untrained supernet: none of its {len(counts)} batch norms saw a batch. Train it first")


def _difference(stored: Any, ours: Any) -> str:
    if not isinstance(stored, dict) or not isinstance(ours, dict):
        return f"{stored} in the file, {ours} in this one"
    name = next(name for name in [*ours, *stored] if stored.get(name) != ours.get(name))
    return f"{name}: {stored.get(name, 'none')} in the file, {ours.get(name, 'none')} in this one"


def _statistics(checkpoint: Path, tensors: Mapping[str, Tensor], number: int, norms: int) -> Statistics | None:
    """Those of one subnetwork; None if there are none."""
    names = [[f"statistics.{number}.{norm}.{kind}" for kind in ("mean", "variance")] for norm in range(norms)]
    there = [name in tensors for pair in names for name in pair]
    if not any(there):
        return None
    if not all(there):
        raise CorruptFile(f"{checkpoint}: some statistics of subnetwork {number} are missing. Save it anew")
    return Statistics(tuple((tensors[mean], tensors[variance]) for mean, variance in names))
