"""Which errors can a user meet, what does each mean, and what is to be done? As the classes and docstrings of the library say."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

import tipslib
from tipslib import errors
from tipslib.errors import TipslibError

_RAISES = re.compile(r"^Raises\n-{3,}\n(.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^(\S[^\n]*)\n((?:[ ]+\S[^\n]*\n?)+)", re.MULTILINE)


def failures() -> list[type[TipslibError]]:
    """Every error that the library defines: those of `tipslib.errors` first, then those of single modules."""
    list(_modules())  # a class is known when its module was imported
    found: list[type[TipslibError]] = []
    below = [TipslibError]
    while below:
        below = [sub for each in below for sub in each.__subclasses__() if sub.__module__.partition(".")[0] == tipslib.__name__]
        found += below
    return sorted(dict.fromkeys(found), key=lambda each: (each.__module__ != errors.__name__, each.__module__))


def occasions() -> dict[str, list[tuple[str, str]]]:
    """Name of an error -> (function or class that raises it, when), in the order of the modules."""
    found: dict[str, list[tuple[str, str]]] = {}
    for module in _modules():
        for name, documented in _documented(module):
            place = f"{_offered_by(module, name)}.{name}"
            for raised in _RAISES.findall(inspect.getdoc(documented) or ""):
                for listed, when in _ENTRY.findall(raised):
                    for error in listed.split(", "):
                        found.setdefault(error, []).append((place, " ".join(when.split())))
    return found


def failures_list() -> str:
    """Every error for the book: what it means, what to do, with which status the command ends, and where it comes from."""
    where, parts = occasions(), []
    for error in failures():
        name = error.__name__
        parts.append(f"### {name}\n\n`{error.__module__}.{name}`; the command ends with status {error.status}.\n")
        parts.append(f"{inspect.cleandoc(error.__doc__ or '')}\n\n**What to do.** {error.remedy}\n")
        if name in where:
            lines = [f"- `{place}`: {when}" for place, when in where[name]]
            parts.append("\n".join([f":::{{dropdown}} Where it comes from ({len(lines)})", *lines, ":::\n"]))
    return "\n".join(parts)


def _modules() -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(tipslib.__path__, f"{tipslib.__name__}."):
        if not module.name.endswith(".__main__"):
            yield importlib.import_module(module.name)


def _offered_by(module: ModuleType, name: str) -> str:
    """The package, where that offers the name, as the pages of the library have it; else the module."""
    package = importlib.import_module(module.__name__.rpartition(".")[0])
    return package.__name__ if name.partition(".")[0] in getattr(package, "__all__", ()) else module.__name__


def _documented(module: ModuleType) -> Iterator[tuple[str, object]]:
    """What a module itself offers, and the methods of its classes, by their names in it."""
    for name, each in vars(module).items():
        if name.startswith("_") or getattr(each, "__module__", None) != module.__name__:
            continue
        yield name, each
        if inspect.isclass(each):
            yield from ((f"{name}.{own}", method) for own, method in vars(each).items() if not own.startswith("_"))
