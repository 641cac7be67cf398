"""How does a subnetwork get onto a device without PyTorch? As an ONNX file, checked against the original before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tipslib.anytime.elastic import Supernet
from tipslib.anytime.layers import Statistics
from tipslib.errors import TracingError
from tipslib.records import write_atomically

AGREEMENT = 1e-4
"""The largest difference of a logit that counts as rounding, relative to the largest logit."""

CHECKED = 2
"""Random images on which the file is compared with the network."""


def export_onnx(net: Supernet, widths: Sequence[int], path: Path, statistics: Statistics | None = None) -> float:
    """Write one width configuration as an ONNX file, from `images` (batch, C, H, W) to `logits` (batch, classes), any batch size.

    onnxruntime runs it on random images first; only a file that answers like the network is written.

    Parameters
    ----------
    net
        The supernet, left as it is; what is written evaluates, in its own small weights.
    widths, statistics
        As for `Supernet.set_width`.
    path
        Where to; an older file is replaced.

    Returns
    -------
    float
        The largest difference between a logit of onnxruntime and of PyTorch, relative to the largest logit.

    Raises
    ------
    InvalidInput
        Widths outside the space, or statistics of other batch norms.
    TracingError
        `torch.onnx` cannot express the network, or the file would compute something else.
    StorageError
        The folder cannot be written.
    """
    net.configure(widths, statistics)
    plain = net.export(widths, statistics).cpu().eval().requires_grad_(False)
    images = torch.rand(CHECKED, *net.input_shape, generator=torch.Generator().manual_seed(0))
    content = _translated(plain, images)
    difference = _difference(content, plain, images)
    if not difference <= AGREEMENT:
        raise TracingError(
            f"the ONNX file computes something else than the network: logits differ by {difference:.1e} of the largest. Nothing was written"
        )
    write_atomically(path, content)
    return difference


def _translated(plain: torch.nn.Module, images: torch.Tensor) -> bytes:
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.onnx.export(
            plain, (images,), dynamo=True, input_names=["images"], output_names=["logits"], dynamic_shapes=shapes, verbose=False
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise TracingError(f"{type(plain).__name__} has no form in ONNX: {type(error).__name__}: {reason}") from error
    assert program is not None
    model = program.model_proto
    # where each node came from, with the paths of this machine
    for part in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
        model.graph,
    ):
        del part.metadata_props[:]
    return bytes(model.SerializeToString())


def _difference(content: bytes, plain: torch.nn.Module, images: torch.Tensor) -> float:
    """Of the logits of both, relative to the largest."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.inference_mode():
        wanted = plain(images)
    return float((found - wanted).abs().max() / wanted.abs().max())
