"""Which operations of an adaptive network matter, and what does adapting cost? Companion to TIPS and progressive intelligence."""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tipslib.analysis import Analysis, analyze

# A network that changes its widths asks oneDNN for thousands of shapes; its cache, of 1024, would compile them again and again.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "20000")

__version__ = version("tipslib")
__all__ = ["Analysis", "__version__", "analyze"]


def __getattr__(name: str) -> Any:
    """Load the analysis when it is first asked for, so that `import tipslib` stays quick."""
    if name in ("Analysis", "analyze"):
        from tipslib import analysis

        return getattr(analysis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
