"""What are batch norm's statistics at a width? Not those of training, which many widths shared: they are taken anew from some images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tipslib.anytime.elastic import Supernet
from tipslib.anytime.layers import Statistics
from tipslib.errors import InvalidInput, require


def calibrate(net: Supernet, widths: Sequence[int], images: Iterable[Tensor]) -> Statistics:
    """Statistics of every batch norm at a width configuration.

    As in the released codes of US-Nets and Once-for-all: dropout is off, batch norms normalise by the batch, and the statistics of the
    batches are averaged, each batch counting the same, variances without bias (US-Nets). The supernet is left as it was. Once-for-all
    takes 2000 images.

    Parameters
    ----------
    net, widths
        The supernet and one number of channels for each dimension of its space.
    images
        Batches (B, C, H, W) of at least two images, normalised as in training and not augmented.

    Raises
    ------
    InvalidInput
        Widths outside the space, no images, a batch of one, or statistics that are not finite.
    """
    subnetwork = _exported(net, widths)
    norms = norms_of(net, subnetwork)
    recalibrate(subnetwork, norms, images)
    pairs = []
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        pairs.append((norm.running_mean, norm.running_var))
    finite = [torch.isfinite(tensor).all() for pair in pairs for tensor in pair]
    require(
        not finite or bool(torch.stack(finite).all()),
        "statistics are not finite: images or weights are not, or activations overflow; calibrate without autocast, or train anew",
    )
    return Statistics(tuple(pairs))


def accuracy_at(
    net: Supernet, batches: Iterable[tuple[Tensor, Tensor]], widths: Sequence[int], statistics: Statistics | None = None
) -> float:
    """Share of images, in [0, 1], that a subnetwork names rightly; the supernet is left as it was.

    Parameters
    ----------
    net, widths, statistics
        As for `Supernet.set_width`; without statistics the full network's own are sliced, which suits the full network alone.
    batches
        (images, labels); the device is asked once, at the end.

    Raises
    ------
    InvalidInput
        Widths outside the space, statistics of another number of batch norms, or no images.
    """
    if statistics is not None and len(statistics) != len(net.batch_norms):
        raise InvalidInput(f"statistics of {len(statistics)} batch norms for a supernet with {len(net.batch_norms)}; calibrate it anew")
    subnetwork = _exported(net, widths, statistics).eval()
    device = next(subnetwork.parameters()).device
    right, count = torch.zeros((), dtype=torch.int64, device=device), 0
    with torch.no_grad():
        for images, labels in batches:
            right += (subnetwork(images.to(device)).argmax(1) == labels.to(device)).sum()
            count += len(labels)
    require(count >= 1, "an accuracy needs at least one image; there was none")
    return int(right) / count


def _exported(net: Supernet, widths: Sequence[int], statistics: Statistics | None = None) -> nn.Module:
    """Without gradients: under autocast, weights that want them would be kept in its cache for as long as it lasts."""
    return net.export(widths, statistics).requires_grad_(False)


def norms_of(net: Supernet, subnetwork: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of an exported subnetwork, in the order of `Supernet.batch_norms`."""
    names = {id(module): name for name, module in net.body.named_modules()}
    found = [subnetwork.get_submodule(names[id(norm)]) for norm in net.batch_norms]
    return [norm for norm in found if isinstance(norm, nn.BatchNorm2d)]


@torch.no_grad()
def recalibrate(subnetwork: nn.Module, norms: Sequence[nn.BatchNorm2d], images: Iterable[Tensor]) -> None:
    """Give a plain network's batch norms the average statistics of some batches, in place; evaluation mode is left behind."""
    weight = next(subnetwork.parameters())
    kind = torch.promote_types(weight.dtype, torch.float32)
    subnetwork.eval()
    for norm in norms:
        # no momentum is torch's cumulative average; its counter stays on the host, because it is read at every batch
        norm.momentum, norm.track_running_stats, norm.num_batches_tracked = None, True, torch.zeros((), dtype=torch.int64, device="cpu")
        norm.running_mean, norm.running_var = (torch.zeros(norm.num_features, dtype=kind, device=weight.device) for _ in range(2))
        norm.train()
    none = True
    for batch in images:
        require(len(batch) >= 2, f"a batch of {len(batch)} images; batch norm needs at least 2 to calibrate")
        subnetwork(batch.to(weight.device))
        none = False
    require(not none, "batch norm cannot be calibrated without images; give some of the training images")
    subnetwork.eval()


def followed_by_norm(subnetwork: nn.Module) -> tuple[tuple[str, str], ...]:
    """(convolution, batch norm) by name, wherever the second alone takes what the first makes, and each runs once."""
    graph = fx.symbolic_trace(subnetwork).graph
    calls = [node for node in graph.nodes if node.op == "call_module"]
    modules = {node: subnetwork.get_submodule(node.target) for node in calls}
    times = [id(module) for module in modules.values()]
    pairs = []
    for node, module in modules.items():
        before = node.all_input_nodes[0]
        convolution = modules.get(before)
        follows = isinstance(module, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d) and len(before.users) == 1
        if follows and times.count(id(module)) == times.count(id(convolution)) == 1:
            pairs.append((str(before.target), str(node.target)))
    return tuple(pairs)


@torch.no_grad()
def fold(subnetwork: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Multiply batch norms into the convolutions before them, in place: the same network in evaluation mode, with less to do."""
    for first, second in pairs:
        convolution, norm = subnetwork.get_submodule(first), subnetwork.get_submodule(second)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        convolution.weight, convolution.bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
        subnetwork.set_submodule(second, nn.Identity())
