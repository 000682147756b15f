"""Where a frame is reorthonormalised: as seldom as the tolerated loss of precision allows.

Between two boundaries the frame loses about as many nats of precision as its vectors differ in
length: a relative error eps at the longest is an error eps·e^spread at the shortest.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

DEFAULT_ROUNDING_TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


class Limits(NamedTuple):
    """How far a frame may stretch between two boundaries, in nats."""

    spread: float
    magnitude: float

    @classmethod
    def of(cls, dtype: torch.dtype, tolerance: float | None = None) -> "Limits":
        """Return the limits of a dtype: a quarter of its exponent range, and what is tolerated.

        Args:
            dtype: the floating point type.
            tolerance: the relative error of the shortest vector; `None` for half of the digits.
        """
        numbers = torch.finfo(dtype)
        tolerance = math.sqrt(numbers.eps) if tolerance is None else tolerance
        # A nat at least: no frame is free of stretch.
        spread = max(1.0, math.log(tolerance / numbers.eps))
        return cls(spread, 0.25 * math.log(numbers.max))


class Pace(NamedTuple):
    """The number of steps to the next boundary: fixed, or adapted to what the last ones used.

    Attributes:
        interval: steps to the next boundary.
        adaptive: whether the interval follows the measured use of the limits.
        limits: how far the frame may stretch in an interval.
        shortened: how many fixed intervals had to be shorter.
    """

    interval: int
    adaptive: bool
    limits: Limits
    shortened: int = 0

    def after(self, planned: int, taken: int, used: float) -> "Pace":
        """Learn from one accepted interval.

        Args:
            planned: its planned length in steps.
            taken: the length at which it was accepted.
            used: share of the limits that it used; infinite where the frame lost rank within a
                single step.
        """
        if self.adaptive:
            return self._replace(interval=next_interval(taken, used))
        if taken < planned and used <= 1.0:
            return self._replace(shortened=self.shortened + 1)
        return self


def next_interval(taken: int, used: float) -> int:
    """Return how many steps to plan after an interval that used that share of the limits."""
    affordable = taken * 0.8 / max(used, 1e-12)
    return max(1, int(min(affordable, 2.0 * taken, 1048576.0)))


def interval_steps(ends: list[int], start: int, lengths: tuple[int, ...]) -> Int[Tensor, "M B"]:
    """Return the steps that each trajectory has in each interval: all of them or, later, none.

    Args:
        ends: the boundaries at which the intervals end.
        start: the boundary at which the first one starts.
        lengths: number of steps of each trajectory.

    >>> interval_steps([5, 8], 3, (8, 5))
    tensor([[2, 2],
            [3, 0]])
    """
    at = torch.tensor([start, *ends])
    return at.diff().unsqueeze(-1) * (at[1:].unsqueeze(-1) <= torch.tensor(lengths))


def plan(stops: tuple[int, ...], interval: int) -> list[int]:
    """Return the boundaries of a fixed interval that starts anew after every stop.

    Args:
        stops: increasing steps that must be boundaries; the last one ends the run.
        interval: steps between boundaries.

    >>> plan((4, 10), 3)
    [3, 4, 7, 10]
    """
    ends: list[int] = []
    start = 0
    for stop in stops:
        ends.extend(range(start + interval, stop, interval))
        ends.append(stop)
        start = stop
    return ends
