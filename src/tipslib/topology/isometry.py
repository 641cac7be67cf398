"""How close to 1 are the singular values of a residual network's Jacobians, layer by layer and along paths?

The networks are those of TIPS, Fig. 5a: blocks of two linear layers with a skip connection around them,
`y = x + relu(W2 relu(W1 x))`, all of one width, without biases. With the 0/1 activation masks D1, D2 of an input, the block's
branch has the Jacobian D2 W2 D1 W1. A path crosses consecutive blocks and takes the branch or the skip connection of each.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from tipslib.errors import require


class Route(IntEnum):
    """How a path passes a block: it does not touch it, takes the skip connection, or takes the two layers."""

    ABSENT = 0
    SKIP = 1
    LAYERS = 2


def mean_singular_value(matrices: Tensor) -> Tensor:
    """Mean of the min(m, n) singular values of each matrix of a batch (E[sigma] of TIPS, Prop. 3.1).

    Parameters
    ----------
    matrices : (..., m, n)
        Real, finite.

    Returns
    -------
    (...)

    Raises
    ------
    InvalidInput
        Fewer than two axes, an empty matrix, or entries that are not finite.
    """
    require(matrices.ndim >= 2, f"matrices of shape {tuple(matrices.shape)}; at least two axes (..., m, n) are wanted")
    require(min(matrices.shape[-2:]) > 0, f"matrices of shape {tuple(matrices.shape)}; m and n must be at least 1")
    require(bool(torch.isfinite(matrices).all()), "the matrices hold infinite or undefined entries; scale the weights or inputs down")
    values: Tensor = torch.linalg.svdvals(matrices)
    return values.mean(-1)


def residual_states(weights: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run the residual network and keep what its Jacobians need.

    Parameters
    ----------
    weights : (B, 2, w, w)
        `weights[b, 0]` = W1 and `weights[b, 1]` = W2 of block b.
    inputs : (n, w)
        One row per image.

    Returns
    -------
    states : (B + 1, n, w)
        Input of every block, and last the output.
    masks : (B, 2, n, w) bool
        Where the two layers of every block are active (diagonals of D1 and D2).

    Raises
    ------
    InvalidInput
        Shapes that do not fit.
    """
    _check_weights(weights)
    require(
        inputs.ndim == 2 and inputs.shape[1] == weights.shape[-1],
        f"inputs of shape {tuple(inputs.shape)}; (n, {weights.shape[-1]}) is wanted",
    )
    states, masks = [inputs], []
    for first, second in weights:
        hidden = states[-1] @ first.T
        branch = hidden.relu() @ second.T
        masks.append(torch.stack((hidden > 0, branch > 0)))
        states.append(states[-1] + branch.relu())
    return torch.stack(states), torch.stack(masks)


def block_means(weights: Tensor, masks: Tensor, *, released_order: bool = False) -> Tensor:
    """Mean singular value of each block's two-layer branch.

    Parameters
    ----------
    weights : (B, 2, w, w)
    masks : (B, 2, n, w) bool
    released_order
        False: the Jacobian D2 W2 D1 W1. True: the product W1 D1 W2 D2 of the code released with TIPS, which is no Jacobian of the block.

    Returns
    -------
    (B, n)

    Raises
    ------
    InvalidInput
        Shapes that do not fit.
    """
    _check_masks(weights, masks)
    first, second = (weights[:, layer, None] for layer in (0, 1))
    if released_order:
        columns = masks[..., None, :].to(weights.dtype)
        return mean_singular_value((first * columns[:, 0]) @ (second * columns[:, 1]))
    rows = masks[..., :, None].to(weights.dtype)
    return mean_singular_value((second * rows[:, 1]) @ (first * rows[:, 0]))


def layer_means(weights: Tensor, masks: Tensor) -> Tensor:
    """Mean singular value of every layer's Jacobian with respect to all its inputs.

    The first layer of a block has one input, so its Jacobian is D1 W1. The second adds the skip connection, so its Jacobian with
    respect to (hidden, skip) is [D2 W2, I]; as [A, I][A, I]^T = A A^T + I, its singular values are sqrt(1 + sigma(A)^2) >= 1.

    Parameters
    ----------
    weights : (B, 2, w, w)
    masks : (B, 2, n, w) bool

    Returns
    -------
    (B, 2, n)

    Raises
    ------
    InvalidInput
        Shapes that do not fit.
    """
    _check_masks(weights, masks)
    require(bool(torch.isfinite(weights).all()), "the weights hold infinite or undefined entries")
    values = torch.linalg.svdvals(weights[:, :, None] * masks[..., None].to(weights.dtype))
    return torch.stack((values[:, 0].mean(-1), (1 + values[:, 1].square()).sqrt().mean(-1)), dim=1)


def released_path_means(blocks: Tensor, routes: Tensor) -> Tensor:
    """E[sigma] of paths as the code released with TIPS defines it: a sum over blocks divided by the number of nodes.

    A skipped block is one node and counts 1; a block of two layers is three nodes (two layers and the addition) and counts its mean
    singular value once.

    Parameters
    ----------
    blocks : (B, n)
        From `block_means`.
    routes : (P, B)
        `Route` of each path through each block.

    Returns
    -------
    (P,)
        Mean over the n images.

    Raises
    ------
    InvalidInput
        A path that is empty or has a gap.
    """
    skips, layers = _check_routes(routes, blocks.shape[0])
    total: Tensor = skips.sum(1) + layers.to(blocks.dtype) @ blocks.mean(1)
    return total / (skips.sum(1) + 3 * layers.sum(1))


def layerwise_path_means(layers: Tensor, routes: Tensor) -> Tensor:
    """E[sigma] of paths as the mean over the layers whose outputs they visit, each with respect to all its inputs.

    A path through a block's branch visits both its layers; one through the skip connection visits the second only, where the skip
    connection ends.

    Parameters
    ----------
    layers : (B, 2, n)
        From `layer_means`.
    routes : (P, B)

    Returns
    -------
    (P,)
        Mean over the n images.

    Raises
    ------
    InvalidInput
        A path that is empty or has a gap.
    """
    skipped, expanded = (chosen.to(layers.dtype) for chosen in _check_routes(routes, layers.shape[0]))
    first, second = layers.mean(2).T
    total: Tensor = expanded @ first + (skipped + expanded) @ second
    return total / (skipped.sum(1) + 2 * expanded.sum(1))


def end_to_end_path_means(weights: Tensor, states: Tensor, routes: Tensor, *, shortcuts: bool) -> Tensor:
    """E[sigma] of the Jacobian from the first to the last node of each path, the path run as a network of its own.

    It starts from the state of the full network at its first block, and makes its own activations from there.

    Parameters
    ----------
    weights : (B, 2, w, w)
    states : (B + 1, n, w)
        From `residual_states`.
    routes : (P, B)
    shortcuts
        False: the operations on the path and no others, so a block is D2 W2 D1 W1 or, skipped, I.
        True: every operation between nodes of the path, so a block with its layers keeps its skip connection: I + D2 W2 D1 W1.

    Returns
    -------
    (P,)
        Mean over the n images.

    Raises
    ------
    InvalidInput
        Shapes that do not fit, or a path that is empty or has a gap.
    """
    return mean_singular_value(path_jacobians(weights, states, routes, shortcuts=shortcuts)).mean(1)


def path_jacobians(weights: Tensor, states: Tensor, routes: Tensor, *, shortcuts: bool) -> Tensor:
    """The Jacobians (P, n, w, w) whose mean singular values `end_to_end_path_means` returns; arguments as there."""
    _check_weights(weights)
    blocks, _, width, _ = weights.shape
    require(
        states.ndim == 3 and states.shape[0] == blocks + 1 and states.shape[2] == width,
        f"states of shape {tuple(states.shape)}; ({blocks + 1}, n, {width}) is wanted",
    )
    skips, layers = _check_routes(routes, blocks)
    starts = (skips | layers).int().argmax(1)
    state = states[starts]
    # transposed, so that a layer is one matrix product for all paths and images
    transposed = torch.eye(width, dtype=weights.dtype, device=weights.device).expand(*state.shape, width).clone()
    for block, (first, second) in enumerate(weights):
        paths = layers[:, block].nonzero().squeeze(1)
        before = transposed[paths]
        hidden = state[paths] @ first.T
        branch = hidden.relu() @ second.T
        inner = (before @ first.T).mul_((hidden > 0)[..., None, :])
        outer = (inner @ second.T).mul_((branch > 0)[..., None, :])
        transposed[paths] = outer.add_(before) if shortcuts else outer
        state[paths] = state[paths] + branch.relu() if shortcuts else branch.relu()
    return transposed.mT


def _check_weights(weights: Tensor) -> None:
    shape = tuple(weights.shape)
    require(len(shape) == 4 and shape[1] == 2 and shape[2] == shape[3] > 0, f"weights of shape {shape}; (blocks, 2, w, w) is wanted")


def _check_masks(weights: Tensor, masks: Tensor) -> None:
    _check_weights(weights)
    blocks, _, width, _ = weights.shape
    require(
        masks.dtype == torch.bool and masks.ndim == 4 and (*masks.shape[:2], masks.shape[3]) == (blocks, 2, width),
        f"masks of shape {tuple(masks.shape)}, {masks.dtype}; booleans of shape ({blocks}, 2, n, {width}) are wanted",
    )


def _check_routes(routes: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    require(routes.ndim == 2 and routes.shape[1] == blocks, f"routes of shape {tuple(routes.shape)}; (paths, {blocks}) is wanted")
    allowed = torch.tensor([int(route) for route in Route], device=routes.device)
    require(bool(torch.isin(routes, allowed).all()), f"routes hold other values than {', '.join(map(repr, Route))}")
    present = routes != Route.ABSENT
    entered = (present.int().diff(dim=1, prepend=torch.zeros_like(present[:, :1]).int()) == 1).sum(1)
    require(bool((entered == 1).all()), "every path must cross one unbroken run of blocks; a path is empty or has a gap")
    return routes == Route.SKIP, routes == Route.LAYERS
