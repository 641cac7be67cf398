"""What does each layer put out? Activations of named modules, taken by hooks while the network runs as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from tipslib.errors import InvalidInput, require


def probed_layers(net: nn.Module) -> list[str]:
    """Names of the layers the papers probe, in order: every ReLU and the global average pooling, without those of the exits.

    For `branched_resnet(18)` and `resnet(18)` these are 18: the stem, the 16 convolutions, the pooling.
    """
    kinds = (nn.ReLU, nn.AdaptiveAvgPool2d)
    return [name for name, m in net.named_modules() if isinstance(m, kinds) and not name.startswith("heads.")]


class Outputs(dict[str, Tensor]):
    """Layer name to its latest output; a layer that was never called is an error that says so."""

    def __missing__(self, name: str) -> Tensor:
        raise InvalidInput(
            f"layer {name!r} has put out nothing: the forward pass does not call it. `probed_layers(net)` lists some it does"
        )


@contextmanager
def recording(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the context, each forward pass fills the dictionary with the detached outputs of the named modules.

    Raises
    ------
    InvalidInput
        A name that is no module of the network, or none at all; within the context, a module that does not put out one tensor, and
        asking for one that the forward pass does not call.
    """
    modules = dict(net.named_modules())
    require(len(names) > 0, "no layers named; `probed_layers(net)` lists those the papers probe")
    for name in names:
        require(
            name in modules, f"no layer {name!r}; `probed_layers(net)` lists those the papers probe, `net.named_modules()` all there are"
        )
    outputs = Outputs()

    def keep(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise InvalidInput(f"layer {name!r} puts out a {type(output).__name__}; one tensor is wanted: name a layer inside it")
            outputs[name] = output.detach()

        return modules[name].register_forward_hook(hook)

    handles = [keep(name) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
