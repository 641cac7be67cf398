"""Drawings of networks and matrices: nothing collides, nothing is missing, marks do not depend on colour alone."""

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch
from torchvision.models import get_model

from tipslib.errors import InvalidInput
from tipslib.experiments.walkthrough import TOY_POSITIONS, toy_supernet
from tipslib.reporting.graphs import draw_hyper_adjacency, draw_network
from tipslib.reporting.layout import MOST_COLUMNS, arrange, geometry_of
from tipslib.reporting.style import COLOURS
from tipslib.topology import NetworkGraph, hyper_adjacency, important_path, sample_subnetworks, tas

NETWORKS = {"mobilenet_v2": {}, "resnet34": {}, "googlenet": {"init_weights": False}, "densenet121": {}}
SHORT = NetworkGraph.from_edges([(0, 1), (1, 2), (0, 2)], kinds=["linear", "addition", "addition"])


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> NetworkGraph:
    return NetworkGraph.from_module(get_model(request.param, weights=None, **NETWORKS[request.param]), (1, 3, 224, 224))


@st.composite
def graphs(draw: st.DrawFn) -> NetworkGraph:
    nodes = draw(st.integers(2, 40))
    pairs = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)).filter(lambda p: p[0] < p[1])
    edges = {(draw(st.integers(0, i - 1)), i) for i in range(1, nodes)} | set(draw(st.lists(pairs, max_size=20)))
    ends = {source for source, _ in edges}
    return NetworkGraph.from_edges(sorted(edges | {(i, nodes - 1) for i in range(nodes - 1) if i not in ends}))


def lines(ax: Axes) -> list[PathPatch]:
    return [patch for patch in ax.patches if isinstance(patch, PathPatch)]


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def explained(ax: Axes) -> set[str]:
    legend = ax.get_legend()
    return {text.get_text() for text in legend.get_texts()} if legend else set()


def check_layout(graph: NetworkGraph) -> None:
    layout = arrange(graph)
    assert len({(d, lane) for d, lane in zip(layout.depth, layout.lane, strict=True)}) == len(graph), "two feature maps in one place"
    assert (layout.depth[graph.sources] < layout.depth[graph.targets]).all()
    assert layout.breaks[0] == 0
    assert layout.breaks[-1] == layout.depth.max()
    assert layout.columns <= MOST_COLUMNS
    for operation in graph.operations:
        top, bottom = layout.breaks[layout.column_of(operation.target) :][:2]
        assert top <= layout.depth[operation.source] < layout.depth[operation.target] <= bottom, "an operation runs between columns"


@given(graphs())
def test_any_network_has_a_layout(graph: NetworkGraph) -> None:
    check_layout(graph)


def test_real_networks_have_a_layout(network: NetworkGraph) -> None:
    check_layout(network)


def test_everything_is_drawn_inside_the_picture(network: NetworkGraph) -> None:
    geometry = geometry_of(network)
    left, right, bottom, top = geometry.box
    assert {node for node, _, _ in geometry.dots} == set(range(len(network)))
    assert len(geometry.lines) == len(network.operations)
    for line in geometry.lines:
        middle = np.array([1, 3, 3, 1]) @ line / 8
        assert left < middle[0] < right
        assert bottom < middle[1] < top
    named = [node for _, _, nodes in geometry.labels for node in nodes]
    assert set(named) == set(range(len(network)))
    places = [(round(x, 6), round(y, 6)) for _, x, y in geometry.dots]
    assert len(set(places)) == len(places)


def test_a_path_is_thick_coloured_and_bold(network: NetworkGraph) -> None:
    masks = sample_subnetworks(network, 4, rng=np.random.default_rng(0))
    scores = tas(network, masks)
    path = important_path(network, scores)
    ax = draw_network(network, path=path, masks=masks, scores=scores)
    on = np.isin(np.arange(len(network.operations)), path.operations)
    widths = np.array([line.get_linewidth() for line in lines(ax)])
    assert widths[on].min() > 2 * widths[~on].max()
    assert {to_hex(line.get_edgecolor()) for line, chosen in zip(lines(ax), on, strict=True) if chosen} == {COLOURS["important"].lower()}
    named = [node for _, _, nodes in geometry_of(network).labels for node in nodes]
    assert [text.get_weight() == "bold" for text in ax.texts] == np.isin(named, path.nodes).tolist()
    assert {"on the path", "larger: higher TAS"} <= explained(ax)


def test_what_no_subnetwork_keeps_is_dotted_and_explained() -> None:
    ax = draw_network(SHORT, masks=np.array([True, True, False]))
    assert [line.get_linestyle() == "-" or line.get_linestyle() == "solid" for line in lines(ax)] == [True, True, False]
    assert "left out" in explained(ax)
    assert "left out" not in explained(draw_network(SHORT))


def test_what_few_subnetworks_keep_is_faint() -> None:
    masks = np.array([[True, True, True], [True, True, False], [True, True, False], [True, True, False]])
    alpha = [line.get_alpha() for line in lines(draw_network(SHORT, masks=masks))]
    assert alpha[0] == alpha[1] == 1.0
    assert alpha[2] == pytest.approx(0.35 + 0.65 / 4)


def test_scores_set_the_size_of_dots() -> None:
    ax = draw_network(SHORT, scores=[0.2, 0.5, 0.3])
    sizes = [line.get_markersize() for line in ax.lines if line.get_marker() == "o"]
    assert sizes[0] < sizes[2] < sizes[1]


@pytest.mark.parametrize("edges", [[(0, 1)], [(0, 1), (0, 1), (0, 1)], [(0, 1), (1, 2), (0, 2), (0, 2)]])
def test_one_operation_and_parallel_ones_are_told_apart(edges: list[tuple[int, int]]) -> None:
    geometry = geometry_of(NetworkGraph.from_edges(edges))
    assert len({line.tobytes() for line in geometry.lines}) == len(edges)


def test_names_of_a_short_network_keep_clear_of_its_operations() -> None:
    ax = draw_network(toy_supernet(), positions=TOY_POSITIONS, legend=False)
    assert words(ax) == ["r", "v1", "v2", "v3", "v4", "v5", "d"]
    ax.figure.canvas.draw()
    for text in ax.texts:
        box = text.get_window_extent()
        assert not any(box.contains(x, y) for line in lines(ax) for x, y in _along(ax, line)), f"{text.get_text()} is crossed"


def _along(ax: Axes, line: PathPatch) -> np.ndarray:
    t = np.linspace(0, 1, 200)[:, None]
    p = line.get_path().vertices
    return ax.transData.transform((1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3])


def test_draws_into_given_axes() -> None:
    _, ax = plt.subplots()
    assert draw_network(SHORT, ax=ax, legend=False) is ax
    assert ax.get_legend() is None
    assert draw_hyper_adjacency(np.eye(3), 1, ax=ax) is ax


def test_hyper_adjacency_has_a_square_for_every_one_and_a_ring_for_every_coupling() -> None:
    masks = np.ones((3, 3), dtype=bool)
    ax = draw_hyper_adjacency(hyper_adjacency(SHORT, masks, 0.5), 3, names=["a", "b", "c"])
    squares, rings = ax.collections
    assert len(squares.get_offsets()) == 3 * (2 * 3 + 2)
    assert len(rings.get_offsets()) == 3 * 3 * 2
    assert rings.get_facecolor().size == 0
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"] * 3
    assert len(explained(ax)) == 2


def test_without_coupling_there_are_no_rings() -> None:
    ax = draw_hyper_adjacency(hyper_adjacency(SHORT, np.ones((2, 3), dtype=bool), 0.0), 2)
    assert len(ax.collections) == 1


def test_large_matrix_names_subnetworks_instead_of_feature_maps() -> None:
    graph = NetworkGraph.mlp(20, 4)
    masks = sample_subnetworks(graph, 5, rng=np.random.default_rng(0))
    ax = draw_hyper_adjacency(hyper_adjacency(graph, masks), 5, names=[node.name for node in graph.nodes])
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"$G_{{{k}}}$" for k in range(1, 6)]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: draw_network(SHORT, masks=np.ones((2, 4), dtype=bool)), "masks"),
        (lambda: draw_network(SHORT, scores=[1.0]), "scores"),
        (lambda: draw_network(SHORT, positions=[[0, 0]]), "positions"),
        (lambda: draw_hyper_adjacency(np.ones((2, 3)), 1), "square"),
        (lambda: draw_hyper_adjacency(np.eye(4), 3), "do not split"),
        (lambda: draw_hyper_adjacency(np.eye(4), 2, names=["a"]), "names"),
    ],
)
def test_wrong_shapes_are_refused(call: object, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        call()


def test_nothing_of_the_callers_style_changes() -> None:
    before = dict(mpl.rcParams)
    draw_network(SHORT)
    assert dict(mpl.rcParams) == before
