"""What do early exits do to a network, and how much do they save?"""

from tipslib.branched.exits import POLICIES, InferenceModes, entropy_thresholds, inference_modes, leave_when
from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.networks import BranchedNetwork, add_exits, branched_mobilenet, branched_resnet, resnet
from tipslib.branched.probes import area_under_curve, linear_probes
from tipslib.branched.separation import ClassSeparation, class_separation
from tipslib.branched.similarity import LayerSimilarity, cka

__all__ = [
    "POLICIES",
    "BranchedNetwork",
    "ClassSeparation",
    "InferenceModes",
    "LayerSimilarity",
    "add_exits",
    "area_under_curve",
    "branched_mobilenet",
    "branched_resnet",
    "cka",
    "class_separation",
    "entropy_thresholds",
    "inference_modes",
    "leave_when",
    "linear_probes",
    "probed_layers",
    "recording",
    "resnet",
]
