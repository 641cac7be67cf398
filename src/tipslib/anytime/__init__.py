"""Networks whose widths change at run time: elastic layers, supernets, strategies to train them, search, and switching (TIPS, 3.3-3.5)."""

from tipslib.anytime.elastic import Supernet, important_dimensions, make_elastic
from tipslib.anytime.layers import Statistics
from tipslib.anytime.pareto import pareto_front, pareto_search
from tipslib.anytime.runtime import AnytimeNetwork, Subnetwork
from tipslib.anytime.strategies import strategies
from tipslib.anytime.supernets import mobilenet_v2_supernet, resnet18_supernet, resnet34_supernet
from tipslib.anytime.widths import Dimension, WidthSpace

__all__ = [
    "AnytimeNetwork",
    "Dimension",
    "Statistics",
    "Subnetwork",
    "Supernet",
    "WidthSpace",
    "important_dimensions",
    "make_elastic",
    "mobilenet_v2_supernet",
    "pareto_front",
    "pareto_search",
    "resnet18_supernet",
    "resnet34_supernet",
    "strategies",
]
