"""How often does the Markov chain over a supernet's subnetworks visit each feature map?"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from tipslib.errors import InvalidInput, require
from tipslib.topology.graph import NetworkGraph

Method = Literal["closed form", "power", "gth", "sparse"]
METHODS = ("closed form", "power", "gth", "sparse")
LARGEST_DENSE = 5000
"""States above which no dense matrix is built: 5000 states are 200 MB."""
STEPS = 1_000_000
"""Steps after which power iteration gives up."""


def tas(
    graph: NetworkGraph,
    masks: NDArray[np.bool_],
    coupling: float = 1.0,
    restart: float = 1e-5,
    *,
    directed: bool = False,
    method: Method = "closed form",
) -> NDArray[np.float64]:
    """Topological accumulated score of every feature map (TIPS, Definition 1, Eq. 8).

    Parameters
    ----------
    graph, masks, coupling, restart, directed, method
        As for `stationary_distribution`.

    Returns
    -------
    (N,) float64
        mu_r, the sum over the T subnetworks of the stationary probability of node r. All N sum to 1.

    Raises
    ------
    InvalidInput
        As for `stationary_distribution`.
    """
    distribution = stationary_distribution(graph, masks, coupling, restart, directed=directed, method=method)
    scores: NDArray[np.float64] = distribution.sum(axis=0)
    return scores


def stationary_distribution(
    graph: NetworkGraph,
    masks: NDArray[np.bool_],
    coupling: float = 1.0,
    restart: float = 1e-5,
    *,
    directed: bool = False,
    method: Method = "closed form",
) -> NDArray[np.float64]:
    """Stationary distribution pi of the chain over T subnetworks, pi P = pi (TIPS, Eqs. 2, 4-7, 20).

    Parameters
    ----------
    graph
        The supernet: N feature maps, M operations.
    masks
        (T, M) bool, one row a subnetwork: True where it keeps the operation. Any masks will do, whoever made them.
    coupling
        lambda in [0, 1], the weight between the copies of one node in two subnetworks (Eq. 5); 0 is the ablation without.
    restart
        kappa in [0, 1), the weight of a step to any state (Eq. 20).
    directed
        False, as in the paper: an operation is walked both ways. True: only from source to target.
    method
        "closed form": pi is proportional to the row sums of Eq. 20, exactly, because that matrix is symmetric; O(MT + NT) time and
        O(NT) memory. "power": power iteration, "sparse": ARPACK, both with products only, in O(MT + NT) memory; where the second
        eigenvalue is 1 - g their error is about 1e-15 / g. "gth": elimination of Grassmann, Taksar and Heyman on the dense matrix,
        exact to rounding, for small chains. A directed chain needs one of the last three.

    Returns
    -------
    (T, N) float64
        pi, which sums to 1.

    Raises
    ------
    InvalidInput
        Wrong masks, coupling or restart; a chain whose stationary distribution is not unique (only with restart = 0); the closed
        form of a directed chain; too many states for "gth"; no convergence of "power" or "sparse".
    """
    require(method in METHODS, f"method {method!r} is unknown; allowed: {', '.join(METHODS)}")
    require(
        method != "closed form" or not directed,
        "the closed form needs a symmetric matrix, so an undirected chain; for a directed one take method 'power', 'sparse' or 'gth'",
    )
    chain = Chain(graph, masks, coupling, restart, directed=directed)
    recurrent = chain.recurrent_states() if restart == 0 else np.arange(chain.weights.size)
    if method == "closed form":
        pi: NDArray[np.float64] = chain.weights / chain.weights.sum()
        return pi
    if method == "gth":
        distribution = np.zeros(chain.weights.size)
        distribution[recurrent] = gth(chain.dense()[np.ix_(recurrent, recurrent)])
        return distribution.reshape(chain.shape)
    if method == "power" or chain.weights.size < 4:
        return _power(chain)
    return _arpack(chain)


def hyper_adjacency(graph: NetworkGraph, masks: NDArray[np.bool_], coupling: float = 1.0, *, directed: bool = False) -> sparse.csr_array:
    """The hyper-adjacency matrix (TIPS, Eqs. 2, 4, 5), for pictures and checks.

    Returns
    -------
    (NT, NT) scipy.sparse.csr_array of float64
        State k * N + r is node r of subnetwork k: block (k, k) is A_k, every other block lambda * I. Parallel operations add up.
        It holds all T (T - 1) N couplings, which `stationary_distribution` never builds.
    """
    chain = Chain(graph, masks, coupling, 0.0, directed=directed)
    count, size = chain.shape
    between = sparse.kron(coupling * (np.ones((count, count)) - np.eye(count)), sparse.eye_array(size))
    return sparse.csr_array(chain.within() + between)


def transition_matrix(
    graph: NetworkGraph, masks: NDArray[np.bool_], coupling: float = 1.0, restart: float = 1e-5, *, directed: bool = False
) -> NDArray[np.float64]:
    """The dense (NT, NT) transition matrix P, whose rows sum to 1 (TIPS, Eqs. 6 and 20), for small chains.

    Raises
    ------
    InvalidInput
        More than `LARGEST_DENSE` states, or with restart = 0 a state that no step leaves.
    """
    chain = Chain(graph, masks, coupling, restart, directed=directed)
    chain.refuse_dead_ends()
    return np.divide(chain.dense(), chain.weights.reshape(-1, 1))


class Chain:
    """The matrix (1 - kappa) H + kappa U of Eq. 20 as what it does: neither the couplings nor the all-one matrix U are ever built.

    Attributes
    ----------
    shape
        (T, N).
    weights
        (T, N) row sums of that matrix, by which Eq. 6 divides.
    """

    def __init__(self, graph: NetworkGraph, masks: NDArray[np.bool_], coupling: float, restart: float, *, directed: bool) -> None:
        check_masks(graph, masks)
        for name, value, allowed in (("coupling (lambda)", coupling, "[0, 1]"), ("restart (kappa)", restart, "[0, 1)")):
            within = isinstance(value, (int, float, np.number)) and 0 <= value <= 1 and (value < 1 or allowed == "[0, 1]")
            require(within, f"{name} must be a number in {allowed}, not {value!r}")
        self.graph, self.masks, self.directed = graph, masks, directed
        self.coupling, self.restart = float(coupling), float(restart)
        self.shape: tuple[int, int] = (masks.shape[0], len(graph))
        count, size = self.shape
        self.weights = self._degrees()
        self.weights += self.coupling * (count - 1)
        self.weights *= 1 - self.restart
        self.weights += self.restart * (count * size)

    def _degrees(self) -> NDArray[np.float64]:
        """(T, N) row sums of the A_k: kept operations of each node, plus 1 for the self-loop of input and output (Eq. 2)."""
        operations = len(self.graph.operations)
        ends = [self.graph.sources] if self.directed else [self.graph.sources, self.graph.targets]
        columns = np.tile(np.arange(operations), len(ends))
        incidence = sparse.csr_array((np.ones(columns.size), (np.concatenate(ends), columns)), shape=(self.shape[1], operations))
        degrees: NDArray[np.float64] = np.ascontiguousarray((incidence @ self.masks.T).T)
        degrees[:, [0, -1]] += 1
        return degrees

    def within(self) -> sparse.csr_array:
        """(NT, NT) block diagonal of the A_k (Eq. 2), sparse."""
        count, size = self.shape
        subnetwork, operation = np.nonzero(self.masks)
        rows, columns = subnetwork * size + self.graph.sources[operation], subnetwork * size + self.graph.targets[operation]
        if not self.directed:
            rows, columns = np.concatenate([rows, columns]), np.concatenate([columns, rows])
        loops = np.concatenate([np.arange(count) * size, np.arange(count) * size + size - 1])
        rows, columns = np.concatenate([rows, loops]), np.concatenate([columns, loops])
        return sparse.csr_array((np.ones(rows.size), (rows, columns)), shape=(count * size, count * size))

    def dense(self) -> NDArray[np.float64]:
        """(NT, NT) the matrix itself."""
        count, size = self.shape
        require(count * size <= LARGEST_DENSE, f"{count * size} states are too many for a dense matrix; take method 'power' or 'sparse'")
        between = np.kron(self.coupling * (1 - np.eye(count)), np.eye(size))
        matrix: NDArray[np.float64] = (1 - self.restart) * (self.within().toarray() + between) + self.restart
        return matrix

    def step(self, distribution: NDArray[np.float64], incoming: sparse.csr_array) -> NDArray[np.float64]:
        """(T, N) x P for a (T, N) distribution x; `incoming` is `within()` transposed."""
        share = distribution / self.weights
        moved: NDArray[np.float64] = (incoming @ share.ravel()).reshape(self.shape)
        moved += self.coupling * (share.sum(axis=0) - share)
        moved *= 1 - self.restart
        moved += self.restart * share.sum()
        return moved

    def refuse_dead_ends(self) -> None:
        """Refuse a state without any step: Eq. 6 would divide by zero."""
        require(
            bool(np.all(self.weights > 0)),
            "the chain is disconnected: a feature map has no operation left in some subnetwork, so no step leaves it; take restart > 0",
        )

    def recurrent_states(self) -> NDArray[np.int64]:
        """The states that a chain without restarts returns to for ever, in ascending order.

        Raises
        ------
        InvalidInput
            They fall into several classes, so the stationary distribution is not unique, or some state is never left.
        """
        self.refuse_dead_ends()
        links = self.within()
        states = np.arange(self.weights.size)
        if self.coupling > 0:
            links = links + sparse.csr_array((np.ones(states.size), (states, np.roll(states, -self.shape[1]))), shape=links.shape)
        classes, label = csgraph.connected_components(links, directed=True, connection="strong")
        rows, columns = links.nonzero()
        closed = np.ones(classes, dtype=bool)
        closed[label[rows[label[rows] != label[columns]]]] = False
        require(
            int(closed.sum()) == 1,
            f"the chain is disconnected: it falls into {closed.sum()} parts, so its stationary distribution is not unique; take restart "
            "(kappa) > 0, or coupling (lambda) > 0 and masks that together connect all feature maps",
        )
        return np.flatnonzero(closed[label])


def check_masks(graph: NetworkGraph, masks: NDArray[np.bool_]) -> None:
    """Refuse masks that are not (T, M) booleans with T >= 1."""
    is_boolean = isinstance(masks, np.ndarray) and masks.dtype == np.bool_
    require(is_boolean, f"masks must be a NumPy array of booleans, not {getattr(masks, 'dtype', type(masks).__name__)}; use .astype(bool)")
    operations = len(graph.operations)
    require(
        masks.ndim == 2 and masks.shape[1] == operations,
        f"masks have shape {masks.shape}; this graph of {operations} operations needs (T, {operations}), one row a subnetwork",
    )
    require(masks.shape[0] >= 1, "masks hold no subnetwork (T = 0); give at least one row")


def gth(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stationary distribution of an irreducible chain by elimination without subtraction (Grassmann, Taksar and Heyman, 1985).

    Parameters
    ----------
    matrix
        (n, n) non-negative weights; its rows need not be normalised.

    Returns
    -------
    (n,) float64
    """
    steps = matrix / matrix.sum(axis=1, keepdims=True)
    for last in range(len(steps) - 1, 0, -1):
        steps[:last, last] /= steps[last, :last].sum()
        steps[:last, :last] += np.outer(steps[:last, last], steps[last, :last])
    found = np.ones(len(steps))
    for state in range(1, len(steps)):
        found[state] = found[:state] @ steps[:state, state]
    distribution: NDArray[np.float64] = found / found.sum()
    return distribution


def _power(chain: Chain) -> NDArray[np.float64]:
    """Repeat x -> x P until a step moves nothing but rounding: the change has stopped falling."""
    incoming = chain.within().T.tocsr()
    distribution: NDArray[np.float64] = np.full(chain.shape, 1.0 / chain.weights.size)
    least, fell = np.inf, 0
    for step in range(STEPS):
        moved = chain.step(distribution, incoming)
        change = float(np.abs(moved - distribution).sum())
        distribution = moved / moved.sum()
        if change < least:
            least, fell = change, step
        if change == 0 or (least < 1e-12 and step - fell > 100):
            return distribution
    raise InvalidInput(f"power iteration still moves {change:.1e} of the mass after {STEPS} steps; take method 'gth' or 'sparse'")


def _arpack(chain: Chain) -> NDArray[np.float64]:
    """The eigenvector of P transposed for the eigenvalue 1, by ARPACK."""
    incoming = chain.within().T.tocsr()
    states = chain.weights.size

    def product(vector: NDArray[np.float64]) -> Any:
        return chain.step(vector.reshape(chain.shape), incoming).ravel()

    operator = sparse_linalg.LinearOperator((states, states), matvec=product, dtype=np.float64)
    try:
        _, vectors = sparse_linalg.eigs(operator, k=1, which="LR", v0=np.full(states, 1.0 / states), tol=0)
    except sparse_linalg.ArpackNoConvergence as error:
        raise InvalidInput(f"ARPACK has not converged ({error}); take method 'power' or 'gth'") from error
    vector: NDArray[np.float64] = np.abs(vectors[:, 0].real)
    distribution: NDArray[np.float64] = (vector / vector.sum()).reshape(chain.shape)
    return distribution
