"""How does Once-for-all train a supernet? In phases: the full network, its channels sorted, then ever smaller expansion ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from tipslib import processes
from tipslib.anytime.distillation import Batch, Phase, Strategy, Teacher, Widths, spread_epochs
from tipslib.anytime.elastic import Supernet
from tipslib.anytime.layers import Elastic, ElasticBatchNorm2d, ElasticConv2d
from tipslib.errors import require

RATIOS = (6, 4, 3)
"""Expansion ratios; the first is that of the full network."""

LENGTHS = (180, 25, 120)
"""Epochs of the phases in the publication (full network) and the released code (expansion ratios)."""


class OFA(Strategy):
    """The full network alone, then four subnetworks a step of expansion ratios {6, 4}, then {6, 4, 3}, taught by the full one as it was.

    Source: Cai et al., "Once-for-All", ICLR 2020; released code mit-han-lab/once-for-all; compared with TIPS in TIPS, Table 6 and B.7,
    where only the supernet (MobileNet-v2 x1.4) and the sum of 150 epochs are given. Here kernels stay 3 and depth is fixed, as TIPS
    varies neither. After the first phase the full network is copied and is the teacher of all others: their loss is the cross-entropy
    with labels smoothed by 0.1 plus the soft cross-entropy to the teacher, whose batch norms use each batch's statistics, as in the
    code. Before each of the others, the hidden channels of every inverted residual are sorted by the L1 norm of the projection's
    weights, within those that the smaller ratios already share. Every inverted residual draws its own ratio; the block's outputs stay
    full. A ratio means that part of the six-fold hidden channels, to the nearest choice of the supernet's space.

    Our choices, where the papers are silent: the released lengths 180, 25 and 120 epochs are scaled to the run, so 150 become 83, 12 and
    55; each phase has the learning rate and schedule of the whole run (their rates are, at batch 512, 0.65, 0.02 and 0.06, of which TIPS
    uses 0.04 throughout). The first phase makes one pass a step, the others four. Their recipe: SGD, Nesterov momentum 0.9, cosine, weight
    decay 3e-5 except on batch norm and biases; statistics are recalibrated on 2000 images for each width that is evaluated.

    Raises
    ------
    InvalidInput
        The supernet has no inverted residuals (a ResNet has none): without expansion ratios there is nothing to draw.
    """

    name = "OFA"
    label_smoothing = 0.1
    PASSES: ClassVar[int] = 4

    def __init__(self, net: Supernet, *, seed: int = 0, held_out: Sequence[Batch] = ()) -> None:
        super().__init__(net, seed=seed, held_out=held_out)
        self.blocks = inverted_residuals(net)
        require(
            bool(self.blocks),
            "OFA draws expansion ratios, and this supernet has no inverted residuals (expansion, depthwise convolution, projection). "
            "Use a MobileNet-v2, or another strategy",
        )
        self._teacher: Teacher | None = None
        self._ratios: tuple[int, ...] = RATIOS[:1]

    def phases(self, epochs: int, steps: int) -> tuple[Phase, ...]:
        """Three, with the ratios (6), (6, 4) and (6, 4, 3)."""
        lengths = spread_epochs(epochs, LENGTHS)
        return tuple(Phase(f"{length}-ratios", lengths[length - 1], lambda n=length: self.begin(n)) for length in (1, 2, 3))  # type: ignore[misc]

    def begin(self, ratios: int) -> None:
        """Turn to the phase with so many expansion ratios; what the earlier ones left is in the supernet.

        Raises
        ------
        InvalidInput
            A later phase without the second, whose beginning makes the teacher.
        """
        self._ratios = RATIOS[:ratios]
        if ratios == 1:
            return
        if ratios == 2:
            self._teacher = Teacher(self.net)
        require(self._teacher is not None, "OFA's phases go in order: the teacher is copied where the second begins")
        for block in self.blocks:
            hidden = block.projection.in_channels
            # channels that the ratios so far share must stay in front of the others
            bounds = [self.widths([ratio] * len(self.blocks))[block.dimension] for ratio in RATIOS[1 : ratios - 1]]
            block.sort((*bounds, hidden))

    def widths(self, ratios: Sequence[int]) -> Widths:
        """The configuration with one expansion ratio for each inverted residual."""
        parts = [1.0] * len(self.net.space)
        for block, ratio in zip(self.blocks, ratios, strict=True):
            parts[block.dimension] = ratio / RATIOS[0]
        return self.net.space.at(parts)

    def _passes(self, images: Tensor, labels: Tensor, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        if len(self._ratios) == 1:
            return self._full_pass(images, labels, step, backward)[1]
        assert self._teacher is not None
        target = self._teacher.probabilities(self.net.space.largest, images)
        generator = self._generator(step, stream=len(self._ratios))
        drawn = torch.randint(len(self._ratios), (self.PASSES, len(self.blocks)), generator=generator).tolist()
        losses, plain = [], []
        for row in drawn:
            logits = self._logits(self.widths([self._ratios[i] for i in row]), images)
            loss = self._hard(logits, labels) + F.cross_entropy(logits, target)
            backward(loss)
            losses.append(loss.detach())
            plain.append(F.cross_entropy(logits.detach(), labels))
        if self.curve is not None:
            self.curve[step] = processes.mean(torch.stack(plain).mean())
        return torch.stack(losses).sum()

    def state_dict(self) -> dict[str, Any]:
        """The phase, too; the teacher is what the first phase's checkpoint holds."""
        return super().state_dict() | {"ratios": len(self._ratios)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        there = state["ratios"] == len(self._ratios)
        require(there, f"the checkpoint is of the phase with {state['ratios']} ratios, and this is the one with {len(self._ratios)}")


@dataclass(frozen=True, eq=False)
class InvertedResidual:
    """Expansion, depthwise convolution and projection with nothing else in between that has channels.

    Attributes
    ----------
    dimension
        Of the supernet's space: the hidden channels.
    producers
        What has one row of parameters a hidden channel: expansion, depthwise convolution and their batch norms.
    projection
        The convolution whose inputs the hidden channels are.
    """

    dimension: int
    producers: tuple[nn.Module, ...]
    projection: ElasticConv2d

    @torch.no_grad()
    def sort(self, bounds: Sequence[int]) -> None:
        """Order the hidden channels by the L1 norm of the projection's weights, descending; the full network's function stays.

        Parameters
        ----------
        bounds
            Ascending, the last is the number of channels: only those up to the first are exchanged with each other, then those up to
            the second, and so on.
        """
        norms = self.projection.weight.abs().sum((0, 2, 3))
        parts, start = [], 0
        for end in bounds:
            parts.append(start + norms[start:end].argsort(descending=True, stable=True))
            start = end
        order = torch.cat(parts)
        for module in self.producers:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.ndim:
                    tensor.copy_(tensor[order])
        self.projection.weight.copy_(self.projection.weight[:, order])


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Elastic) or super().is_leaf_module(m, module_qualified_name)


def inverted_residuals(net: Supernet) -> tuple[InvertedResidual, ...]:
    """Those of a supernet whose hidden channels are a dimension of their own, in the order they run."""
    tracer = _Tracer()
    nodes = tracer.trace(net.body).nodes
    modules = dict(net.body.named_modules())
    found = []
    for node in nodes:
        layer = _module(node, modules)
        if not (isinstance(layer, ElasticConv2d) and layer.groups == layer.in_channels == layer.out_channels > 1):
            continue
        before = _walk(node, modules, lambda n: n.all_input_nodes)
        after = _walk(node, modules, lambda n: list(n.users))
        if before is None or after is None:
            continue
        expansion, projection = before[-1], after[-1]
        if not isinstance(expansion, ElasticConv2d) or not isinstance(projection, ElasticConv2d) or expansion.slot is None:
            continue
        owned = tuple(m for m in (*before, layer, *after[:-1]) if isinstance(m, (ElasticConv2d, ElasticBatchNorm2d)))
        found.append(InvertedResidual(expansion.slot, owned, projection))
    return tuple(found)


def _module(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def _walk(node: fx.Node, modules: Mapping[str, nn.Module], neighbours: Callable[[fx.Node], Sequence[fx.Node]]) -> list[nn.Module] | None:
    """Modules from a depthwise convolution on to the next 1x1 convolution.

    None if the way forks or meets anything but norms and activations.
    """
    passed: list[nn.Module] = []
    while True:
        near = neighbours(node)
        if len(near) != 1 or len(near[0].all_input_nodes) != 1:
            return None
        if len((node if near[0] in node.users else near[0]).users) != 1:
            return None
        node = near[0]
        module = _module(node, modules)
        if module is None:
            return None
        passed.append(module)
        if isinstance(module, ElasticConv2d):
            return passed if module.groups == 1 and module.kernel_size == (1, 1) else None
        activation = type(module).__module__ == nn.ReLU.__module__ and not list(module.parameters())
        if not activation and not isinstance(module, (ElasticBatchNorm2d, nn.Identity, nn.Dropout)):
            return None
