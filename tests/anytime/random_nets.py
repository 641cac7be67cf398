"""Small random networks whose ties between channels are known from how they were made."""

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

SIDE, CLASSES = 6, 3


class Net(nn.Module):
    """Runs a program: each entry makes a feature map out of one or two earlier ones; the first is the input."""

    def __init__(self, program):
        super().__init__()
        self.program, self.layers = program, nn.ModuleDict()
        self.channels, self.maker = [4], [0]  # of each feature map: how many, and which dense layer's they are (0: the input's)
        self.dense, ties = ["input"], []
        for i, (kind, source, option) in enumerate(program):
            channels, maker = self.channels[source], self.maker[source]
            if kind == "conv":
                self.layers[f"m{i}"] = nn.Conv2d(channels, option, 3, padding=1)
                channels, maker = option, len(self.dense)
                self.dense.append(f"layers.m{i}")
            elif kind == "depthwise":
                self.layers[f"m{i}"] = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            elif kind == "norm":
                self.layers[f"m{i}"] = nn.BatchNorm2d(channels)
            elif kind == "relu":
                self.layers[f"m{i}"] = nn.ReLU()
            else:
                ties.append((maker, self.maker[option]))
            self.channels.append(channels)
            self.maker.append(maker)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(4 * self.channels[-1], CLASSES)
        self.ties = ties

    def forward(self, x):
        maps = [x]
        for i, (kind, source, option) in enumerate(self.program):
            maps.append(maps[source] + maps[option] if kind == "add" else self.layers[f"m{i}"](maps[source]))
        return self.fc(self.pool(maps[-1]).flatten(1))

    def free(self):
        """The sets of dense layers whose outputs change together, those tied to the input left out."""
        count = len(self.dense)
        a, b = np.array(self.ties, dtype=int).reshape(-1, 2).T
        _, label = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(count, count)), directed=False)
        sets = {frozenset(np.flatnonzero(label == each).tolist()) for each in label}
        return {frozenset(self.dense[i] for i in each) for each in sets if 0 not in each}


@st.composite
def nets(draw):
    """Convolutions of 2, 4 or 6 channels, depthwise ones, norms, activations, and sums of maps with as many channels."""
    channels = [4]
    program = []
    for _ in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["conv", "conv", "depthwise", "norm", "relu", "add", "add"]))
        source = draw(st.integers(max(0, len(channels) - 3), len(channels) - 1))
        partners = [i for i, c in enumerate(channels) if c == channels[source] and i != source]
        if kind == "add" and not partners:
            kind = "conv"
        option = draw(st.sampled_from([2, 4, 6])) if kind == "conv" else draw(st.sampled_from(partners)) if kind == "add" else None
        program.append((kind, source, option))
        channels.append(option if kind == "conv" else channels[source])
    program.append(("conv", len(channels) - 1, 4))
    torch.manual_seed(draw(st.integers(0, 99)))
    net = Net(program)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-1, 1)
            m.running_var.uniform_(0.5, 2)
    return net
