"""How does a network get early exits? Any traceable backbone is cut where the exits sit, and every exit gets a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import MobileNetV3, mobilenet_v3_small

from tipslib.branched.stages import MISFIT, cut, misfit, mode, probe
from tipslib.errors import require

RESNET_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3)}


class Exit(nn.Sequential):
    """Average pool to k x k, flatten, one linear layer (k = 1: global pooling)."""

    def __init__(self, features: int, size: int, classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(features * size**2, classes))


class BranchedNetwork(nn.Module):
    """A backbone in E stages with an exit after each but the last, whose output is the last exit.

    Stage e takes the values that are alive at its cut, the exit's feature map first, and returns those alive at the next one. So a sample
    that has left is computed no further, wherever an exit sits, inside a residual block too.
    """

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module], input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.input_shape = input_shape

    def forward(self, images: Tensor) -> list[Tensor]:
        """E logits (N, C), cheapest exit first, from (N, ...) images."""
        alive: tuple[Tensor, ...] = (images,)
        logits = []
        for stage, head in zip(self.stages, self.heads, strict=False):
            alive = stage(*alive)
            logits.append(head(alive[0]))
        return [*logits, self.stages[-1](*alive)[0]]

    @torch.no_grad()
    def predict(self, images: Tensor, leaves: Callable[[list[Tensor]], Tensor]) -> tuple[Tensor, Tensor]:
        """Class and exit of each sample; stages behind an exit are computed only for the samples that stay.

        Parameters
        ----------
        images
            (N, ...).
        leaves
            Given the logits (n, C) of every exit so far of the n samples still there, which leave: (n,) booleans.
            `tipslib.branched.exits.leave_when` makes one of a policy and a threshold.

        Returns
        -------
        (N,) classes and (N,) exit indices.

        Raises
        ------
        InvalidInput
            Training mode, or logits that hold NaN or infinity.
        """
        require(not self.training, "predict needs evaluation mode; call .eval() first (batch norm would otherwise depend on who has left)")
        classes = torch.empty(len(images), dtype=torch.long, device=images.device)
        exits = torch.full_like(classes, len(self.stages) - 1)
        here = torch.arange(len(images), device=images.device)
        alive: tuple[Tensor, ...] = (images,)
        seen: list[Tensor] = []
        for e, stage in enumerate(self.stages):
            if len(here) == 0:
                break
            alive = stage(*alive)
            seen.append(alive[0] if e == len(self.heads) else self.heads[e](alive[0]))
            require(bool(torch.isfinite(seen[-1]).all()), f"the logits of exit {e} hold NaN or infinity: are all images finite?")
            if e == len(self.heads):
                classes[here] = seen[-1].argmax(1)
                break
            go = leaves(seen)
            fits = go.dtype == torch.bool and go.shape == here.shape
            require(fits, f"`leaves` gave {go.dtype} {tuple(go.shape)}; one boolean for each of {len(here)} samples is wanted")
            classes[here[go]], exits[here[go]] = seen[-1][go].argmax(1), e
            if bool(go.any()):
                here, alive, seen = here[~go], tuple(v[~go] for v in alive), [s[~go] for s in seen]
        return classes, exits

    def macs(self, input_shape: Sequence[int] | None = None) -> tuple[int, ...]:
        """Multiply-accumulates of one image up to each exit, every exit on the way included: E rising integers.

        Convolutions and linear layers count; `input_shape` is (C, H, W), by default that the exits were made for.
        """
        shape = tuple(input_shape or self.input_shape)
        weights = next(self.parameters())
        totals: list[int] = []
        try:
            alive: tuple[Tensor, ...] = (torch.zeros(1, *shape, device=weights.device, dtype=weights.dtype),)
            with torch.no_grad(), mode(self, training=False):
                for e, stage in enumerate(self.stages):
                    with FlopCounterMode(display=False) as counter:
                        alive = stage(*alive)
                        if e < len(self.heads):
                            self.heads[e](alive[0])
                    totals.append((totals[-1] if totals else 0) + counter.get_total_flops() // 2)
        except MISFIT as error:
            raise misfit(shape, error) from error
        return tuple(totals)


def add_exits(
    module: nn.Module,
    at: Sequence[str],
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    pool: int | Sequence[int] = 1,
) -> BranchedNetwork:
    """Give a network early exits; its weights are shared with `module`, not copied, and its device and type are theirs too.

    Training and evaluation mode mean to the result what they mean to `module`, for calls such as `F.dropout(x, 0.5, self.training)` too.

    Parameters
    ----------
    module
        Any `torch.fx`-traceable network whose output is (N, C).
    at
        Where the exits sit, in order: names of submodules (after their last call) such as "layer1" or "features.3".
    input_shape
        (C, H, W) of one input.
    pool
        k of each exit's k x k average pooling, one for all or one an exit.

    Raises
    ------
    TracingError
        The network cannot be traced, or computes something else in training than in evaluation.
    InvalidInput
        A position that does not exist, is out of order or has no (N, C, H, W) feature map; an output that is not one tensor (N, C);
        an input shape that does not fit.
    """
    require(len(at) > 0, "no exit positions; name at least one submodule in `at`")
    sizes = [pool] * len(at) if isinstance(pool, int) else list(pool)
    require(len(sizes) == len(at), f"{len(sizes)} pool sizes for {len(at)} exits; give one for all or one an exit")
    require(all(type(size) is int and size >= 1 for size in sizes), f"pool = {pool}; whole numbers from 1 are wanted")
    stages = cut(module, at)
    like = next(module.parameters(), torch.zeros(()))
    with mode(nn.ModuleList(stages), training=False):
        shapes = probe(stages, at, input_shape, like)
    require(len(shapes[-1]) == 2 and shapes[-1][0] == 2, f"the network's output for a batch of 2 is {shapes[-1]}; (N, C) is wanted")
    for name, shape in zip(at, shapes, strict=False):
        require(len(shape) == 4, f"the output of {name!r} has shape {shape}; an exit needs a feature map (N, C, H, W)")
    heads = [Exit(shape[1], size, shapes[-1][1]).to(like) for shape, size in zip(shapes, sizes, strict=False)]
    net = BranchedNetwork(stages, heads, tuple(input_shape))
    net.training = module.training
    return net


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with a ReLU module of its own after each convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        summed: Tensor = self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))
        return summed


def resnet(depth: int, classes: int, width: float = 1.0, channels: int = 3) -> nn.Sequential:
    """ResNet of basic blocks for 32 px images: 3x3 stem without pooling, four groups of blocks, global pooling, linear.

    Depths 10, 18, 34 and 50 are [1,1,1,1], [2,2,2,2], [3,4,6,3] and [3,4,14,3] blocks; channels are `width` times 64, 128, 256, 512.
    """
    require(depth in RESNET_BLOCKS, f"no ResNet of depth {depth}; there are {', '.join(map(str, RESNET_BLOCKS))}")
    require(classes >= 2, f"classes = {classes}; at least 2 are wanted")
    require(math.isfinite(width) and round(64 * width) >= 1, f"width = {width}; at least one channel is wanted (width >= {1 / 64})")
    widths = [round(base * width) for base in (64, 128, 256, 512)]
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()))
    inputs = widths[0]
    for group, (blocks, outputs) in enumerate(zip(RESNET_BLOCKS[depth], widths, strict=True)):
        layers = [BasicBlock(inputs if b == 0 else outputs, outputs, 2 if group > 0 and b == 0 else 1) for b in range(blocks)]
        net.add_module(f"layer{group + 1}", nn.Sequential(*layers))
        inputs = outputs
    net.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("classifier", nn.Linear(inputs, classes))
    return net


def convolutions(net: nn.Module) -> list[str]:
    """Names of the ReLU modules behind the main convolutions of a `resnet`, in order: 16 for depth 18."""
    return [name for name, m in net.named_modules() if isinstance(m, nn.ReLU) and not name.startswith("stem")]


def branched_resnet(
    depth: int = 18, *, classes: int = 10, width: float = 1.0, exits: int = 4, input_shape: Sequence[int] = (3, 32, 32)
) -> BranchedNetwork:
    """ResNet with `exits` exits, the network's own output included.

    Four exits sit after layer1, layer2 and layer3 and pool to 8, 4 and 2 pixels (progressive intelligence, section 3); other numbers sit
    at equal distances over the main convolutions and pool globally (Fig. 4, bottom right).
    """
    net = resnet(depth, classes, width, input_shape[0])
    places = convolutions(net)
    require(2 <= exits <= len(places), f"exits = {exits}; allowed are 2 to {len(places)} at depth {depth}")
    if exits == 4:
        return add_exits(net, ["layer1", "layer2", "layer3"], input_shape=input_shape, pool=(8, 4, 2))
    steps = [e * (len(places) - 1) // exits for e in range(1, exits)]
    return add_exits(net, [places[i] for i in steps], input_shape=input_shape)


def mobilenet(classes: int, width: float = 1.0) -> MobileNetV3:
    """MobileNetV3-Small for 32 px images: stem and first block of stride 1, batch norm with torch's own momentum.

    Those three are what the code released with progressive intelligence changes for CIFAR; torchvision's momentum of .01 needs hundreds
    of steps before evaluation mode means anything.
    """
    require(classes >= 2, f"classes = {classes}; at least 2 are wanted")
    require(0 < width < math.inf, f"width = {width}; it must be above 0 and finite")
    net = mobilenet_v3_small(weights=None, num_classes=classes, width_mult=width)
    for module in net.features[:2].modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return net


MOBILENET_EXITS = (3, 6, 10)
"""The feature blocks that the exits of `branched_mobilenet` sit behind."""


def branched_mobilenet(*, classes: int = 10, width: float = 1.0, input_shape: Sequence[int] = (3, 32, 32)) -> BranchedNetwork:
    """`mobilenet` with exits after feature blocks 3, 6 and 10, each pooled to 8 x 8, and its output."""
    net = mobilenet(classes, width)
    return add_exits(net, [f"features.{block}" for block in MOBILENET_EXITS], input_shape=input_shape, pool=8)
