"""Which supernets do the papers train? MobileNet-v2 and ResNets, for images of 32, 64 and 224 pixels.

They are the standard networks, whose costs come nearest to those that TIPS prints: MobileNet-v2 x1.4 on ImageNet, and on smaller images
with a stem that keeps the resolution; ResNet-34. The smallest widths, with and without the floor, are those of the released code of TIPS
(LiGuihong/TIPS), as shares of the full ones.

The networks of the released code differ from the standard ones. Its MobileNet-v2 has a head of 1280 channels at every width (the standard
one widens it), a 1x1 convolution before the first depthwise one, and hidden channels in multiples of 8. Its ResNet-34 reduces in the first
block of every stage instead of by max-pooling, and these blocks have no shortcut; so its stem can be narrower than the first stage,
which in the standard network a residual connection forbids. And its counter of FLOPs divides the cost of a depthwise convolution by the
full number of groups, also where fewer channels run, so that narrow MobileNets look cheaper than they are. The tests rebuild these networks
and reproduce the costs that follow from the released code, and the true ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from torchvision.models import MobileNetV2, ResNet
from torchvision.models.resnet import BasicBlock

from tipslib.anytime.elastic import Supernet, make_elastic
from tipslib.anytime.widths import spread
from tipslib.errors import require

Floor = Literal["tips"] | None
RESOLUTIONS = (32, 64, 224)
"""Pixels a side for which the papers' stems are known."""

MOBILENET_LOWEST = (16 / 48, 14 / 24, 16 / 32, 18 / 48, 28 / 88, 45 / 136, 55 / 224, 97 / 448)
MOBILENET_FLOOR = (16 / 48, 19 / 24, 24 / 32, 33 / 48, 58 / 88, 84 / 136, 133 / 224, 266 / 448)
"""Smallest widths of the stem and the seven stages as shares of the full ones, without and with the floor."""

STAGE_STARTS = (1, 2, 4, 7, 11, 14, 17)
"""The first block of each stage of MobileNet-v2."""

RESNET_LOWEST = (28 / 64, 56 / 128, 61 / 256, 135 / 512)
RESNET_FLOOR = (46 / 64, 92 / 128, 152 / 256, 317 / 512)
"""The same for the four stages of a ResNet; the stem has the channels of the first stage."""


def mobilenet_v2_supernet(
    width: float = 1.0, resolution: int = 32, classes: int = 10, floor: Floor = None, dropout: float = 0.0
) -> Supernet:
    """MobileNet-v2 (Sandler et al., CVPR 2018, as torchvision has it) with a free width for every stage and every block's inside.

    Free are the stem, the outputs of each of the seven stages (one number a stage, since residual connections tie its blocks) and the
    hidden channels of each block but the first; the head stays full. Hidden channels may shrink by the share of the block's inputs. Where a
    small `width` gives the stem as many channels as the first stage, a residual connection ties the two, and they have the stage's range.

    Parameters
    ----------
    width
        Multiple of all channels, above 0; the papers' is 1.4.
    resolution
        Pixels a side: 32 or 64, where the stem has stride 1, or 224, where it has stride 2.
    classes
        At least 2.
    floor
        None: the smallest widths of the released code of TIPS before it raises those of the important stages; "tips": after that.
    dropout
        Probability, in [0, 1), before the classifier.

    Returns
    -------
    Supernet
        From (N, 3, resolution, resolution) images to (N, classes) logits, with random weights from torch's global generator.

    Raises
    ------
    InvalidInput
        An argument outside its range.
    """
    _check(resolution, classes, floor)
    require(width > 0, f"width = {width}; a multiple above 0 is wanted")
    require(0 <= dropout < 1, f"dropout = {dropout}; allowed is [0, 1)")
    net = MobileNetV2(num_classes=classes, width_mult=width, dropout=dropout)
    if resolution < 224:
        net.features[0][0].stride = (1, 1)
    for activation in net.modules():
        if isinstance(activation, nn.ReLU6):
            activation.inplace = False  # in place, autograd copies its input first
    lowest = MOBILENET_LOWEST if floor is None else MOBILENET_FLOOR
    return _elastic(net, resolution, _mobilenet_shares(net, lowest), fixed=("features.18.0",))


def _mobilenet_shares(net: MobileNetV2, lowest: Sequence[float]) -> dict[str, float]:
    """First layer of each dimension -> smallest width over full width."""
    stage, outputs = 0, "features.0.0"
    shares = {outputs: lowest[0]}
    for number, block in enumerate(net.features[1:-1], start=1):
        names = [f"features.{number}.{name}" for name, m in block.named_modules() if isinstance(m, nn.Conv2d)]
        if len(names) == 3:  # all but the first expand: their hidden channels are a multiple of their inputs
            shares[names[0]] = lowest[stage]
        if not block.use_res_connect:
            outputs = names[-1]
        if number in STAGE_STARTS:
            stage += 1
            shares[outputs] = lowest[stage]
    return shares


def resnet34_supernet(width: float = 1.0, resolution: int = 32, classes: int = 10, floor: Floor = None) -> Supernet:
    """ResNet-34 (He et al., CVPR 2016, as torchvision has it) with a free width for every stage and every block's inside.

    Free are the outputs of each of the four stages and the channels between the two convolutions of each block. The stem feeds a residual
    connection of the first stage, so that its channels are that stage's; the released code, which has no such connection, lets the
    stem be narrower. At 32 pixels the stem has stride 1 (the papers do not say; so the cost is nearest to what TIPS prints).

    Parameters
    ----------
    width
        Multiple of the 64, 128, 256 and 512 channels; large enough for two in the first stage.
    resolution
        Pixels a side: 32, 64 or 224.
    classes
        At least 2.
    floor
        As for `mobilenet_v2_supernet`.

    Returns
    -------
    Supernet
        From (N, 3, resolution, resolution) images to (N, classes) logits, with random weights from torch's global generator.

    Raises
    ------
    InvalidInput
        An argument outside its range.
    """
    return _resnet((3, 4, 6, 3), width, resolution, classes, floor)


def resnet18_supernet(width: float = 1.0, resolution: int = 32, classes: int = 10, floor: Floor = None) -> Supernet:
    """ResNet-18: two blocks a stage; all else as for `resnet34_supernet`."""
    return _resnet((2, 2, 2, 2), width, resolution, classes, floor)


def _resnet(blocks: Sequence[int], width: float, resolution: int, classes: int, floor: Floor) -> Supernet:
    _check(resolution, classes, floor)
    require(round(64 * width) >= 2, f"width = {width}; a multiple that leaves at least two channels of 64 is wanted")
    net = _plain_resnet(blocks, [round(base * width) for base in (64, 128, 256, 512)], stride=1 if resolution == 32 else 2, classes=classes)
    lowest = RESNET_LOWEST if floor is None else RESNET_FLOOR
    shares = {"conv1": lowest[0]} | {f"layer{stage}.0.conv2": lowest[stage - 1] for stage in (2, 3, 4)}
    shares |= {f"layer{stage}.{i}.conv1": lowest[stage - 1] for stage, count in enumerate(blocks, start=1) for i in range(count)}
    return _elastic(net, resolution, shares)


def _plain_resnet(blocks: Sequence[int], channels: Sequence[int], stride: int, classes: int) -> ResNet:
    """torchvision's, at other widths than it offers."""
    with torch.device("meta"):
        net = ResNet(BasicBlock, list(blocks))
    net.inplanes = channels[0]
    net.conv1 = nn.Conv2d(3, channels[0], 7, stride, 3, bias=False)
    net.bn1 = nn.BatchNorm2d(channels[0])
    for i, (count, outputs) in enumerate(zip(blocks, channels, strict=True)):
        setattr(net, f"layer{i + 1}", net._make_layer(BasicBlock, outputs, count, stride=1 if i == 0 else 2))
    net.fc = nn.Linear(channels[-1], classes)
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return net


def _elastic(net: nn.Module, resolution: int, shares: Mapping[str, float], fixed: Sequence[str] = ()) -> Supernet:
    full = {name: int(m.out_channels) for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    choices = {name: spread(max(1, round(share * full[name])), full[name]) for name, share in shares.items()}
    return make_elastic(net, (3, resolution, resolution), choices=choices, fixed=fixed)


def _check(resolution: int, classes: int, floor: Floor) -> None:
    require(
        resolution in RESOLUTIONS,
        f"resolution = {resolution}; allowed are {', '.join(map(str, RESOLUTIONS))}. For others give a network of your own to make_elastic",
    )
    require(classes >= 2, f"classes = {classes}; at least 2 are wanted")
    require(floor in (None, "tips"), f'floor = {floor!r}; allowed are None and "tips"')
