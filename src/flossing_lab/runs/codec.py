"""Frozen dataclasses as strict JSON, and back."""

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from flossing.support.strict_json import storable
from flossing.tasks import Task
from flossing.tasks.named import TASKS

Kind = TypeVar("Kind")

LEFT_OUT: Mapping[str, Any] = {"left out at its default": True}
"""Metadata of a field that is not written at its default."""


def encode(value: Any) -> Any:
    """Return a value of dataclasses, mappings, sequences and numbers as strict JSON.

    A task carries its name; numbers that are not finite become strings.

    Example:
        >>> from flossing.tasks import DelayedCopy
        >>> encode({"task": DelayedCopy(delay=5, steps=20), "losses": (0.5, float("inf"))})
        {'task': {'name': 'delayed-copy', 'delay': 5, 'steps': 20}, 'losses': [0.5, 'inf']}
    """
    if is_dataclass(value) and not isinstance(value, type):
        names = {kind: name for name, kind in TASKS.items()}
        document = {"name": names[type(value)]} if isinstance(value, Task) else {}
        for each in fields(value):
            own = getattr(value, each.name)
            if each.init and not (each.metadata == LEFT_OUT and own == each.default):
                document[each.name] = encode(own)
        return document
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in cast("list[Any]", value)]
    return storable(value)


def decode(kind: type[Kind], document: Any) -> Kind:
    """Return the value of a dataclass that `encode` made a document of.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is no such document.

    Example:
        >>> from flossing.tasks import DelayedCopy
        >>> decode(DelayedCopy, {"delay": 5, "steps": 20})
        DelayedCopy(delay=5, steps=20)
    """
    return _decode(kind, document)


def _decode(kind: Any, document: Any) -> Any:
    if get_origin(kind) is UnionType:
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
        return None if document is None else _decode(kind, document)
    if get_origin(kind) is tuple:
        _require_kind(list, document)
        return tuple(_decode(get_args(kind)[0], item) for item in document)
    if kind is Task:
        document = dict(document)
        kind = TASKS[document.pop("name")]
    if isinstance(kind, type) and is_dataclass(kind):
        types = _types(kind)
        return kind(**{name: _decode(types[name], item) for name, item in document.items()})
    if kind is float and document in ("inf", "-inf", "nan"):
        return float(document)
    _require_kind(kind, document)
    return document


def _require_kind(kind: Any, document: Any) -> None:
    """Require a number, a string, a choice or a mapping of the kind that the field has."""
    if get_origin(kind) is Literal:
        fits = document in get_args(kind)
    elif kind in (int, float):
        # `True` is an `int`; a whole number is one of the floats, and may not exceed their range.
        fits = type(document) in (int, kind) and abs(document) <= sys.float_info.max
    else:
        fits = isinstance(document, get_origin(kind) or kind)
    if not fits:
        raise TypeError(f"a {type(document).__name__} where {kind} is expected")


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
