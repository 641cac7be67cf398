"""Which operations of an adaptive network matter, and what does adapting cost? Companion to TIPS and progressive intelligence."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tipslib.analysis import Analysis, analyze

__version__ = version("tipslib")
__all__ = ["Analysis", "__version__", "analyze"]


def __getattr__(name: str) -> Any:
    """Load the analysis when it is first asked for, so that `import tipslib` stays quick."""
    if name in ("Analysis", "analyze"):
        from tipslib import analysis

        return getattr(analysis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
