"""Are these the papers' supernets? Against torchvision, the costs TIPS prints, and the networks of its released code, rebuilt here."""

import csv
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tipslib.anytime import make_elastic, mobilenet_v2_supernet, resnet18_supernet, resnet34_supernet
from tipslib.errors import InvalidInput

PUBLISHED = Path(__file__).parents[2] / "data" / "published"


def largest_budget(table, dataset):
    """MACs of the full network, as printed."""
    with (PUBLISHED / f"tips-{table}.csv").open(newline="") as file:
        return max(int(row["budget_macs"]) for row in csv.DictReader(file) if row["dataset"] == dataset)


def counted(net, side):
    """MACs by PyTorch's own counter."""
    net = net.to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() // 2


def elements(net, kind, side):
    """Numbers that leave modules of a kind, for one image."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += output.numel()

    for module in net.modules():
        if isinstance(module, kind):
            module.register_forward_hook(count)
    net.to("meta").eval()(torch.empty(1, 3, side, side, device="meta"))
    return total


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: mobilenet_v2_supernet(1.4, 224, 50), lambda: torchvision.models.mobilenet_v2(width_mult=1.4, num_classes=50)),
        (lambda: resnet34_supernet(1.0, 224, 50), lambda: torchvision.models.resnet34(num_classes=50)),
        (lambda: resnet18_supernet(1.0, 224, 50), lambda: torchvision.models.resnet18(num_classes=50)),
    ],
)
def test_the_full_network_is_torchvisions(ours, theirs):
    net, reference = ours().eval(), theirs().eval()
    reference.load_state_dict(net.export().state_dict())
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net(images), reference(images))


@pytest.mark.parametrize(
    ("make", "side", "classes", "millions", "table", "dataset", "apart"),
    [
        (mobilenet_v2_supernet, 224, 1000, 582.2, "table1", "ImageNet", 0.04),
        (mobilenet_v2_supernet, 64, 200, 189.9, "table1", "Tiny-ImageNet", 0.06),
        (mobilenet_v2_supernet, 32, 100, 47.6, "table1", "CIFAR100", 0.06),
        (resnet34_supernet, 224, 1000, 3663.8, "table2", "ImageNet", 0.02),
        (resnet34_supernet, 64, 200, 299.1, "table2", "Tiny-ImageNet", 0.01),
        (resnet34_supernet, 32, 100, 299.1, "table2", "CIFAR100", 0.16),  # which stem the paper has there is not known
    ],
)
def test_full_networks_cost_about_what_is_printed(make, side, classes, millions, table, dataset, apart):
    net = make(width=1.4 if make is mobilenet_v2_supernet else 1.0, resolution=side, classes=classes)
    assert net.macs() == counted(net.export(), side)
    assert net.macs() / 1e6 == pytest.approx(millions, abs=0.05)
    assert net.macs() == pytest.approx(largest_budget(table, dataset), rel=apart)


def test_the_printed_600_million_of_mobilenet_count_two_operations_for_each_number_a_batch_norm_makes():
    net = mobilenet_v2_supernet(1.4, 224, 1000)
    with_norms = net.macs() + 2 * elements(net.export(), nn.BatchNorm2d, 224)
    assert round(with_norms / 1e6) == 601


# The networks of the released code: not ours, but what its ranges of channels and the paper's end points are of.

MOBILENET = {  # stem and stages; without the floor, with it, full
    "none": (16, (14, 16, 18, 28, 45, 55, 97)),
    "tips": (16, (19, 24, 33, 58, 84, 133, 266)),
    "full": (48, (24, 32, 48, 88, 136, 224, 448)),
}
RESNET = {
    "none": (24, (28, 56, 61, 135)),
    "tips": (24, (46, 92, 152, 317)),
    "full": (64, (64, 128, 256, 512)),
}


def whole_eights(channels):
    """The nearest multiple of 8 as the code of the MobileNets has it: at least 8, and never below 90 % of what is asked."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Block(nn.Module):
    def __init__(self, layers, residual):
        super().__init__()
        self.layers, self.residual = nn.ModuleDict(layers), residual

    def forward(self, x):
        before = x
        for layer in self.layers.values():
            x = layer(x)
        return before + x if self.residual else x


class Released(nn.Module):
    """Stem, blocks, perhaps a head, classifier; the first block of a stage has no shortcut."""

    def __init__(self, stem, blocks, head, features):
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(features, 1000)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.pool(self.head(x)).flatten(1))


def released_mobilenet():
    """With the name of each dimension -> its width, for each configuration above."""
    stem, stages = MOBILENET["full"]
    blocks, widths, inputs = [], {name: {"stem": MOBILENET[name][0]} for name in MOBILENET}, stem
    for stage, (count, stride) in enumerate(zip((1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 2, 1, 2, 1), strict=True)):
        for i in range(count):
            ratio = 1 if stage == 0 else 6
            hidden, number = whole_eights(ratio * inputs), len(blocks)
            layers = {
                "expand": nn.Conv2d(inputs, hidden, 1, bias=False),
                "depthwise": nn.Conv2d(hidden, hidden, 3, stride if i == 0 else 1, 1, groups=hidden, bias=False),
                "project": nn.Conv2d(hidden, stages[stage], 1, bias=False),
            }
            blocks.append(Block(layers, residual=i > 0))
            inputs = stages[stage]
            for name, (first, lows) in MOBILENET.items():
                before = first if stage == 0 else lows[stage - 1] if i == 0 else lows[stage]
                widths[name][f"blocks.{number}.layers.expand"] = whole_eights(ratio * before)
                if i == 0:
                    widths[name][f"blocks.{number}.layers.project"] = lows[stage]
    head = nn.Conv2d(stages[-1], 1280, 1, bias=False)
    return Released(nn.Conv2d(3, stem, 3, 2, 1, bias=False), blocks, head, 1280), widths


def released_resnet():
    stem, stages = RESNET["full"]
    blocks, widths, inputs = [], {name: {"stem": RESNET[name][0]} for name in RESNET}, stem
    for stage, count in enumerate((3, 4, 6, 3)):
        for i in range(count):
            number, outputs = len(blocks), stages[stage]
            layers = {
                "first": nn.Conv2d(inputs, outputs, 3, 2 if i == 0 else 1, 1, bias=False),
                "second": nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            }
            blocks.append(Block(layers, residual=i > 0))
            inputs = outputs
            for name, (_, lows) in RESNET.items():
                widths[name][f"blocks.{number}.layers.first"] = lows[stage]
                if i == 0:
                    widths[name][f"blocks.{number}.layers.second"] = lows[stage]
    return Released(nn.Conv2d(3, stem, 7, 2, 3, bias=False), blocks, nn.Identity(), stages[-1]), widths


def at_released_widths(build, name):
    """A supernet of a released network, and one of the configurations above."""
    module, widths = build()
    choices = {layer: sorted({each[layer] for each in widths.values()}) for layer in widths["full"]}
    net = make_elastic(module, (3, 224, 224), choices=choices, fixed=("head",) if isinstance(module.head, nn.Conv2d) else ())
    assert {d.name for d in net.space.dimensions} == set(choices)
    return net, [widths[name][d.name] for d in net.space.dimensions]


def as_released(net, full):
    """What the released code's counter says: pooling costs an operation a number, and groups are those of the full network."""
    groups = {name: m.groups for name, m in full.named_modules() if isinstance(m, nn.Conv2d)}
    total = 0

    def count(name):
        def hook(module, inputs, output):
            nonlocal total
            if isinstance(module, nn.Conv2d):
                total += output.numel() * module.in_channels * module.kernel_size[0] ** 2 / groups[name]
            else:
                total += module.weight.numel() if isinstance(module, nn.Linear) else inputs[0].numel()

        return hook

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.AdaptiveAvgPool2d):
            module.register_forward_hook(count(name))
    net.to("meta")(torch.empty(1, 3, 224, 224, device="meta"))
    return total


@pytest.mark.parametrize(
    ("build", "name", "printed", "true"),
    [
        (released_mobilenet, "full", 599, 599),
        (released_mobilenet, "tips", 258, 264),  # narrow depthwise convolutions are counted too cheap
        (released_mobilenet, "none", 95, 102),
        (released_resnet, "full", 3645, 3644),  # the last million is the pooling
        (released_resnet, "tips", 1538, 1538),
        (released_resnet, "none", 462, 462),
    ],
)
def test_the_table_of_the_released_code_is_reproduced_with_its_counter_and_what_it_truly_costs(build, name, printed, true):
    net, chosen = at_released_widths(build, name)
    assert round(as_released(net.export(chosen), net.export(net.space.largest)) / 1e6) == printed
    assert net.macs(chosen) == counted(net.export(chosen), 224)
    assert round(net.macs(chosen) / 1e6) == true


@pytest.mark.parametrize("floor", [None, "tips"])
def test_our_smallest_widths_are_the_released_ones(floor):
    mobile = mobilenet_v2_supernet(1.4, 224, 1000, floor=floor)
    low = {d.name: d.low for d in mobile.space.dimensions}
    stem, stages = MOBILENET[floor or "none"]
    projections = [f"features.{i}.conv.{1 if i == 1 else 2}" for i in (1, 2, 4, 7, 11, 14, 17)]
    assert low["features.0.0"] == stem
    assert [low[name] for name in projections] == list(stages)
    inputs = dict(zip(range(2, 18), [stages[s] for s in (0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 5)], strict=True))
    assert {i: low[f"features.{i}.conv.0.0"] for i in inputs} == {i: 6 * w for i, w in inputs.items()}
    assert len(mobile.space) == 1 + 7 + 16
    res = resnet34_supernet(1.0, 224, 1000, floor=floor)
    low = {d.name: d.low for d in res.space.dimensions}
    expected = {name: RESNET[floor or "none"][1][0 if name == "conv1" else int(name[5]) - 1] for name in low}
    assert low == expected
    assert len(res.space) == 4 + 16


@pytest.mark.parametrize(("width", "tied"), [(0.1, True), (0.25, True), (0.5, False), (1.0, False)])
def test_at_other_widths_every_stage_has_its_own_share(width, tied):
    """Very narrow stems have as many channels as the first stage, and a residual connection then ties them."""
    net = mobilenet_v2_supernet(width, floor="tips")
    assert ("features.1.conv.1" not in {d.name for d in net.space.dimensions}) == tied
    shares = [low / full for low, full in zip(MOBILENET["tips"][1], MOBILENET["full"][1], strict=True)]
    for d in net.space.dimensions:
        block = int(d.name.split(".")[1])
        stage = sum(block >= start for start in (1, 2, 4, 7, 11, 14, 17))
        if d.name.endswith("conv.0.0"):
            stage -= block in (2, 4, 7, 11, 14, 17)  # hidden channels are those of the block's inputs
        share = 16 / 48 if stage == 0 and not tied else shares[max(stage - 1, 0)]
        assert d.low == round(share * d.high), d.name


def test_ours_differ_from_the_released_by_head_first_block_and_shortcuts_and_nothing_else():
    module, _ = released_mobilenet()
    ours, theirs = mobilenet_v2_supernet(1.4, 224, 1000).macs(), counted(module, 224)
    (stem, stages) = MOBILENET["full"]
    assert ours - theirs == (1792 - 1280) * (stages[-1] * 7**2 + 1000) - stem * stem * 112**2
    module, _ = released_resnet()
    ours, theirs = resnet34_supernet(1.0, 224, 1000).macs(), counted(module, 224)
    assert ours - theirs == 64 * 128 * 28**2 + 128 * 256 * 14**2 + 256 * 512 * 7**2


@pytest.mark.parametrize("floor", [None, "tips"])
def test_the_smallest_of_our_space_beside_the_released_ones(floor):
    """Ours are the standard networks: a wider head and shortcuts make them 1.4 and 5 % dearer with the floor, -1.7 and 3 % without."""
    ours, released = [], []
    for make, build, width in ((mobilenet_v2_supernet, released_mobilenet, 1.4), (resnet34_supernet, released_resnet, 1.0)):
        net = make(width, 224, 1000, floor)
        ours.append(net.macs(net.space.smallest))
        other, chosen = at_released_widths(build, floor or "none")
        released.append(other.macs(chosen))
    apart = [a / b - 1 for a, b in zip(ours, released, strict=True)]
    assert apart == pytest.approx([0.0145, 0.0504] if floor else [-0.0168, 0.0278], abs=1e-3)


@pytest.mark.parametrize("make", [mobilenet_v2_supernet, resnet18_supernet, resnet34_supernet])
@pytest.mark.parametrize("side", [32, 64])
def test_small_images_pass_at_every_end_of_the_space(make, side):
    net = make(0.25, side, 7).eval()
    images = torch.zeros(2, 3, side, side)
    for widths in (net.space.smallest, net.space.largest):
        net.set_width(widths)
        with torch.no_grad():
            assert net(images).shape == (2, 7)


@pytest.mark.parametrize(("side", "mobilenet", "resnet"), [(32, 1, 1), (64, 1, 2), (224, 2, 2)])
def test_stems_keep_the_resolution_where_the_docstrings_say_so(side, mobilenet, resnet):
    assert mobilenet_v2_supernet(0.25, side).body.features[0][0].stride == (mobilenet, mobilenet)
    assert resnet34_supernet(0.125, side).body.conv1.stride == (resnet, resnet)


def test_weights_follow_the_global_generator_and_dropout_is_where_it_is_asked():
    def weights(seed):
        torch.manual_seed(seed)
        return resnet18_supernet(0.125).state_dict()

    assert all(torch.equal(a, b) for a, b in zip(weights(3).values(), weights(3).values(), strict=True))
    assert not torch.equal(weights(3)["body.conv1.weight"], weights(4)["body.conv1.weight"])
    assert mobilenet_v2_supernet(0.25, dropout=0.2).body.classifier[0].p == 0.2


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (mobilenet_v2_supernet, {"width": 0.0}, "width = 0.0"),
        (mobilenet_v2_supernet, {"width": -1.0}, "width = -1.0"),
        (resnet34_supernet, {"width": 0.01}, "at least two channels"),
        (resnet18_supernet, {"width": 0.0}, "at least two channels"),
        (mobilenet_v2_supernet, {"resolution": 96}, "resolution = 96; allowed are 32, 64, 224.*make_elastic"),
        (resnet34_supernet, {"resolution": 0}, "resolution = 0"),
        (mobilenet_v2_supernet, {"classes": 1}, "classes = 1"),
        (resnet34_supernet, {"classes": 0}, "classes = 0"),
        (mobilenet_v2_supernet, {"floor": "TIPS"}, "floor = 'TIPS'; allowed are None and \"tips\""),
        (resnet34_supernet, {"floor": True}, "floor = True"),
        (mobilenet_v2_supernet, {"dropout": 1.0}, "dropout = 1.0"),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(make, options, message):
    with pytest.raises(InvalidInput, match=message):
        make(**options)
