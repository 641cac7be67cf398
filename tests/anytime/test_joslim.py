"""Joslim's proposals: when, how many, from which losses; the optimisation against brute force and against itself interrupted."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from test_strategies import Recorder, batch, supernet
from torch.nn import functional as F

from tipslib.anytime.joslim import BETA, Acquisition, Joslim, chebyshev, gaussian_process
from tipslib.anytime.widths import Dimension, WidthSpace, spread


def strategy(net, proposals=None):
    return Joslim(net, held_out=[batch(90), batch(91), batch(92)], proposals=proposals)


def test_widths_are_held_for_tau_steps_and_a_run_makes_the_number_of_proposals():
    net = supernet()
    joslim = strategy(net, proposals=8)
    joslim.phases(epochs=4, steps=5)
    assert joslim.tau == 5
    recorder = Recorder(net)
    seen = []
    for step in range(20):
        recorder.step(joslim, step)
        seen.append(recorder.passes[1:3])
    assert len(joslim.proposed) == 8
    assert all(pair == list(joslim.proposed[2 * (i // 5) : 2 * (i // 5) + 2]) for i, pair in enumerate(seen))


@pytest.mark.parametrize(
    ("epochs", "steps", "tau", "tolerance"),
    [(250, 1251, 625, 2), (300, 391, 235, 2), (1, 200, 10, 1), (1, 1, 1, 0)],  # the first two are in the instructions of their code
)
def test_tau_follows_from_the_length_of_the_run(epochs, steps, tau, tolerance):
    joslim = strategy(supernet(), proposals=None)
    joslim.phases(epochs, steps)
    assert abs(joslim.tau - tau) <= tolerance


def test_first_proposals_have_one_ratio_then_the_full_network_then_the_optimisation(monkeypatch):
    net = supernet("OFA")
    joslim = strategy(net)
    asked = []

    def at_cost(self, target, nearest, cost):
        asked.append(target)
        return net.space.smallest

    monkeypatch.setattr(Acquisition, "at_cost", at_cost)
    for step in range(13):
        joslim._propose(step)
    proposed = joslim.proposed
    assert len(proposed) == 26
    ratios = np.array(proposed[:20]) / np.array(net.space.largest)
    assert np.abs(ratios[:, 0] - ratios[:, 1]).max() <= 0.5 / 4 + 0.5 / 24  # to the nearest choice
    assert proposed[20] == net.space.largest
    assert proposed[21:] == [net.space.smallest] * 5
    levels = np.linspace(net.macs(net.space.smallest) / net.macs(net.space.largest), 1, 50)
    assert len(set(asked)) > 1
    assert all(np.abs(levels - target).min() < 1e-9 for target in asked)


def test_losses_are_those_of_all_proposals_now_on_the_held_out_batch_whose_turn_it_is():
    net = supernet(norms=True)
    joslim = strategy(net)
    joslim.proposed = [(5,), (20,), (12,)]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = joslim._losses(step=4)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    images, labels = batch(91)  # the fourth round of three batches
    conv, norm, linear = net.body[0], net.body[1], net.body[5]
    expected = []
    with torch.no_grad():
        for (k,) in joslim.proposed:
            x = F.conv2d(images, conv.weight[:k], conv.bias[:k])
            x = F.batch_norm(x, None, None, norm.weight[:k], norm.bias[:k], training=True)
            logits = F.relu(x).mean((2, 3)) @ linear.weight[:, :k].T + linear.bias
            expected.append(F.cross_entropy(logits, labels, label_smoothing=0.1).item())
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_is_left_to_the_training_loop(monkeypatch):
    net = supernet()
    joslim = strategy(net)
    joslim.proposed = [net.space.smallest] * 30
    monkeypatch.setattr(joslim, "_losses", lambda step: np.array([np.nan] * 30))
    joslim._propose(0)
    assert len(joslim.proposed) == 32


def test_chebyshev_by_hand():
    assert chebyshev(np.array([1.0]), np.array([-1.0]), 0.25) == pytest.approx(3.0 + 1e-6 * 3.5)
    assert chebyshev(np.array([1.0]), np.array([-1.0]), 0.75) == pytest.approx(1.5 + 1e-6 * 2.5)


def problem(dimensions, count, seed=0):
    """Costs and losses with a known trade-off: the dimensions that cost most help least."""
    generator = np.random.default_rng(seed)
    weights = np.linspace(0.5, 1.5, dimensions) / dimensions
    low = np.full(dimensions, 0.25)
    ratios = low + (1 - low) * generator.random((count, dimensions))
    ratios[: count // 2] = ratios[: count // 2, :1]
    ratios[0] = 1
    return ratios, ((1 - ratios) ** 2) @ weights[::-1], ratios**2 @ weights, low, weights


def test_gaussian_process_interpolates_what_it_was_shown_and_is_standardised():
    ratios, losses, _, _, _ = problem(3, 40)
    model = gaussian_process(ratios, losses)
    assert isinstance(model, GaussianProcessRegressor)
    standard = (losses - losses.mean()) / losses.std(ddof=1)
    assert model.predict(ratios) == pytest.approx(standard, abs=0.1)
    assert gaussian_process(ratios, np.ones(40)).predict(ratios) == pytest.approx(np.zeros(40), abs=1e-6)


@pytest.mark.parametrize("scalar", [0.2, 0.5, 0.8])
def test_the_best_ratios_are_as_good_as_the_best_of_a_fine_grid(scalar):
    ratios, losses, costs, low, _ = problem(2, 30)
    acquisition = Acquisition(ratios, losses, costs, low, torch.Generator().manual_seed(0))
    axis = np.linspace(0.25, 1, 61)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    loss, cost = (m.predict(grid, return_std=True) for m in acquisition._models)
    bounds = [loss[0] - BETA**0.5 * loss[1], cost[0] - BETA**0.5 * cost[1]]
    found = acquisition.best(scalar)
    reached = chebyshev(*acquisition._bounds(found[None]), scalar)[0]
    assert ((low <= found) & (found <= 1)).all()
    assert reached <= chebyshev(*bounds, scalar).min() + 0.01


def test_proposals_cost_their_target_and_lose_less_than_one_ratio_for_all():
    ratios, losses, costs, low, weights = problem(6, 60)
    space = WidthSpace(tuple(Dimension(f"layer{i}", spread(50, 200, count=151)) for i in range(6)))

    def cost(widths):
        return float((np.array(widths) / 200) ** 2 @ weights)

    acquisition = Acquisition(ratios, losses, costs, low, torch.Generator().manual_seed(0))
    for target in (0.3, 0.5, 0.7):
        widths = acquisition.at_cost(target, space.at, cost)
        assert abs(cost(widths) - target) <= 0.02
        uniform = (1 - np.sqrt(cost(widths))) ** 2  # weights sum to 1
        assert ((1 - np.array(widths) / 200) ** 2) @ weights[::-1] < uniform


def test_proposals_resume_exactly():
    def proposals(stop=None):
        net = supernet("OFA")
        joslim = strategy(net)
        joslim.FIRST = 4
        for step in range(5):
            if step == stop:
                state, joslim = joslim.state_dict(), strategy(net)
                joslim.FIRST = 4
                joslim.load_state_dict(state)
            joslim._propose(step)
        return joslim.proposed

    whole = proposals()
    assert len(set(whole)) > 3
    for stop in (1, 3, 4):
        assert proposals(stop) == whole
