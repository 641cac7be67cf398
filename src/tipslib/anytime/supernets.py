"""Which supernets do the papers train? MobileNet-v2 and ResNets, for images of 32, 64 and 224 pixels."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torchvision.models import MobileNetV2, ResNet
from torchvision.models.resnet import BasicBlock

from tipslib.anytime.elastic import Supernet, make_elastic
from tipslib.anytime.widths import spread
from tipslib.errors import require

LOWEST = 0.35
"""Smallest width without a floor, as a share of the full one: the lowest ratio of US-Nets."""

MOBILENET_FLOOR = (16 / 48, 19 / 24, 24 / 32, 33 / 48, 58 / 88, 84 / 136, 133 / 224, 266 / 448)
"""The released code's smallest widths as shares of the full ones: stem, then the seven stages."""

STAGE_STARTS = (1, 2, 4, 7, 11, 14, 17)
"""The first block of each stage of MobileNet-v2."""

RESNET_FLOOR = (24 / 64, 46 / 64, 92 / 128, 152 / 256, 317 / 512)
"""The same for ResNets: stem, then the four stages."""


def mobilenet_v2_supernet(
    width: float = 1.0, resolution: int = 32, classes: int = 10, floor: Literal["tips"] | None = None, dropout: float = 0.0
) -> Supernet:
    """MobileNet-v2; below 224 px its stem has stride 1."""
    net = MobileNetV2(num_classes=classes, width_mult=width, dropout=dropout)
    if resolution < 224:
        net.features[0][0].stride = (1, 1)
    shares = {"features.0.0": MOBILENET_FLOOR[0]}
    stage = 0
    for number, block in enumerate(net.features[1:-1], start=1):
        names = [f"features.{number}.{name}" for name, m in block.named_modules() if isinstance(m, nn.Conv2d)]
        if len(names) == 3:  # hidden channels are a multiple of the block's inputs
            shares[names[0]] = MOBILENET_FLOOR[stage]
        stage += number in STAGE_STARTS
        if not block.use_res_connect:
            shares[names[-1]] = MOBILENET_FLOOR[stage]
    modules = dict(net.named_modules())
    choices = {name: _choices(int(modules[name].out_channels), share, floor) for name, share in shares.items()}
    return make_elastic(net, (3, resolution, resolution), choices=choices, fixed=("features.18.0",))


def _resnet(blocks: list[int], width: float, resolution: int, classes: int, floor: Literal["tips"] | None) -> Supernet:
    require(round(64 * width) >= 2, f"width = {width}; at least two channels are wanted")
    net = ResNet(BasicBlock, blocks, num_classes=classes)
    net.inplanes = round(64 * width)
    widths = [round(base * width) for base in (64, 128, 256, 512)]
    stride = 2 if resolution >= 64 else 1
    net.conv1 = nn.Conv2d(3, widths[0], 7, stride, 3, bias=False)
    net.bn1 = nn.BatchNorm2d(widths[0])
    for i, (count, channels) in enumerate(zip(blocks, widths, strict=True)):
        setattr(net, f"layer{i + 1}", net._make_layer(BasicBlock, channels, count, stride=1 if i == 0 else 2))
    net.fc = nn.Linear(widths[-1], classes)
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    # the stem feeds a residual connection, so its channels are those of the first stage
    stages = {"conv1": 1} | {f"layer{s}.0.conv2": s for s in (2, 3, 4)}
    stages |= {f"layer{s}.{block}.conv1": s for s, count in enumerate(blocks, start=1) for block in range(count)}
    modules = dict(net.named_modules())
    choices = {name: _choices(int(modules[name].out_channels), RESNET_FLOOR[stage], floor) for name, stage in stages.items()}
    return make_elastic(net, (3, resolution, resolution), choices=choices)


def _choices(full: int, share: float, floor: Literal["tips"] | None) -> tuple[int, ...]:
    return spread(max(1, round((share if floor else LOWEST) * full)), full)


def resnet34_supernet(width: float = 1.0, resolution: int = 32, classes: int = 10, floor: Literal["tips"] | None = None) -> Supernet:
    """ResNet-34."""
    return _resnet([3, 4, 6, 3], width, resolution, classes, floor)


def resnet18_supernet(width: float = 1.0, resolution: int = 32, classes: int = 10, floor: Literal["tips"] | None = None) -> Supernet:
    """ResNet-18."""
    return _resnet([2, 2, 2, 2], width, resolution, classes, floor)
