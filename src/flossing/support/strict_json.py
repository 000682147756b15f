"""Strict JSON, with infinities and NaN as strings."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import cast


def storable(value: object) -> object:
    """Return a structure of dictionaries, lists and numbers in a form that strict JSON can hold.

    JSON has no infinities and no NaN: they become "inf", "-inf" and "nan".

    Example:
        >>> storable({"exponents": (0.5, float("-inf"))})
        {'exponents': [0.5, '-inf']}
    """
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value)
        return {key: storable(item) for key, item in items.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def json_text(value: object) -> str:
    """Return a value as strict JSON, indented and ending in a newline; see `storable`.

    Example:
        >>> print(json_text({"error": float("inf")}), end="")
        {
         "error": "inf"
        }
    """
    return json.dumps(storable(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
