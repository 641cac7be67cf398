"""Which operations of an adaptive network matter, and what does adapting cost? Companion to TIPS and progressive intelligence."""

from importlib.metadata import version

__version__ = version("tipslib")
