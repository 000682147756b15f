"""Results that print as a few lines, whatever the size of their tensors."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, cast

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

# A tensor of more entries is described by its shape and range, a mapping by its first keys.
_MOST_ENTRIES = 6


class Printed:
    """A dataclass that prints its attributes line by line, tensors by their shape and range.

    Declare the dataclass with `repr=False`.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, repr=False)
        ... class Found(Printed):
        ...     rates: Tensor
        ...     level: float
        >>> Found(torch.linspace(-1, 1, 300).reshape(3, 100), 0.95)
        Found
          rates: (3, 100) from -1 to 1
          level: 0.95
    """

    _shown: ClassVar[tuple[str, ...]] = ()
    """The attributes to print; all fields if empty."""

    def __repr__(self) -> str:
        """Return a line for each attribute."""
        names = self._shown or [each.name for each in fields(cast(Any, self))]
        lines = [f"{name}: {described(getattr(self, name))}" for name in names]
        return "\n  ".join([type(self).__name__, *lines])


def described(value: Any) -> str:
    """Return a line about a value: of a tensor its shape and range, of a mapping its keys."""
    if isinstance(value, PackedSequence):
        return f"packed {_of_tensor(value.data.detach())}"
    if isinstance(value, Tensor):
        return _of_tensor(value.detach())
    if isinstance(value, Printed):
        # In one line: its name and its first attribute.
        name, first, *_ = repr(value).split("\n  ")
        return f"{name} with {first}"
    if isinstance(value, Mapping):
        keys = [str(key) for key in cast(Mapping[Any, Any], value)]
        more = ", …" if len(keys) > _MOST_ENTRIES else ""
        return f"{len(keys)}, by {', '.join(keys[:_MOST_ENTRIES])}{more}" if keys else "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _of_tensor(values: Tensor) -> str:
    if values.dim() <= 1 and values.numel() <= _MOST_ENTRIES:
        return ", ".join(f"{value.item():.4g}" for value in values.reshape(-1))
    shape = str(tuple(values.shape))
    numbers = values.abs() if values.is_complex() else values
    known = numbers[~numbers.isnan()]
    if not len(known):
        return shape
    sizes = " of sizes" if values.is_complex() else ""
    low, high = float(known.min()), float(known.max())
    return f"{shape}{sizes} from {low:.4g} to {high:.4g}"
