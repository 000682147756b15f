"""Checks of option values."""

import math
from collections.abc import Sequence
from operator import index
from typing import SupportsFloat, SupportsIndex, cast

import torch
from torch import Tensor

from flossing.errors import FlossingError, InvalidOptionError


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
    if _is_boolean(value):
        return None
    try:
        return index(cast(SupportsIndex, value))
    except TypeError:
        return None


def _is_boolean(value: object) -> bool:
    # Tensors and arrays of booleans have an index and a value, too.
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def number_or_none(value: object) -> float | None:
    """Return `value` as a `float` if it is a number, also one of NumPy or a tensor of no dimension.

    A tensor that requires a gradient would lose it and is not accepted; neither is a `bool`.

    Example:
        >>> import torch
        >>> number_or_none(torch.tensor(0.5)), number_or_none("0.5"), number_or_none(True)
        (0.5, None, None)
    """
    differentiable = isinstance(value, Tensor) and value.requires_grad
    if (
        isinstance(value, str | bytes)
        or differentiable
        or _is_boolean(value)
        or getattr(value, "ndim", 0) != 0
    ):
        return None
    try:
        return float(cast(SupportsFloat, value))
    # Of complex numbers, of integers beyond the range, and of tensors without a value.
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def require_positive(name: str, value: object, *, at_most: float = math.inf) -> float:
    """Return `value` as a `float` if it is a positive, finite number; see `number_or_none`.

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
    number = number_or_none(value)
    if number is not None and 0 < number <= at_most and math.isfinite(number):
        return number
    limit = "" if at_most == math.inf else f" of at most {at_most:g}"
    raise InvalidOptionError(
        f"{name} is {value!r} ({type(value).__name__}); expected a positive number{limit}"
    )


def require_tensor(name: str, value: object, error: type[FlossingError]) -> None:
    """Require a tensor; arrays of NumPy are told how to become one.

    They are not converted silently: their default precision, float64, is rarely the system's.

    Args:
        name: The argument's name, for the message.
        value: The value given.
        error: Class of the exception.

    Raises:
        FlossingError: `value` is no tensor.

    Example:
        >>> from flossing.errors import InvalidInputError
        >>> require_tensor("jacobians", [[1.0]], InvalidInputError)
        Traceback (most recent call last):
        ...
        flossing.errors.InvalidInputError: jacobians must be a tensor, not a list: convert arrays \
with torch.from_numpy(...), lists with torch.tensor(...)
    """
    if not isinstance(value, Tensor):
        raise error(
            f"{name} must be a tensor, not a {type(value).__name__}: convert arrays with "
            "torch.from_numpy(...), lists with torch.tensor(...)"
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


def generator_or_default(generator: object) -> torch.Generator:
    """Return a random generator: the one given, or a new one with a fixed seed for `None`.

    Raises:
        InvalidOptionError: it is no generator.

    Example:
        >>> generator_or_default(7)
        Traceback (most recent call last):
        ...
        flossing.errors.InvalidOptionError: generator is 7 (int); expected a torch.Generator: \
pass, for example, generator=torch.Generator().manual_seed(7)
    """
    if generator is None:
        return torch.Generator().manual_seed(0)
    if isinstance(generator, torch.Generator):
        return generator
    seed = generator if isinstance(generator, int) else 0
    raise InvalidOptionError(
        f"generator is {generator!r} ({type(generator).__name__}); expected a torch.Generator: "
        f"pass, for example, generator=torch.Generator().manual_seed({seed})"
    )
