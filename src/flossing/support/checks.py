"""Checks of option values."""

import math
from collections.abc import Sequence

from flossing.errors import InvalidOptionError


def require_integer(name: str, value: object, *, at_least: int, at_most: int | None = None) -> int:
    """Return `value` if it is an `int` within its range; a `bool` is not accepted as an `int`.

    Args:
        name: The option's name, for the message.
        value: The value given.
        at_least: The smallest value allowed.
        at_most: The largest value allowed; None: no limit.

    Raises:
        InvalidOptionError: `value` is not an `int`, or is outside the range.

    Example:
        >>> require_integer("delay", 5, at_least=1)
        5
        >>> require_integer("delay", 2.5, at_least=1)
        Traceback (most recent call last):
        ...
        flossing.errors.InvalidOptionError: delay is 2.5 (float); expected an int of at least 1: \
pass, for example, delay=1
    """
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= at_least
        and (at_most is None or value <= at_most)
    ):
        return value
    expected = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    raise InvalidOptionError(
        f"{name} is {value!r} ({type(value).__name__}); expected an int {expected}: "
        f"pass, for example, {name}={at_least}"
    )


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
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value <= at_most
        and math.isfinite(value)
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
