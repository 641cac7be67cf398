"""Which colours and sizes do the figures use, so that they read in light and dark mode and for colour-blind readers?"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib import rcsetup

INK = "#0b0c0d"
"""Stands for "the colour of the text around the figure": `display` turns it into `currentColor`."""

_BLUE, _VERMILLION, _GREEN, _ORANGE, _PURPLE, _SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
_GREY = "#8a8a8a"

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "important": _VERMILLION,
        "unimportant": _GREY,
        "measured": _BLUE,
        "paper": _PURPLE,
        "theory": INK,
        "TIPS": _VERMILLION,
        "US-Nets": _BLUE,
        "Joslim": _GREEN,
        "DS-Net": _ORANGE,
        "OFA": _PURPLE,
    }
)
"""Colours by meaning, from the palette of Okabe and Ito."""

SERIES = (_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY)
"""Colours for series without a meaning of their own; the first ones stand out best on white and on black."""

SEQUENTIAL = "cividis"
"""Colour map for amounts; even in lightness, and safe for colour-blind readers."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Marker shapes to go with `SERIES`, so that nothing depends on colour alone."""

_STRATEGY_MARKERS: Mapping[str, str] = MappingProxyType({"TIPS": "o", "US-Nets": "s", "Joslim": "^", "DS-Net": "D", "OFA": "v"})

_RC: dict[Any, Any] = {
    "figure.figsize": (7.0, 4.2),
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.prop_cycle": rcsetup.cycler(color=SERIES),
    "font.size": 11,
    "grid.color": _GREY,
    "grid.alpha": 0.3,
    "image.cmap": SEQUENTIAL,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.color": INK,
    "patch.edgecolor": INK,
    "boxplot.boxprops.color": INK,
    "boxplot.whiskerprops.color": INK,
    "boxplot.capprops.color": INK,
    "boxplot.flierprops.color": INK,
    "boxplot.flierprops.markeredgecolor": INK,
    "svg.fonttype": "path",
}


def of_strategy(name: str) -> dict[str, Any]:
    """Colour, line and marker of a way to train a supernet, as keywords of matplotlib's `plot`.

    A control (`US-Nets+floor`) and `TIPS-released` are drawn as what they vary, dashed, with open markers.
    """
    kind = name.removesuffix("+floor").removesuffix("-released")
    style: dict[str, Any] = {"color": COLOURS[kind], "marker": _STRATEGY_MARKERS[kind], "linestyle": "-"}
    return style if kind == name else style | {"linestyle": (0, (4, 2)), "markerfacecolor": "none"}


def use_style() -> None:
    """Set matplotlib's defaults for the figures of the book; call it once, before the first figure."""
    mpl.rcParams.update(_RC)
