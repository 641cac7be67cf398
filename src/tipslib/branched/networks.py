"""How does a network get early exits? Any traceable backbone is cut where the exits sit; each piece carries on what later pieces need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import MobileNetV3, mobilenet_v3_small

from tipslib.errors import InvalidInput, TracingError, require

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
            if e == len(self.stages) - 1:
                classes[here] = alive[0].argmax(1)
                break
            seen.append(self.heads[e](alive[0]))
            go = leaves(seen)
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
        training = self.training
        self.eval()
        try:
            alive: tuple[Tensor, ...] = (torch.zeros(1, *shape, device=weights.device, dtype=weights.dtype),)
            totals: list[int] = []
            with torch.no_grad():
                for e, stage in enumerate(self.stages):
                    with FlopCounterMode(display=False) as counter:
                        alive = stage(*alive)
                        if e < len(self.heads):
                            self.heads[e](alive[0])
                    totals.append((totals[-1] if totals else 0) + counter.get_total_flops() // 2)
        finally:
            self.train(training)
        return tuple(totals)


def add_exits(
    module: nn.Module,
    at: Sequence[str],
    *,
    classes: int | None = None,
    input_shape: Sequence[int] = (3, 32, 32),
    pool: int | Sequence[int] = 1,
) -> BranchedNetwork:
    """Give a network early exits; its weights are shared with `module`, not copied.

    Parameters
    ----------
    module
        Any `torch.fx`-traceable network whose output is (N, C).
    at
        Where the exits sit, in order: names of submodules (after their last call) such as "layer1" or "features.3".
    classes
        C of the exits; default: that of the network's output.
    input_shape
        (C, H, W) of one input.
    pool
        k of each exit's k x k average pooling, one for all or one an exit.

    Raises
    ------
    TracingError
        The network cannot be traced.
    InvalidInput
        A position that does not exist, is out of order or has no (N, C, H, W) feature map; an output that is not (N, C).
    """
    require(len(at) > 0, "no exit positions; name at least one submodule in `at`")
    sizes = [pool] * len(at) if isinstance(pool, int) else list(pool)
    require(len(sizes) == len(at), f"{len(sizes)} pool sizes for {len(at)} exits; give one for all or one an exit")
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        where = f"{type(module).__name__}: {type(error).__name__}: {error}"
        raise TracingError(f"cannot trace {where}. Replace control flow that depends on data, or wrap it in a module of its own") from error
    nodes = list(traced.graph.nodes)
    cuts = [_position(nodes, name, module) for name in at]
    require(cuts == sorted(set(cuts)), f"exits at {', '.join(at)} are not in the order of computation, or one is named twice")
    stages = _split(traced, nodes, cuts)

    alive: tuple[Tensor, ...] = (torch.zeros(2, *input_shape),)
    heads: list[nn.Module] = []
    training = module.training
    module.eval()
    with torch.no_grad():
        shapes = []
        for stage in stages:
            alive = stage.eval()(*alive)
            shapes.append(tuple(alive[0].shape))
    for stage in stages:
        stage.train(training)
    module.train(training)
    require(len(shapes[-1]) == 2 and shapes[-1][0] == 2, f"the network's output for a batch of 2 is {shapes[-1]}; (N, C) is wanted")
    for name, shape, size in zip(at, shapes, sizes, strict=False):
        require(len(shape) == 4, f"the output of {name!r} has shape {shape}; an exit needs a feature map (N, C, H, W)")
        heads.append(Exit(shape[1], size, classes or shapes[-1][1]))
    return BranchedNetwork(stages, heads, tuple(input_shape))


def _position(nodes: Sequence[fx.Node], name: str, module: nn.Module) -> int:
    """Index of the last node computed inside the submodule `name`."""
    inside = [
        i
        for i, node in enumerate(nodes)
        if node.op != "output" and any(name == path for path, _ in node.meta.get("nn_module_stack", {}).values())
    ]
    if not inside:
        named = [n for n, _ in module.named_modules() if n and n.count(".") <= 1]
        raise InvalidInput(f"no exit position {name!r}; there are {', '.join(named[:40])}{' ...' if len(named) > 40 else ''}")
    return inside[-1]


def _split(traced: fx.GraphModule, nodes: Sequence[fx.Node], cuts: Sequence[int]) -> list[fx.GraphModule]:
    """One module per stretch between cuts: live values in, live values out, the value at the cut first."""
    order = {node: i for i, node in enumerate(nodes)}
    output = nodes[-1]
    bounds = [*cuts, order[output] - 1]
    stages, entering, start = [], [n for n in nodes if n.op == "placeholder"], 0
    require(len(entering) == 1, f"the network takes {len(entering)} inputs; exits need exactly one")
    for e, bound in enumerate(bounds):
        if e < len(cuts):
            live = [n for n in nodes[: bound + 1] if any(order[user] > bound for user in n.users)]
            leaving = [nodes[bound], *(n for n in live if n is not nodes[bound])]
        else:
            leaving = list(output.all_input_nodes)
        graph = fx.Graph()
        copies = {n: graph.placeholder(n.name) for n in entering}
        for node in nodes[start : bound + 1]:
            if node.op != "placeholder":
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[n] for n in leaving))
        graph.lint()
        stages.append(fx.GraphModule(traced, graph))
        entering, start = leaving, bound + 1
    return stages


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
    require(round(64 * width) >= 1, f"width = {width}; at least one channel is wanted (width >= {1 / 64})")
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
    require(width > 0, f"width = {width}; it must be above 0")
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
