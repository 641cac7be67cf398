"""Is a pruned network the one that a hook would make? Cut by cut, against running the whole network with its channels set to zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import efficientnet_b0, mobilenet_v2, resnet18
from torchvision.models.resnet import BasicBlock

from tipslib.anytime.pruning import Damage, Pruner, channels_left, prune_each
from tipslib.errors import InvalidInput, TracingError
from tipslib.topology import NetworkGraph


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """In double precision, in evaluation mode, with batch norms that do something."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.double().eval()


class Sized(nn.Module):
    """Reads the number of images, uses an in-place sum, a biased convolution with batch norm, a group, and one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block = BasicBlock(8, 8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=False)
        self.sigmoid = nn.Sigmoid()
        self.twice = nn.Conv2d(12, 12, 1)
        self.first, self.second = nn.Linear(12 * 16, 20), nn.Linear(20, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.sigmoid(self.grouped(self.block(self.stem(images))))
        y = self.twice(self.twice(x))
        y += x
        return self.second(torch.relu(self.first(y.view(images.size(0), -1))))


NETWORKS = {
    "sized": (Sized, 8),
    "resnet18": (lambda: resnet18(num_classes=10), 32),
    "mobilenet_v2": (lambda: mobilenet_v2(num_classes=10, width_mult=0.25), 32),
    "efficientnet_b0": (lambda: efficientnet_b0(num_classes=10), 32),
}


def by_hand(module: nn.Module, images: Tensor, name: str, left: int, zeroed: tuple[str, ...] = ()) -> Tensor:
    """The whole network, with the channels of the named call set to zero, and again behind each module in `zeroed`."""
    name, _, call = name.partition(":")
    seen = {"calls": 0}

    def clear(of: nn.Module, inputs: object, output: Tensor) -> Tensor:
        seen["calls"] += of is module.get_submodule(name)
        if of is not module.get_submodule(name) or seen["calls"] == int(call or 1):
            output = output.clone()
            output[:, left:] = 0
        return output

    hooks = [module.get_submodule(part).register_forward_hook(clear) for part in (name, *zeroed)]
    try:
        with torch.no_grad():
            return module(images)  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_cut_is_the_whole_network_with_a_hook(name: str, fold: bool) -> None:
    make, side = NETWORKS[name]
    module = shaken(make())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    pruner = Pruner(module, (3, side, side), fold=fold)
    kept = pruner.kept((0.3, 0.75))
    found = {(o, k): logits for o, k, logits in pruner.logits(images, kept)}
    assert set(found) == {(o, int(k)) for o, row in enumerate(kept) for k in row} | {(-1, 0)}
    torch.testing.assert_close(found.pop((-1, 0)), module(images), rtol=1e-9, atol=1e-12)
    stride = 1 if len(found) < 60 else 5
    for (o, left), logits in list(found.items())[::stride]:
        torch.testing.assert_close(logits, by_hand(module, images, pruner.operations[o].name, left), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items()), "the caller's network is untouched"


@pytest.mark.parametrize("fold", [True, False])
def test_a_feature_map_is_zero_behind_batch_norm_and_activation(fold: bool) -> None:
    module = shaken(mobilenet_v2(num_classes=10, width_mult=0.25))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    pruner = Pruner(module, (3, 32, 32), fold=fold)
    place = {operation.name: i for i, operation in enumerate(pruner.operations)}
    kept = pruner.kept((0.6,))
    found = {o: logits for o, _, logits in pruner.logits(images, kept, "feature map")}
    behind = {
        "features.0.0": ("features.0.1", "features.0.2"),
        "features.2.conv.1.0": ("features.2.conv.1.1", "features.2.conv.1.2"),
        "features.3.conv.2": ("features.3.conv.3",),
        "features.18.0": ("features.18.1", "features.18.2"),
        "classifier.1": (),
    }
    for name, zeroed in behind.items():
        o = place[name]
        by_hook = by_hand(module, images, name, int(kept[o, 0]), zeroed)
        torch.testing.assert_close(found[o], by_hook, rtol=1e-9, atol=1e-12)


def test_the_two_places_differ_where_batch_norm_shifts() -> None:
    module = shaken(resnet18(num_classes=10))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    pruner = Pruner(module, (3, 32, 32))
    kept = pruner.kept((0.5,))
    layer, feature_map = ({o: v for o, _, v in pruner.logits(images, kept, zero)} for zero in ("layer", "feature map"))
    last = len(pruner.operations) - 1
    torch.testing.assert_close(layer[last], feature_map[last])  # no batch norm behind the last linear layer
    assert (layer[0] - feature_map[0]).abs().max() > 1e-3


def test_counts_are_those_of_one_network_after_the_other() -> None:
    module = shaken(Sized())
    pruner = Pruner(module, (3, 8, 8))
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64), torch.randint(10, (n,), generator=generator)) for n in (5, 3)
    ]
    ratios = (0.01, 0.5, 0.99)
    damage = prune_each(pruner, batches, ratios)
    images, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    assert (damage.samples, damage.unpruned) == (8, int((module(images).argmax(1) == labels).sum()))
    assert damage.kept[:, 0].tolist() == [operation.out_channels for operation in pruner.operations], "1 % of so few is no channel"
    assert damage.kept[:, 2].tolist() == [1] * len(pruner.operations)
    for o, operation in enumerate(pruner.operations):
        for r in range(3):
            answers = by_hand(module, images, operation.name, int(damage.kept[o, r]))
            assert damage.correct[o, r] == int((answers.argmax(1) == labels).sum())
    np.testing.assert_allclose(damage.drop, 100 * (damage.unpruned - damage.correct) / 8)
    parts = [pruner.measure(*batch, ratios) for batch in batches]
    np.testing.assert_array_equal((parts[0] + parts[1]).correct, damage.correct)


def test_the_graph_is_the_topology_wings() -> None:
    module = mobilenet_v2(num_classes=10)
    pruner = Pruner(module, (3, 32, 32))
    assert pruner.graph == NetworkGraph.from_module(module, (1, 3, 32, 32))
    assert len(pruner.operations) == 53
    assert {operation.kind for operation in pruner.operations} == {"convolution", "linear"}


def test_only_what_is_still_needed_is_kept() -> None:
    """Behind a cut of a chain of residual blocks one or two feature maps are alive, however deep it is."""
    module = nn.Sequential(*(BasicBlock(4, 4) for _ in range(12)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    pruner = Pruner(module.eval(), (4, 8, 8))
    assert max(len(cut.alive) for cut in pruner._cuts) == 2


def test_the_papers_example() -> None:
    """75 % of 64 channels: 16 to 63 go (TIPS, section 4.3)."""
    assert channels_left(64, 0.75) == 16


@given(st.integers(1, 4096), st.floats(0.001, 0.999))
def test_the_nearest_number_of_channels_stays_and_never_none(channels: int, ratio: float) -> None:
    left = channels_left(channels, ratio)
    assert 1 <= left <= channels
    assert left == 1 or abs(left - (1 - ratio) * channels) <= 0.5 + 1e-6


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_ratios_outside_are_refused(ratio: float) -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        channels_left(8, ratio)


def test_bad_input_is_refused() -> None:
    pruner = Pruner(Sized().double(), (3, 8, 8))
    with pytest.raises(InvalidInput, match="no images"):
        prune_each(pruner, [], (0.5,))
    with pytest.raises(InvalidInput, match="at least one"):
        prune_each(pruner, [(torch.zeros(1, 3, 8, 8), torch.zeros(1))], ())
    with pytest.raises(InvalidInput, match="allowed are 'layer', 'feature map'"):
        list(pruner.logits(torch.zeros(1, 3, 8, 8), pruner.kept((0.5,)), "channel"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="one for each"):
        list(pruner.logits(torch.zeros(1, 3, 8, 8), np.ones((1, 1), dtype=np.int64)))
    with pytest.raises(InvalidInput, match="owns output channels"):
        Pruner(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), (3, 8, 8))


def test_what_cannot_be_traced_is_named() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(TracingError, match="Branching cannot be traced"):
        Pruner(Branching(), (3, 8, 8))


def test_damage_adds_up() -> None:
    one = Damage(np.array([[1]]), np.array([[3]]), 4, 5)
    both = one + one
    assert (both.samples, both.unpruned, both.correct.tolist()) == (10, 8, [[6]])
    assert both.drop.tolist() == [[20.0]]
