"""Where a frame is reorthonormalised: as seldom as the working precision allows.

Between two boundaries the frame loses about as many nats of precision as its columns differ in
length. An interval is accepted while that leaves half of the digits, and the next one is planned
to use a quarter of them.
"""

import math
from functools import cache
from typing import NamedTuple

import torch


class Precision(NamedTuple):
    """How far a frame may stretch between two boundaries, in nats, for one floating point type."""

    spread: float
    magnitude: float

    @classmethod
    @cache
    def of(cls, dtype: torch.dtype) -> "Precision":
        """Return the limits of a dtype: half its digits, and a quarter of its exponent range."""
        limits = torch.finfo(dtype)
        return cls(spread=-0.5 * math.log(limits.eps), magnitude=0.25 * math.log(limits.max))


class Pace:
    """The number of steps to the next boundary: fixed, or adapted to what the last ones used.

    Args:
        interval: steps between boundaries.
        adaptive: whether the interval follows the measured use of the precision.
    """

    def __init__(self, interval: int, *, adaptive: bool) -> None:
        self.interval = interval
        self.adaptive = adaptive
        self.shortened = 0

    def record(self, planned: int, taken: int, used: float) -> None:
        """Learn from one accepted interval.

        Args:
            planned: its planned length in steps.
            taken: the length at which it was accepted.
            used: share of the tolerated loss of precision that it used; infinite where the frame
                lost rank within a single step.
        """
        if self.adaptive:
            affordable = taken * 0.5 / max(used, 1e-12)
            self.interval = max(1, int(min(affordable, 2 * taken, 1 << 20)))
        elif taken < planned and used <= 1.0:
            self.shortened += 1


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
