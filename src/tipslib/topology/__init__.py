"""Which operations of a network matter? Graph, subnetworks, Markov chain, paths (TIPS, sections 3.1 and 3.2)."""

from tipslib.topology.graph import FeatureMap, NetworkGraph, Operation
from tipslib.topology.markov import hyper_adjacency, stationary_distribution, tas, transition_matrix
from tipslib.topology.paths import (
    BestPath,
    all_paths,
    best_paths,
    count_paths,
    important_operations,
    important_path,
    sample_paths,
    tps,
)
from tipslib.topology.subnetworks import count_subnetworks, is_valid, sample_subnetworks

__all__ = [
    "BestPath",
    "FeatureMap",
    "NetworkGraph",
    "Operation",
    "all_paths",
    "best_paths",
    "count_paths",
    "count_subnetworks",
    "hyper_adjacency",
    "important_operations",
    "important_path",
    "is_valid",
    "sample_paths",
    "sample_subnetworks",
    "stationary_distribution",
    "tas",
    "tps",
    "transition_matrix",
]
