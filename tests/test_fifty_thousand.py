"""Do the measures of layers and operations stay small on as many images as CIFAR has to train on? Peak memory of a process of its own."""

import subprocess
import sys

import pytest

MEASURE = """
import resource
import sys

import numpy as np
import torch
from torch import nn

from tipslib.anytime.pruning import Pruner
from tipslib.batches import Plain, resident
from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.networks import branched_resnet
from tipslib.branched.probes import linear_probes
from tipslib.branched.separation import ClassSeparation
from tipslib.branched.similarity import LayerSimilarity
from tipslib.data import Dataset

IMAGES = 50_000
torch.set_num_threads(1)
torch.manual_seed(0)
rng = np.random.default_rng(0)
pixels, labels = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, IMAGES)
names = tuple("abcdefghij")
data = Plain(resident(Dataset("cifar10", "train", pixels, labels, names, "0" * 64), torch.device("cpu")), 128)
net = branched_resnet(10, classes=10, width=0.0625).eval()
layers = probed_layers(net)[::4]


@torch.no_grad()
def similarity_and_separation():
    similarity, separation = LayerSimilarity(), {name: ClassSeparation(10) for name in layers}
    with recording(net, layers) as outputs:
        for images, labels in data:
            net(images)
            maps = [outputs[name] for name in layers]
            similarity.update(maps, maps)
            for name in layers:
                separation[name].update(outputs[name], labels)
    return similarity.compute(), [measure.compute() for measure in separation.values()]


def probes():
    return linear_probes(net, layers, lambda epoch: data, [next(iter(data))], classes=10, epochs=1)


def pruning():
    small = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(392, 10))
    pruner = Pruner(small, (3, 32, 32))
    parts = [pruner.measure(images, labels, (0.5, 0.9)) for images, labels in data]
    assert sum(part.samples for part in parts) == IMAGES


{"similarity": similarity_and_separation, "probes": probes, "pruning": pruning}[sys.argv[1]]()
# kilobytes on Linux, bytes on macOS
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.parametrize("measure", ["similarity", "probes", "pruning"])
def test_fifty_thousand_images_take_less_than_four_gigabytes(measure):
    done = subprocess.run([sys.executable, "-c", MEASURE, measure], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert 150e6 < int(done.stdout) < 4e9
