"""Checks of option values."""

import math
from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import SupportsIndex, cast

from flossing.errors import InvalidOptionError


def require_integer(name: str, value: object, *, at_least: int, at_most: int | None = None) -> int:
    """Return `value` as an `int` if it is an integer within its range.

    Integers of NumPy and PyTorch are accepted, a `bool` is not.

    Args:
        name: The option's name, for the message.
        value: The value given.
        at_least: The smallest value allowed.
        at_most: The largest value allowed; None: no limit.

    Raises:
        InvalidOptionError: `value` is not an integer, or is outside the range.

    Example:
        >>> require_integer("delay", 5, at_least=1)
        5
        >>> require_integer("delay", 2.5, at_least=1)
        Traceback (most recent call last):
        ...
        flossing.errors.InvalidOptionError: delay is 2.5 (float); expected an int of at least 1: \
pass, for example, delay=1
    """
    number = _integer(value)
    if number is not None and number >= at_least and (at_most is None or number <= at_most):
        return number
    expected = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    raise InvalidOptionError(
        f"{name} is {value!r} ({type(value).__name__}); expected an int {expected}: "
        f"pass, for example, {name}={at_least}"
    )


def _integer(value: object) -> int | None:
    # Tensors and arrays of booleans have an index, too.
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return index(cast(SupportsIndex, value))
    except TypeError:
        return None


def require_positive(name: str, value: object, *, at_most: float = math.inf) -> None:
    """Require a positive, finite number.

    Args:
        name: The option's name, for the message.
        value: The value given.
        at_most: The largest value allowed.

    Raises:
        InvalidOptionError: `value` is not a number, or is outside the range.

    Example:
        >>> require_positive("leak", 1.5, at_most=1.0)
        Traceback (most recent call last):
        ...
        flossing.errors.InvalidOptionError: leak is 1.5 (float); expected a positive number of at \
most 1
    """
    if (
        not isinstance(value, bool)
        and isinstance(value, Real)
        and math.isfinite(value)
        and 0 < float(value) <= at_most
    ):
        return
    limit = "" if at_most == math.inf else f" of at most {at_most:g}"
    raise InvalidOptionError(
        f"{name} is {value!r} ({type(value).__name__}); expected a positive number{limit}"
    )


def require_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Require one of `choices`.

    Args:
        name: The option's name, for the message.
        value: The value given.
        choices: The values allowed.

    Raises:
        InvalidOptionError: `value` is none of them; the message lists them.

    Example:
        >>> require_choice("filler", "silence", ("blank", "noise"))
        Traceback (most recent call last):
        ...
        flossing.errors.InvalidOptionError: filler is 'silence' (str); pass one of 'blank', 'noise'
    """
    # Types are compared too: 1 == True, but 1 is not a valid value of a boolean option.
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return
    listed = ", ".join(repr(choice) for choice in choices)
    raise InvalidOptionError(f"{name} is {value!r} ({type(value).__name__}); pass one of {listed}")
