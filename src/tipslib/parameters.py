"""Is this a legal set of parameters? Mappings and `key=value` strings become frozen, typed, checked dataclasses."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tipslib.errors import InvalidInput

P = TypeVar("P")


def parse(cls: type[P], values: Mapping[str, Any]) -> P:
    """Build the frozen dataclass `cls` from `values`; fields that are not named keep their defaults.

    Field types may be `int`, `float`, `bool`, `str`, `Literal[...]`, `tuple[X, ...]`, and any of them `| None`.
    What is possible (ranges, combinations) the dataclass itself says in `__post_init__`.

    Raises
    ------
    InvalidInput
        Unknown name, wrong type or impossible value; the message names what is allowed.
    """
    fields = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            raise InvalidInput(f"no parameter {name!r}; there are {', '.join(fields)}")
    return cls(**{name: _convert(value, fields[name], name) for name, value in values.items()})


def parse_text(text: str) -> tuple[str, Any]:
    """Split `key=value`; the value is read as JSON (`0.5`, `[2, 4]`, `true`, `null`) and otherwise taken as a string."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise InvalidInput(f"{text!r} is not of the form key=value")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def to_json(parameters: Any) -> dict[str, Any]:
    """The parameters as plain JSON values (tuples become lists), every field written out."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(parameters), allow_nan=False))
    return plain


def _convert(value: Any, kind: Any, name: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(kind):
            return None
        (kind,) = [k for k in typing.get_args(kind) if k is not type(None)]
        return _convert(value, kind, name)
    if origin is typing.Literal:
        if (type(value), value) not in [(type(allowed), allowed) for allowed in typing.get_args(kind)]:
            raise InvalidInput(f"{name} = {value!r}; allowed are {', '.join(map(repr, typing.get_args(kind)))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise InvalidInput(f"{name} = {value!r}; a list is wanted, such as {name}=[1, 2]")
        return tuple(_convert(v, typing.get_args(kind)[0], name) for v in value)
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if type(value) is not kind:
        raise InvalidInput(f"{name} = {value!r} is of type {type(value).__name__}; {kind.__name__} is wanted")
    if kind is float and not math.isfinite(value):
        raise InvalidInput(f"{name} = {value!r}; a finite number is wanted")
    return value
