"""Which network does `package.module:factory` name, and which shape `1,3,224,224`?"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

from torch import nn

from tipslib.errors import InvalidInput


def shape_of(text: str) -> tuple[int, ...]:
    """`"1,3,224,224"` as (1, 3, 224, 224).

    Raises
    ------
    InvalidInput
        Fewer than two numbers, or one that is not a whole number from 1.
    """
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise InvalidInput(f"input {text!r}; whole numbers from 1 with commas are wanted, the batch first, such as 1,3,224,224")
    return shape


def network_of(text: str) -> nn.Module:
    """The network that `package.module:factory` names: as it is, or what calling the class or function gives.

    Modules are looked for in the current folder first.

    Raises
    ------
    InvalidInput
        Not of that form, cannot be imported, no such name, needs arguments, raises, or gives something else than a network.
    """
    name, _, factory = text.partition(":")
    if not name or not factory:
        raise InvalidInput(f"{text!r} is not of the form package.module:factory, such as torchvision.models:resnet18")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(name)
    except Exception as error:  # whatever stands in the module is run now
        raise InvalidInput(
            f"cannot import {name} ({type(error).__name__}: {error}); it must be installed, or lie in the current folder. "
            f"`python -c 'import {name}'` there shows the place"
        ) from error
    for part in factory.split("."):
        if not hasattr(found, part):
            defined = [
                key
                for key, value in getattr(found, "__dict__", {}).items()
                if callable(value) and getattr(value, "__module__", None) == name
            ]
            raise InvalidInput(f"{name} has no {factory}; it defines {', '.join(defined) or 'nothing that could be called'}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module):
        found = _made(found, text)
    if not isinstance(found, nn.Module):
        raise InvalidInput(f"{text} gave something of type {type(found).__name__}; a network (torch.nn.Module) is wanted")
    return found


def _made(factory: Any, text: str) -> Any:
    if not callable(factory):
        raise InvalidInput(f"{text} is of type {type(factory).__name__}; a network, or a class or function that makes one, is wanted")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise InvalidInput(f"{text} cannot be called without arguments ({error}); name a function that passes them") from error
    try:
        return factory()
    except Exception as error:
        raise InvalidInput(f"{text} raised {type(error).__name__}: {error}. Call it by hand to see the place") from error
