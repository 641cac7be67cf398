import hashlib
import math
import os
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tipslib.errors import CorruptFile, InvalidInput
from tipslib.processes import make_fabric
from tipslib.training import Diverged, Recipe, fit


class Toy:
    """Four steps an epoch of eight samples, drawn from (epoch, step) alone."""

    def __len__(self):
        return 4

    def batches(self, epoch, first=0):
        for step in range(first, 4):
            generator = torch.Generator().manual_seed(100 * epoch + step)
            x = torch.randn(8, 3, 8, 8, generator=generator)
            yield x, (x.mean((1, 2, 3)) > 0).long()


class CrossEntropy:
    def __init__(self, dies_at=None, blows_at=None):
        self.dies_at, self.blows_at, self.seen = dies_at, blows_at, 0

    def step(self, model, images, labels, *, step, backward):
        if step == self.dies_at:
            raise KeyboardInterrupt
        self.seen += 1
        loss = F.cross_entropy(model(images), labels)
        if step == self.blows_at:
            loss = loss * math.nan
        backward(loss)
        return loss.detach()

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def network(dropout=0.5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, 2))


RECIPE = Recipe(epochs=3, learning_rate=0.1)


def trained(recipe=RECIPE, objective=None, **options):
    model, objective = network(), objective or CrossEntropy()
    losses = fit(model, objective, Toy(), recipe, seed=0, fabric=make_fabric("cpu"), **options)
    return model, objective, losses


@pytest.mark.parametrize("dies_at", [0, 1, 3, 4, 7, 11])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, monkeypatch, dies_at):
    monkeypatch.setattr("tipslib.training.CHECK_EVERY", 1)
    expected, objective, losses = trained()
    path = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        trained(objective=CrossEntropy(dies_at=dies_at), checkpoint=path, checkpoint_seconds=0)
    resumed, again, losses_again = trained(checkpoint=path, checkpoint_seconds=0)
    assert losses_again == losses
    assert again.seen == objective.seen == 12
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in resumed.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]


def test_a_finished_run_is_not_repeated(tmp_path):
    path = tmp_path / "run.ckpt"
    first, _, losses = trained(checkpoint=path)
    second, objective, losses_again = trained(objective=CrossEntropy(dies_at=0), checkpoint=path)
    assert losses == losses_again
    assert objective.seen == 12
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in second.state_dict().items())


def test_losses_equal_plain_pytorch():
    recipe = Recipe(epochs=2, learning_rate=0.1, schedule="linear", weight_decay=0.01, nesterov=True)
    losses = fit(network(dropout=0.0), CrossEntropy(), Toy(), recipe, seed=0, fabric=make_fabric("cpu"))
    model = network(dropout=0.0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / 8)
    expected = []
    for epoch in range(2):
        total = 0.0
        for step, (x, y) in enumerate(Toy().batches(epoch)):
            torch.manual_seed(4 * epoch + step)
            optimiser.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimiser.step()
            scheduler.step()
            total += loss.item()
        expected.append(total / 4)
    assert losses == pytest.approx(expected, rel=1e-5)


def test_learning_rates_of_warm_up_and_cosine():
    recipe = Recipe(epochs=10, learning_rate=2.0, warmup_epochs=2)
    assert [recipe.rate(s, 5) for s in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert recipe.rate(10, 5) == pytest.approx(2.0)
    assert recipe.rate(30, 5) == pytest.approx(1.0)
    assert recipe.rate(49, 5) == pytest.approx(1 + math.cos(math.pi * 39 / 40), abs=1e-12)


def test_weight_decay_can_spare_depthwise_norm_and_bias():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}

    class Nothing(CrossEntropy):
        def step(self, model, images, labels, *, step, backward):
            loss = 0 * sum(p.sum() for p in model.parameters())
            backward(loss)
            return loss.detach()

    recipe = Recipe(epochs=1, learning_rate=0.1, weight_decay=0.5, decay_everything=False)
    fit(model, Nothing(), Toy(), recipe, seed=0, fabric=make_fabric("cpu"))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"0.weight", "4.weight"}


def test_divergence_names_step_and_rate_and_keeps_the_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    with pytest.raises(Diverged, match=r"step 6 \(learning rate 0.05\).*run\.ckpt is from before"):
        trained(objective=CrossEntropy(blows_at=6), checkpoint=path, checkpoint_seconds=0)
    assert path.exists()


def test_altered_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    trained(checkpoint=path)
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:10], b"", whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]):
        path.write_bytes(broken)
        with pytest.raises(CorruptFile, match=r"run\.ckpt: the checkpoint was cut or altered"):
            trained(checkpoint=path)


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_files_that_are_no_checkpoint_are_refused_and_nothing_in_them_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    torch.save(network().state_dict(), path)
    plain = path.read_bytes()
    for content in (plain, b"no checkpoint", pickle.dumps(Runs(), protocol=2)):
        for checksum in (b"", hashlib.sha256(content).digest()):
            path.write_bytes(checksum + content)
            with pytest.raises(CorruptFile, match=r"weights\.pt: the checkpoint was cut or altered, or is none of a training run"):
                trained(checkpoint=path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": Recipe(epochs=3, learning_rate=0.2)}, "learning_rate is 0.1 there and 0.2 here. Name another file"),
        ({"recipe": Recipe(epochs=4, learning_rate=0.1)}, "epochs is 3 there and 4 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        (
            {"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 2))},
            r"the shape of 1\.weight is \(4,\) there and \(2, 192\) here, and \d+ more",
        ),
        (
            {"model": nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(192, 2))},
            r"the shape of 2\.weight is None there and \(2, 192\) here",
        ),
        ({"loader": 3}, "steps of an epoch is 4 there and 3 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs_and_the_network_left_alone(tmp_path, change, message):
    path = tmp_path / "run.ckpt"
    trained(checkpoint=path)
    model, loader = change.get("model", network()), Toy()
    if "loader" in change:
        loader = type("Short", (Toy,), {"__len__": lambda self: change["loader"]})()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InvalidInput, match=rf"run\.ckpt: the checkpoint of another run: {message}"):
        fit(
            model,
            CrossEntropy(),
            loader,
            change.get("recipe", RECIPE),
            seed=change.get("seed", 0),
            fabric=make_fabric("cpu"),
            checkpoint=path,
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loader_without_batches_is_refused():
    empty = type("Empty", (Toy,), {"__len__": lambda self: 0})()
    with pytest.raises(InvalidInput, match="the loader has no batches"):
        fit(network(), CrossEntropy(), empty, RECIPE, seed=0, fabric=make_fabric("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup_epochs": 5}, "warmup_epochs"),
        ({"learning_rate": math.inf}, "learning_rate = inf"),
        ({"learning_rate": math.nan}, "learning_rate = nan"),
        ({"weight_decay": math.nan}, "weight_decay = nan"),
        ({"schedule": "step"}, "schedule = 'step'; allowed are 'cosine' and 'linear'"),
        ({"nesterov": True, "momentum": 0.0}, "momentum above 0"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        Recipe(**({"epochs": 5, "learning_rate": 0.1} | changes))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
from test_training import plain
from tipslib.processes import make_fabric
from tipslib.training import Diverged

fabric = make_fabric("cpu")
found = plain(fabric)
try:
    plain(fabric, blows_at=3 if fabric.global_rank == 1 else None)
except Diverged as error:
    torch.save((*found, str(error)), Path(sys.argv[1]) / f"{{fabric.global_rank}}.pt")
"""


def plain(fabric, blows_at=None):
    """Losses, weights and statistics of a small network, of which every process sees its share of each batch."""

    class Share(Toy):
        def batches(self, epoch, first=0):
            for x, y in super().batches(epoch, first):
                yield x[fabric.global_rank :: fabric.world_size], y[fabric.global_rank :: fabric.world_size]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    losses = fit(model, CrossEntropy(blows_at=blows_at), Share(), Recipe(epochs=2, learning_rate=0.1), seed=0, fabric=fabric)
    return losses, model.state_dict()


def test_two_processes_of_half_a_batch_equal_one_and_stop_together_where_one_diverges(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT.format(folder=os.path.dirname(__file__))))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command = [*launcher, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    losses, weights = plain(make_fabric("cpu"))
    for rank in (0, 1):
        of_two, weights_of_two, message = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert losses == pytest.approx(of_two, rel=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(value, weights_of_two[name], rtol=1e-4, atol=1e-6)
        assert "not finite at step 3 (learning rate 0." in message
