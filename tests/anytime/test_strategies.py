"""One suite that every strategy must pass, and what each does differently; against plain torch, by hand."""

import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tipslib.anytime.distillation import spread_epochs
from tipslib.anytime.elastic import important_dimensions, make_elastic
from tipslib.anytime.strategies import DSNet, strategies, train_supernet
from tipslib.errors import InvalidInput
from tipslib.processes import make_fabric
from tipslib.training import Diverged, Recipe

NAMES = ["US-Nets", "Joslim", "DS-Net", "OFA", "TIPS", "TIPS-released", "US-Nets+floor", "Joslim+floor", "DS-Net+floor"]
FLOORS = {"TIPS-released", "US-Nets+floor", "Joslim+floor", "DS-Net+floor"}
SMOOTHED = {"Joslim", "DS-Net", "OFA", "TIPS-released", "Joslim+floor", "DS-Net+floor"}
OPTIONS = {"Joslim": {"proposals": 18}, "Joslim+floor": {"proposals": 18}}
EXPANSION, CLASSES = 24, 3


def supernet(name="TIPS", norms=False, seed=0):
    """Two layers; for OFA an inverted residual and a linear layer."""
    torch.manual_seed(seed)

    def norm(channels):
        return [nn.BatchNorm2d(channels)] if norms else []

    if name == "OFA":
        body = [
            *(nn.Conv2d(3, EXPANSION, 1), *norm(EXPANSION), nn.ReLU()),
            *(nn.Conv2d(EXPANSION, EXPANSION, 3, padding=1, groups=EXPANSION), *norm(EXPANSION), nn.ReLU()),
            *(nn.Conv2d(EXPANSION, 4, 1), *norm(4)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)),
        ]
    else:
        body = [nn.Conv2d(3, 20, 3), *norm(20), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, CLASSES)]
    free = [(str(i), m.out_channels) for i, m in enumerate(body) if isinstance(m, nn.Conv2d) and m.groups == 1]
    choices = {layer: range(-(-full // 5), full + 1) for layer, full in free}
    return make_elastic(nn.Sequential(*body), (3, 6, 6), choices=choices).train()


def by_hand(net, widths, images):
    """Logits of a supernet without norms, from its sliced weights."""
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    linear = next(m for m in net.modules() if isinstance(m, nn.Linear))
    if len(convolutions) == 1:
        (k,), conv = widths, convolutions[0]
        hidden = F.relu(F.conv2d(images, conv.weight[:k], conv.bias[:k])).mean((2, 3))
        return hidden @ linear.weight[:, :k].T + linear.bias
    (h, k), (expand, depthwise, project) = widths, convolutions
    x = F.relu(F.conv2d(images, expand.weight[:h], expand.bias[:h]))
    x = F.relu(F.conv2d(x, depthwise.weight[:h], depthwise.bias[:h], padding=1, groups=h))
    x = F.conv2d(x, project.weight[:k, :h], project.bias[:k]).mean((2, 3))
    return x @ linear.weight[:, :k].T + linear.bias


def batch(seed=1, count=8):
    images = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return images, torch.arange(count) % CLASSES


def made(name, net, **options):
    strategy = strategies[name](net, held_out=[batch(90), batch(91)], **options | OPTIONS.get(name, {}))
    phases = strategy.phases(9, 2)
    for phase in phases:
        phase.begin()
    return strategy


class Recorder:
    """Every width a supernet is set to and every pass it makes, with the gradients and logits of each."""

    def __init__(self, net):
        self.net, self.widths, self.passes, self.losses = net, [], [], []
        self._set, self._forward = net.set_width, net.forward
        net.set_width, net.forward = self.set_width, self.forward

    def set_width(self, widths, *statistics):
        self.widths.append(tuple(widths))
        self._set(widths, *statistics)

    def forward(self, images):
        if torch.is_grad_enabled():
            self.passes.append(self.net.widths)
        return self._forward(images)

    def backward(self, loss):
        # one pass back before the next goes forward, so that memory is that of one
        assert len(self.passes) == len(self.losses) + 1
        self.losses.append(loss.item())
        loss.backward()

    def step(self, strategy, step=0, images=None, labels=None):
        images, labels = batch() if images is None else (images, labels)
        self.widths, self.passes, self.losses = [], [], []
        return strategy.step(self.net, images, labels, step=step, backward=self.backward)


def hard(logits, labels, smoothing):
    """Cross-entropy with label smoothing, written out."""
    target = (1 - smoothing) * F.one_hot(labels, CLASSES) + smoothing / CLASSES
    return -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()


def soft(logits, probabilities):
    return -(probabilities * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()


def expected_losses(name, net, passes, images, labels, teacher=None):
    """The loss of each pass as the publications have it; the teacher of DS-Net and OFA may be another network."""
    smoothing = 0.1 if name in SMOOTHED else 0.0
    with torch.no_grad():
        logits = [by_hand(net, widths, images) for widths in passes]
        guide = by_hand(teacher or net, net.space.largest, images).softmax(1)
        if name == "OFA":
            return [hard(z, labels, smoothing) + soft(z, guide) for z in logits]
        losses = [hard(logits[0], labels, smoothing)]
        for i, z in enumerate(logits[1:]):
            target = guide
            if name == "TIPS-released" and i == 2:
                others = [by_hand(teacher or net, widths, images).softmax(1) for widths in passes[1:3]]
                target = (guide + others[0] + others[1]) / 3
            losses.append(soft(z, target) + (hard(z, labels, smoothing) if name == "TIPS" else 0))
        return losses


def test_names_floors_and_smoothing_are_the_published_ones():
    assert list(strategies) == NAMES
    assert {name for name, kind in strategies.items() if kind.floor} == FLOORS
    assert {name for name, kind in strategies.items() if kind.label_smoothing == 0.1} == SMOOTHED
    assert all(kind.label_smoothing in (0.0, 0.1) and len(kind.__doc__) > 40 for kind in strategies.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [0, 5])
def test_four_passes_of_the_right_widths_and_losses_and_full_width_after(name, step):
    net = supernet(name)
    strategy, recorder = made(name, net), Recorder(net)
    images, labels = batch()
    total = recorder.step(strategy, step, images, labels)
    passes, space = recorder.passes, net.space
    assert len(passes) == len(recorder.losses) == 4
    assert all(space.contains(widths) for widths in passes)
    assert net.widths == space.largest
    if name != "OFA":
        assert passes[0] == space.largest
    if name.startswith("US-Nets"):
        assert passes[1] == space.smallest
    elif name not in ("OFA", "TIPS"):
        assert passes[3] == space.smallest
    expected = expected_losses(name, net, passes, images, labels)
    assert recorder.losses == pytest.approx([loss.item() for loss in expected], rel=1e-5)
    assert total.item() == pytest.approx(sum(recorder.losses), rel=1e-6)
    assert not total.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_sum_over_passes_and_reach_no_weight_that_no_pass_used(name):
    net = supernet(name)
    strategy, recorder = made(name, net), Recorder(net)
    images, labels = batch()
    teacher = supernet(name)
    teacher.load_state_dict(net.state_dict())
    recorder.step(strategy, 0, images, labels)
    got = {n: p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    logits = [by_hand(net, widths, images) for widths in recorder.passes]
    guide = by_hand(teacher, net.space.largest, images).softmax(1).detach()
    smoothing = strategies[name].label_smoothing
    if name == "OFA":
        loss = sum(hard(z, labels, smoothing) + soft(z, guide) for z in logits)
    else:
        targets = [guide] * 3
        if name == "TIPS-released":
            others = [by_hand(teacher, widths, images).softmax(1).detach() for widths in recorder.passes[1:3]]
            targets[2] = (guide + others[0] + others[1]) / 3
        loss = hard(logits[0], labels, smoothing) + sum(soft(z, t) for z, t in zip(logits[1:], targets, strict=True))
        loss = loss + (sum(hard(z, labels, smoothing) for z in logits[1:]) if name == "TIPS" else 0)
    loss.backward()
    for n, p in net.named_parameters():
        torch.testing.assert_close(got[n], p.grad, rtol=1e-4, atol=1e-6)
    widest = [max(column) for column in zip(*recorder.passes, strict=True)]
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert not first.weight.grad[widest[0] :].any()


def test_ofa_leaves_hidden_channels_alone_that_no_subnetwork_of_the_step_had():
    net = supernet("OFA")
    strategy = made("OFA", net)
    strategy._ratios = (3, 3)
    recorder = Recorder(net)
    recorder.step(strategy)
    assert set(recorder.passes) == {(EXPANSION // 2, 4)}
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert first.weight.grad[: EXPANSION // 2].flatten(1).any(1).sum() > EXPANSION // 4
    assert not first.weight.grad[EXPANSION // 2 :].any()


@pytest.mark.parametrize("name", NAMES)
def test_widths_depend_on_seed_and_step_alone(name):
    def widths(seed, steps, norms=False):
        net = supernet(name, norms)
        strategy, recorder = made(name, net, seed=seed), Recorder(net)
        drawn = []
        for step in steps:
            recorder.step(strategy, step)
            drawn.append(tuple(recorder.passes))
        return drawn

    torch.manual_seed(5)
    one = widths(0, range(6))
    torch.manual_seed(6)
    assert widths(0, range(6)) == one
    if not name.startswith("Joslim"):  # whose proposals are remembered
        assert widths(0, [4, 5]) == one[4:]
    assert widths(1, range(6)) != one
    assert len(set(one)) > 1


class Toy:
    """Three steps an epoch, drawn from (epoch, step) alone; dies at will."""

    def __init__(self, dies_at=None, blows_at=None):
        self.dies_at, self.blows_at = dies_at, blows_at

    def __len__(self):
        return 3

    def batches(self, epoch, first=0):
        for step in range(first, 3):
            if self.dies_at == (epoch, step):
                raise KeyboardInterrupt
            images, labels = batch(100 * epoch + step)
            yield images * (math.inf if self.blows_at == (epoch, step) else 1), labels


RECIPE = Recipe(epochs=6, learning_rate=0.05)


def trained(name, loader, path=None):
    net = supernet(name, norms=True)
    strategy = strategies[name](net, held_out=[batch(90), batch(91)], **OPTIONS.get(name, {}))
    curves = train_supernet(strategy, loader, RECIPE, seed=0, fabric=make_fabric("cpu"), checkpoint=path, checkpoint_seconds=0)
    return net, curves


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tipslib.training.CHECK_EVERY", 1)
    monkeypatch.setattr("tipslib.anytime.joslim.Joslim.FIRST", 4)
    expected, curves = trained(name, Toy())
    path = tmp_path / "run.ckpt"
    for dies_at in [(0, 1), (3, 2), (5, 1)]:
        with pytest.raises(KeyboardInterrupt):
            trained(name, Toy(dies_at), path)
    resumed, again = trained(name, Toy(), path)
    assert curves == again
    assert len(curves.losses) == len(curves.full) == 6
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key
    finished, again = trained(name, Toy(dies_at=(0, 0)), path)
    assert again == curves
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in finished.state_dict().items())


@pytest.mark.parametrize("name", ["US-Nets", "TIPS"])
def test_the_full_curve_is_the_plain_cross_entropy_of_the_full_network(name):
    net = supernet(name)
    strategy = made(name, net)
    strategy.curve = torch.zeros(4)
    images, labels = batch()
    expected = F.cross_entropy(by_hand(net, net.space.largest, images), labels)
    Recorder(net).step(strategy, 2, images, labels)
    assert strategy.curve.tolist() == pytest.approx([0, 0, expected.item(), 0])


def test_a_diverged_run_stops_with_step_and_rate(tmp_path):
    path = tmp_path / "run.ckpt"
    with pytest.raises(Diverged, match=r"step 7 \(learning rate 0\.0\d+\).*run\.ckpt is from before"):
        trained("TIPS", Toy(blows_at=(2, 1)), path)
    assert path.exists()


def test_checkpoints_of_other_strategies_seeds_and_widths_are_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    trained("US-Nets", Toy(), path)
    with pytest.raises(InvalidInput, match="the checkpoint's strategy is US-Nets, and here it is TIPS"):
        trained("TIPS", Toy(), path)
    run = {"seed": 0, "fabric": make_fabric("cpu"), "checkpoint": path}
    with pytest.raises(InvalidInput, match="the checkpoint's seed is 0, and here it is 1"):
        train_supernet(strategies["US-Nets"](supernet(norms=True), seed=1), Toy(), RECIPE, **run)
    other = make_elastic(supernet(norms=True).export(), (3, 6, 6), choices={"0": (10, 20)})
    with pytest.raises(InvalidInput, match="draws from other widths"):
        train_supernet(strategies["US-Nets"](other), Toy(), RECIPE, **run)


def test_a_run_killed_at_every_step_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("tipslib.training.CHECK_EVERY", 1)
    expected, curves = trained("TIPS", Toy())
    for epoch in range(RECIPE.epochs):
        for step in range(3):
            with pytest.raises(KeyboardInterrupt):
                trained("TIPS", Toy((epoch, step)), tmp_path / "run.ckpt")
    resumed, again = trained("TIPS", Toy(), tmp_path / "run.ckpt")
    assert again == curves
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in resumed.state_dict().items())


def test_another_supernet_is_refused():
    strategy = made("TIPS", supernet())
    with pytest.raises(InvalidInput, match="another supernet"):
        strategy.step(supernet(), *batch(), step=0, backward=lambda loss: loss.backward())


def test_the_full_width_comes_back_even_when_a_step_fails():
    net = supernet()
    strategy = made("TIPS", net)

    def fail(loss):
        if net.widths != net.space.largest:
            raise RuntimeError("out of memory")
        loss.backward()

    with pytest.raises(RuntimeError, match="memory"):
        strategy.step(net, *batch(), step=0, backward=fail)
    assert net.widths == net.space.largest


def test_us_nets_draws_one_ratio_above_its_bound_for_all_layers():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 100, 1), nn.ReLU(), nn.Conv2d(100, 100, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(100, 3))
    net = make_elastic(body, (3, 2, 2), choices=dict.fromkeys(("0", "2"), range(20, 101)))
    strategy = made("US-Nets", net)
    drawn = torch.tensor([strategy._subnetworks(step)[1:] for step in range(200)]).flatten(0, 1)
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert drawn.min() >= 35
    assert drawn.min() < 40
    assert drawn.max() > 95


def test_tips_boosts_what_the_topology_finds_important():
    net = supernet()
    assert made("TIPS", net).important == important_dimensions(net)


@pytest.mark.parametrize("ensemble", [False, True])
def test_the_moving_average_follows_the_weights_seen_at_the_start_of_each_step(ensemble):
    net = supernet("DS-Net")
    strategy = DSNet(net, decay=0.75, ensemble=ensemble)
    recorder, images, labels = Recorder(net), *batch()
    recorder.step(strategy, 0, images, labels)
    average = supernet("DS-Net")
    for step, decay in [(1, 2 / 11), (8, 0.5), (50, 0.75), (51, 0.75)]:  # at most (1 + step) / (10 + step)
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
            for a, p in zip(average.parameters(), net.parameters(), strict=True):
                a.copy_(decay * a + (1 - decay) * p)
        recorder.step(strategy, step, images, labels)
        name = "TIPS-released" if ensemble else "DS-Net"
        expected = expected_losses(name, net, recorder.passes, images, labels, teacher=average)
        assert recorder.losses == pytest.approx([loss.item() for loss in expected], rel=1e-4)


def test_the_teacher_is_not_trained_and_uses_the_statistics_of_the_batch():
    net = supernet("DS-Net", norms=True)
    strategy = made("DS-Net", net)
    recorder, images, labels = Recorder(net), *batch()
    recorder.step(strategy, 0, images, labels)
    teacher = strategy._average.net
    assert not any(p.requires_grad for p in teacher.parameters())
    net.set_width(net.space.largest)
    with torch.no_grad():
        torch.testing.assert_close(strategy._average.probabilities(net.space.largest, images), net(images).softmax(1))
    assert torch.equal(teacher.state_dict()["body.1.running_mean"], torch.zeros(20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DSNet(supernet(), decay=1.0), "decay = 1.0"),
        (lambda: strategies["Joslim"](supernet()), "held-out"),
        (lambda: strategies["Joslim"](supernet(), held_out=[batch()], proposals=1), "proposals = 1"),
        (lambda: strategies["TIPS"](supernet(), seed=-1), "seed = -1"),
        (lambda: strategies["OFA"](supernet()), "no inverted residuals"),
        (lambda: strategies["OFA"](supernet("OFA")).phases(2, 5), "epochs = 2"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


@pytest.mark.parametrize(("epochs", "expected"), [(150, (83, 12, 55)), (3, (1, 1, 1)), (4, (2, 1, 1)), (10, (6, 1, 3))])
def test_epochs_are_spread_in_proportion(epochs, expected):
    assert spread_epochs(epochs, (180, 25, 120)) == expected


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
import tipslib.training
from test_strategies import shared
from tipslib.processes import make_fabric

tipslib.training.CHECK_EVERY = 1
fabric = make_fabric("cpu")
whole, checkpoint = shared(fabric), Path(sys.argv[1]) / "run.ckpt"
try:
    shared(fabric, checkpoint, dies_at=(1, 1))
except KeyboardInterrupt:
    fabric.barrier()
    torch.save((whole, shared(fabric, checkpoint)), Path(sys.argv[1]) / f"{{fabric.global_rank}}.pt")
"""


def shared(fabric, checkpoint=None, dies_at=None):
    """Both curves and the weights of a supernet, of which every process sees its share of each batch."""

    class Share(Toy):
        def batches(self, epoch, first=0):
            for x, y in super().batches(epoch, first):
                yield x[fabric.global_rank :: fabric.world_size], y[fabric.global_rank :: fabric.world_size]

    net = supernet("TIPS", norms=True)
    run = {"seed": 0, "fabric": fabric, "checkpoint": checkpoint, "checkpoint_seconds": 0}
    curves = train_supernet(strategies["TIPS"](net), Share(dies_at), Recipe(epochs=2, learning_rate=0.1), **run)
    return curves.losses, curves.full, net.state_dict()


def test_two_processes_of_half_a_batch_equal_one_and_resume_with_the_same_bits(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT.format(folder=os.path.dirname(__file__))))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command = [*launcher, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    losses, full, weights = shared(make_fabric("cpu"))
    for rank in (0, 1):
        two, resumed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert losses == pytest.approx(two[0], rel=1e-5)
        assert full == pytest.approx(two[1], rel=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(value, two[2][name], rtol=1e-4, atol=1e-6)
        assert resumed[:2] == two[:2]
        assert all(torch.equal(value, two[2][name]) for name, value in resumed[2].items())
