"""What a step of each strategy costs: the passes that are drawn once more are those of a real run, and their sums are right."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tipslib.anytime import strategies
from tipslib.anytime.strategies import train_supernet
from tipslib.batches import Loader
from tipslib.data import Dataset
from tipslib.experiments.fronts import Parameters
from tipslib.experiments.passes import Passes, passes, passes_of
from tipslib.parameters import to_json
from tipslib.processes import make_fabric
from tipslib.records import Record, Run

IMAGES, BATCH = 8, 4


def run(strategy: str, network: str = "mobilenet_v2", seed: int = 3) -> Run:
    p = Parameters(network, strategy, "digits", width=0.1, epochs=3, batch_size=BATCH)  # type: ignore[arg-type]
    return Run("fronts", to_json(p), "smoke", seed, "v1")


def trained(of: Run) -> list[tuple[int, bool]]:
    """MACs of every pass of a real run, with gradients or without; its teachers are copies of the supernet, and watched with it."""
    p = Parameters(**of.parameters)
    net = p.build(classes=10)
    rng = np.random.default_rng(0)
    data = Dataset("digits", "train", rng.integers(0, 255, (IMAGES, 8, 8, 1), np.uint8), np.arange(IMAGES), tuple("0123456789"), "")
    loader = Loader(data, BATCH, seed=of.seed, size=32, channels=3, drop_last=True)
    strategy = strategies[p.strategy](net, seed=of.seed, held_out=list(loader.batches(0)))
    seen: list[tuple[int, bool]] = []
    net.register_forward_pre_hook(lambda running, _: seen.append((running.macs(), torch.is_grad_enabled())))
    train_supernet(strategy, loader, p.recipe, seed=of.seed, fabric=make_fabric("cpu"))
    return seen


HELD = 2
"""Steps for which Joslim holds its widths in so short a run."""


@pytest.mark.parametrize("strategy", strategies)
def test_what_is_drawn_once_more_is_what_a_run_trains(strategy: str) -> None:
    found, real = passes(run(strategy), IMAGES // BATCH), trained(run(strategy))
    if strategy.startswith("Joslim"):
        steps = len(real) // 4
        assert real == [one for k in range(0, steps, HELD) for one in HELD * real[4 * k : 4 * k + 4]]
        real = [one for k in range(0, steps, HELD) for one in real[4 * k : 4 * k + 4]]
    assert found.learns.tolist() == [learns for _, learns in real]
    assert found.share * max(macs for macs, _ in real) == pytest.approx([macs for macs, _ in real])


@pytest.mark.parametrize(("strategy", "learning", "teaching"), [("US-Nets", [4], [0]), ("Joslim", [4], [0]), ("DS-Net", [4], [1]),
                         ("TIPS", [4], [0]), ("TIPS-released", [4], [3]), ("OFA", [1, 4, 4], [0, 1, 1])])  # fmt: skip
def test_passes_of_a_step_are_as_published(strategy: str, learning: list[float], teaching: list[float]) -> None:
    found = passes(run(strategy), 2)
    assert found.per_step(learning=True).tolist() == learning
    assert found.per_step(learning=False).tolist() == teaching
    assert sum(found.epochs) == 3


def test_work_is_counted_in_trainings_of_the_full_network() -> None:
    # two epochs of the full network alone; then steps with a half and a quarter, and a teacher
    two = Passes(np.array([1, 1, 0.5, 0.25, 1.0]), np.array([1, 1, 1, 1, 0], bool), np.array([0, 0, 1, 1, 1]), (2, 1), (2, 1))
    assert two.work() == pytest.approx([1, 1, 0.5 + 0.25 + 1 / 3])
    np.testing.assert_array_equal(two.per_step(learning=True), [1, 2])
    np.testing.assert_array_equal(two.per_step(learning=False), [0, 1])


@pytest.mark.parametrize("network", ["mobilenet_v2", "resnet34"])
def test_a_part_of_the_steps_says_the_same_as_all(network: str) -> None:
    few, many = (passes(run("TIPS", network), 200, looked_at) for looked_at in (200, 600))
    assert (sum(few.steps), sum(many.steps)) == (200, 600)
    assert few.work() == pytest.approx(many.work(), rel=0.05)


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = passes(run("US-Nets"), 2)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(passes(run("US-Nets"), 2).share, first.share)


def test_a_record_says_how_many_steps_its_epochs_have() -> None:
    of = Record(run("US-Nets"), {"images": {"training": IMAGES + BATCH - 1}}, {}, {}, Path("made-up"))
    np.testing.assert_array_equal(passes_of(of).share, passes(run("US-Nets"), IMAGES // BATCH).share)
