"""Re-orthonormalisation intervals: as long as the tolerated rounding error allows.

At a boundary the frame is factored, V = QR, and Q goes on. Where the boundaries lie changes the
exponents by rounding only: between two of them the frame stretches, and an error of relative size
eps in its longest direction is one of eps·e^spread in its shortest. `Limits` bounds that stretch,
and `Pace` adapts the interval to it; see docs/mathematics.md, Re-orthonormalisation intervals.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

# The stretch between two boundaries that this allows is log(tolerance / eps): 2.8 nats in float32
# (17 roundings) and 6.1 nats in float64 (450 roundings). In float32 no more is given away, since
# one rounding is 1e-7 and a gradient passes hundreds of boundaries. In float64 there is room: 1e-13
# per step is below any statistical error, and the longer interval saves most factorisations.
DEFAULT_ROUNDING_TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}

# A frame of length e^±m has squares of e^±2m in its norms and Gram matrices. With m a quarter of
# the exponent range, log(max), these fill half of it, and an interval that turns out twice as long
# as it should have been (see `_LARGEST_INCREASE`) still neither overflows nor underflows.
_SHARE_OF_EXPONENT_RANGE = 0.25

# The stretch of an interval fluctuates with the Jacobians in it. An interval that aims at 80 % of
# the limits seldom exceeds them, which would cost its steps and a factorisation once more.
_AIM = 0.8

# Stretch is extrapolated linearly, which is good for a factor of two: a short interval says little
# of a long one, in which the frame has turned towards its fastest directions.
_LARGEST_INCREASE = 2.0

# An orthogonal map uses nothing of the limits: this only keeps the quotient finite.
_LEAST_USE = 1e-12

# One factorisation in a million steps costs nothing: there is nothing left to save. A float, so
# that Numba finds three numbers of one type.
_LONGEST_INTERVAL = float(1 << 20)


class Limits(NamedTuple):
    """The largest stretch of a frame between two boundaries, in nats.

    Attributes:
        spread: log of the ratio of the largest entry of R to the smallest on its diagonal, which
            estimates the condition number of the frame.
        magnitude: |log| of either of the two.
    """

    spread: float
    magnitude: float

    @classmethod
    def of(cls, dtype: torch.dtype, tolerance: float | None = None) -> "Limits":
        """Return the limits for a tolerated rounding error.

        Args:
            dtype: the precision of the frame.
            tolerance: relative error of the shortest direction; `None` for half of the digits.
        """
        limits = torch.finfo(dtype)
        tolerance = math.sqrt(limits.eps) if tolerance is None else tolerance
        # An error eps of the longest direction is eps·e^spread ≤ tolerance of the shortest. One nat
        # is always allowed: a tolerance of one rounding would let no frame take a single step.
        spread = max(1.0, math.log(tolerance / limits.eps))
        return cls(spread, _SHARE_OF_EXPONENT_RANGE * math.log(limits.max))


class Pace(NamedTuple):
    """The number of steps to the next boundary: fixed, or adapted to the stretch of the last ones.

    Attributes:
        interval: steps to the next boundary.
        adaptive: whether the interval follows the measured use of the limits.
        limits: the largest stretch in an interval.
        shortened: number of fixed intervals that exceeded the limits and were shortened.
    """

    interval: int
    adaptive: bool
    limits: Limits
    shortened: int = 0

    def after(self, planned: int, taken: int, used: float) -> "Pace":
        """Return the pace after an interval.

        Args:
            planned: its planned length in steps.
            taken: the length at which it was accepted.
            used: its stretch as a share of the limits; infinite where the frame lost rank.
        """
        if self.adaptive:
            return self._replace(interval=next_interval(taken, used))
        # A single step that loses rank (used > 1) is not the fault of the interval: no shorter one
        # would have helped, and the lost rank has a warning of its own.
        if taken < planned and used <= 1.0:
            return self._replace(shortened=self.shortened + 1)
        return self


def next_interval(taken: int, used: float) -> int:
    """Return the steps to plan after an interval that used a share of the limits.

    The stretch of s steps is about s (λ_1 − λ_k), linear in s. So an interval that used u of the
    limits in s steps would use all of them in s/u.
    """
    # Compiled by Numba too (compiled/forward.py): plain arithmetic on numbers only.
    affordable = taken * _AIM / max(used, _LEAST_USE)
    return max(1, int(min(affordable, _LARGEST_INCREASE * taken, _LONGEST_INTERVAL)))


def interval_steps(ends: list[int], start: int, lengths: tuple[int, ...]) -> Int[Tensor, "M B"]:
    """Return the number of steps of each trajectory in each interval; zero past its end.

    Every trajectory's end is a boundary, so an interval has all of its steps or none.

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
    """Return the boundaries of a fixed interval, which is counted anew from every stop.

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
