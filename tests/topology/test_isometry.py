"""Isometry against autograd, numpy's SVD, the Marchenko-Pastur law, algebra, and bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from tipslib.errors import InvalidInput
from tipslib.topology.degrees import average_degree, largest_variance, singular_value_bounds
from tipslib.topology.isometry import (
    Route,
    block_means,
    end_to_end_path_means,
    layer_means,
    layerwise_path_means,
    mean_singular_value,
    path_jacobians,
    released_path_means,
    residual_states,
)

A, S, L = Route.ABSENT, Route.SKIP, Route.LAYERS


def network(blocks: int = 4, width: int = 5, images: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.normal(0, 0.5, (blocks, 2, width, width)))
    return weights, torch.from_numpy(rng.normal(0, 1, (images, width)))


def numpy_mean(matrix: torch.Tensor) -> float:
    return float(np.linalg.svd(matrix.numpy(), compute_uv=False).mean())


def run_path(weights: torch.Tensor, route: list[Route], shortcuts: bool):
    """The network of one path, written plainly, for autograd."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        for (first, second), how in zip(weights, route, strict=True):
            if how == L:
                branch = torch.relu(second @ torch.relu(first @ x))
                x = x + branch if shortcuts else branch
        return x

    return forward


def test_states_are_those_of_the_plain_network():
    weights, inputs = network()
    states, masks = residual_states(weights, inputs)
    for image, x in enumerate(inputs):
        for block, (first, second) in enumerate(weights):
            hidden = torch.relu(first @ x)
            assert torch.equal(masks[block, 0, image], hidden > 0)
            assert torch.equal(masks[block, 1, image], second @ hidden > 0)
            x = x + torch.relu(second @ hidden)
            torch.testing.assert_close(states[block + 1, image], x)


def test_block_jacobian_is_autograds():
    weights, inputs = network()
    states, masks = residual_states(weights, inputs)
    found = block_means(weights, masks)
    for block, (first, second) in enumerate(weights):
        for image, x in enumerate(states[block]):
            branch = torch.autograd.functional.jacobian(lambda v, a=first, b=second: torch.relu(b @ torch.relu(a @ v)), x)
            assert float(found[block, image]) == pytest.approx(numpy_mean(branch), rel=1e-12)


def test_released_order_is_the_reversed_product():
    weights, inputs = network()
    _, masks = residual_states(weights, inputs)
    found = block_means(weights, masks, released_order=True)
    for block, (first, second) in enumerate(weights):
        for image in range(len(inputs)):
            one, two = (torch.diag(masks[block, layer, image].double()) for layer in (0, 1))
            assert float(found[block, image]) == pytest.approx(numpy_mean(first @ one @ second @ two), rel=1e-12)


def test_layer_jacobians_are_autograds_with_respect_to_all_inputs():
    weights, inputs = network()
    states, masks = residual_states(weights, inputs)
    found = layer_means(weights, masks)
    for block, (first, second) in enumerate(weights):
        for image, x in enumerate(states[block]):
            hidden = torch.relu(first @ x)
            one = torch.autograd.functional.jacobian(lambda v, a=first: torch.relu(a @ v), x)
            two = torch.autograd.functional.jacobian(lambda h, v, b=second: torch.relu(b @ h) + v, (hidden, x))
            assert float(found[block, 0, image]) == pytest.approx(numpy_mean(one), rel=1e-12)
            assert float(found[block, 1, image]) == pytest.approx(numpy_mean(torch.cat(two, dim=1)), rel=1e-12)


@pytest.mark.parametrize("shortcuts", [False, True])
def test_end_to_end_jacobian_is_autograds(shortcuts):
    weights, inputs = network()
    states, _ = residual_states(weights, inputs)
    routes = [[L, L, L, L], [S, L, S, L], [A, L, S, A], [A, A, S, S], [A, A, A, L]]
    table = torch.tensor(routes)
    jacobians = path_jacobians(weights, states, table, shortcuts=shortcuts)
    means = end_to_end_path_means(weights, states, table, shortcuts=shortcuts)
    for path, route in enumerate(routes):
        start = next(block for block, how in enumerate(route) if how != A)
        exact = [torch.autograd.functional.jacobian(run_path(weights, route, shortcuts), x) for x in states[start]]
        torch.testing.assert_close(jacobians[path], torch.stack(exact), rtol=1e-12, atol=1e-14)
        assert float(means[path]) == pytest.approx(np.mean([numpy_mean(j) for j in exact]), rel=1e-10)


def test_path_means_are_sums_over_blocks():
    weights, inputs = network(blocks=3)
    _, masks = residual_states(weights, inputs)
    blocks, layers = block_means(weights, masks), layer_means(weights, masks)
    routes = torch.tensor([[L, S, L], [A, S, S], [A, L, A]])
    a, b = blocks.mean(1).tolist(), layers.mean(2).tolist()
    assert released_path_means(blocks, routes).tolist() == pytest.approx([(a[0] + 1 + a[2]) / 7, 1, a[1] / 3], rel=1e-12)
    visited = [(sum(b[0]) + b[1][1] + sum(b[2])) / 5, (b[1][1] + b[2][1]) / 2, sum(b[1]) / 2]
    assert layerwise_path_means(layers, routes).tolist() == pytest.approx(visited, rel=1e-12)


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=20)
def test_a_layer_with_a_skip_connection_never_contracts(width, seed):
    weights, inputs = network(blocks=2, width=width, seed=seed)
    _, masks = residual_states(weights, inputs)
    assert float(layer_means(weights, masks)[:, 1].min()) >= 1


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=30)
def test_mean_singular_value_is_numpys_and_scales(rows, columns, seed):
    batch = np.random.default_rng(seed).normal(size=(2, 3, rows, columns))
    found = mean_singular_value(torch.from_numpy(batch))
    np.testing.assert_allclose(found, np.linalg.svd(batch, compute_uv=False).mean(-1), rtol=1e-12)
    torch.testing.assert_close(mean_singular_value(torch.from_numpy(-3 * batch)), 3 * found, rtol=1e-12, atol=0)


def test_orthogonal_weights_give_exactly_one():
    orthogonal = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).normal(size=(4, 8, 8))))[0]
    torch.testing.assert_close(mean_singular_value(orthogonal), torch.ones(4, dtype=torch.float64), rtol=1e-14, atol=0)
    identity = torch.eye(6, dtype=torch.float64).expand(3, 2, 6, 6)
    states, masks = residual_states(identity, torch.ones(2, 6, dtype=torch.float64))
    assert torch.equal(block_means(identity, masks), torch.ones(3, 2, dtype=torch.float64))
    all_layers = torch.full((1, 3), int(L))
    assert end_to_end_path_means(identity, states, all_layers, shortcuts=False).tolist() == [1.0]
    assert end_to_end_path_means(identity, states, all_layers, shortcuts=True).tolist() == [8.0]


def test_skipping_everything_is_the_identity():
    weights, inputs = network()
    states, masks = residual_states(weights, inputs)
    skips = torch.full((1, 4), int(S))
    assert released_path_means(block_means(weights, masks), skips).tolist() == [1.0]
    for shortcuts in (False, True):
        assert end_to_end_path_means(weights, states, skips, shortcuts=shortcuts).tolist() == [1.0]


def test_square_gaussian_matrices_have_the_quarter_circle_mean():
    """Singular values of an n x n matrix with variance 1/n follow the quarter-circle law, whose mean is 8 / (3 pi)."""
    matrix = torch.from_numpy(np.random.default_rng(0).normal(0, 1 / np.sqrt(600), (600, 600)))
    assert float(mean_singular_value(matrix)) == pytest.approx(8 / (3 * np.pi), abs=2e-3)


@pytest.mark.parametrize("ratio", [2, 5])
def test_wide_gaussian_matrices_have_the_marchenko_pastur_mean(ratio):
    rows = 300
    low, high = (1 - ratio**-0.5) ** 2, (1 + ratio**-0.5) ** 2
    density = lambda v: np.sqrt((high - v) * (v - low)) * ratio / (2 * np.pi * v)  # noqa: E731
    expected = integrate.quad(lambda v: np.sqrt(v) * density(v), low, high)[0]
    variance = 1 / (ratio * rows)
    matrix = torch.from_numpy(np.random.default_rng(1).normal(0, variance**0.5, (rows, ratio * rows)))
    found = float(mean_singular_value(matrix))
    assert found == pytest.approx(expected, abs=2e-3)
    lower, upper = singular_value_bounds(variance, ratio * rows, rows)
    assert lower < found < upper


def test_degrees_of_figure_3():
    assert average_degree((3, 3, 3)) == 3
    assert average_degree((3, 3, 3), [(0, 2)]) == 3.5
    assert average_degree((4, 2, 4), [(0, 2)]) == (8 + 8 + 4) / 6


def test_degree_counts_the_links_of_a_drawn_network():
    widths, skips = (3, 5, 3, 3), [(0, 2), (0, 3), (2, 3)]
    links = [(layer, i, layer + 1, j) for layer in range(3) for i in range(widths[layer]) for j in range(widths[layer + 1])]
    links += [(source, i, target, i) for source, target in skips for i in range(widths[source])]
    assert average_degree(widths, skips) == len(links) / sum(widths[1:])


@given(st.floats(1, 1e4), st.floats(1, 1e4))
def test_the_largest_variance_puts_the_upper_bound_at_one(effective, real):
    _, upper = singular_value_bounds(largest_variance(effective, real), effective, real)
    assert float(upper) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("shape", [(5,), (0, 3), (2, 3, 0)])
def test_matrices_that_are_none_are_refused(shape):
    with pytest.raises(InvalidInput, match="shape"):
        mean_singular_value(torch.ones(shape))


def test_undefined_entries_are_refused():
    weights, inputs = network()
    states, masks = residual_states(weights, inputs)
    broken = weights.clone()
    broken[1, 0, 0, 0] = torch.nan
    for measure in (
        lambda: mean_singular_value(broken),
        lambda: block_means(broken, masks),
        lambda: layer_means(broken, masks),
        lambda: end_to_end_path_means(broken, states, torch.full((1, 4), int(L)), shortcuts=True),
    ):
        with pytest.raises(InvalidInput, match="infinite or undefined"):
            measure()


def test_shapes_that_do_not_fit_are_refused():
    weights, inputs = network()
    states, masks = residual_states(weights, inputs)
    with pytest.raises(InvalidInput, match="weights of shape"):
        residual_states(weights[:, :1], inputs)
    with pytest.raises(InvalidInput, match="inputs of shape"):
        residual_states(weights, inputs[:, :3])
    with pytest.raises(InvalidInput, match="masks of shape"):
        block_means(weights, masks[:2])
    with pytest.raises(InvalidInput, match="booleans"):
        layer_means(weights, masks.double())
    with pytest.raises(InvalidInput, match="states of shape"):
        path_jacobians(weights, states[:2], torch.full((1, 4), int(L)), shortcuts=False)


@pytest.mark.parametrize(
    ("routes", "words"),
    [([[L, A, L, A]], "gap"), ([[A, A, A, A]], "empty"), ([[L, L]], "shape"), ([[L, L, L, 3]], "other values")],
)
def test_impossible_routes_are_refused(routes, words):
    weights, inputs = network()
    states, masks = residual_states(weights, inputs)
    table = torch.tensor(routes)
    for measure in (
        lambda: released_path_means(block_means(weights, masks), table),
        lambda: layerwise_path_means(layer_means(weights, masks), table),
        lambda: end_to_end_path_means(weights, states, table, shortcuts=False),
    ):
        with pytest.raises(InvalidInput, match=words):
            measure()


@pytest.mark.parametrize(
    ("widths", "skips", "words"),
    [
        ((3,), (), "widths"),
        ((3, 0), (), "widths"),
        ((3, 3), [(1, 1)], "skip"),
        ((3, 3), [(0, 2)], "skip"),
        ((3, 2, 4), [(0, 2)], "equal widths"),
    ],
)
def test_impossible_degrees_are_refused(widths, skips, words):
    with pytest.raises(InvalidInput, match=words):
        average_degree(widths, skips)


def test_impossible_bounds_are_refused():
    with pytest.raises(InvalidInput, match="positive"):
        singular_value_bounds(0.0, 80, 80)
    with pytest.raises(InvalidInput, match="positive"):
        largest_variance(-1, 80)
