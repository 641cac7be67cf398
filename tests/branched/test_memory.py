"""Is memory bounded by the batch, not by the data set? Peak memory of a process of its own, over few batches and over many."""

import subprocess
import sys

import pytest

MEASURE = """
import resource
import sys

import torch

from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.networks import branched_resnet
from tipslib.branched.probes import linear_probes
from tipslib.branched.separation import ClassSeparation
from tipslib.branched.similarity import LayerSimilarity

torch.set_num_threads(1)
torch.manual_seed(0)
BATCH = 64
net = branched_resnet(10, classes=10, width=0.25).eval()
layers = probed_layers(net)


def batches(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(BATCH, 3, 32, 32, generator=generator), torch.arange(BATCH) % 10


@torch.no_grad()
def similarity(count):
    measure = LayerSimilarity()
    with recording(net, layers) as outputs:
        for images, _ in batches(count):
            net(images)
            maps = [outputs[name] for name in layers]
            measure.update(maps, maps)
    measure.compute()


@torch.no_grad()
def separation(count):
    measures = {name: ClassSeparation(10) for name in layers}
    with recording(net, layers) as outputs:
        for images, labels in batches(count):
            net(images)
            for name in layers:
                measures[name].update(outputs[name], labels)
    return [measure.compute() for measure in measures.values()]


def probes(count, protocol):
    return linear_probes(net, layers, lambda epoch: batches(count), batches(count), classes=10, protocol=protocol, epochs=1)


measured = {
    "similarity": similarity,
    "separation": separation,
    "probes": lambda count: probes(count, "sgd"),
    "ridge": lambda count: probes(count, "ridge"),
}[sys.argv[1]]


def peak():
    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


measured(3)
few = peak()
measured(24)
with torch.no_grad(), recording(net, layers) as outputs:
    net(next(batches(1))[0])
    kept = 21 * sum(outputs[name].numel() * 4 for name in layers)
print(peak() - few, kept)
"""


@pytest.mark.parametrize("measure", ["similarity", "separation", "probes", "ridge"])
def test_eight_times_the_batches_take_no_more_memory(measure):
    done = subprocess.run([sys.executable, "-c", MEASURE, measure], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    grown, kept = map(int, done.stdout.split())
    assert kept > 300e6, "what keeping the activations of the further batches would take"
    assert grown < 0.2 * kept
