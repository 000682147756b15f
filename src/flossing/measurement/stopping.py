"""When a run may stop: as soon as its standard errors are as small as was asked for.

A rule that looks at its own error bars again and again stops rather when they happen to be too
small. The estimate is right in the limit of small tolerances (Glynn & Whitt, "The asymptotic
validity of sequential stopping rules for stochastic simulations", Ann. Appl. Probab. 1992) if it
may not stop before it rests on enough steps and intervals.
"""

from bisect import bisect_right

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing.measurement.statistics import standard_errors
from flossing.scan.boundaries import interval_steps

_FEWEST_STEPS = 300
_FEWEST_INTERVALS = 20
_SHORTEST_SEGMENT = 16
_SEGMENT_SHARE = 16


class StoppingRule:
    """Watches the growth of a run; keeps when to look at it next.

    Args:
        tolerance: largest standard error, in nats per step.
        counted_from: the step from which growth is counted.
        interval: segments are to be multiples of so many steps.
        lengths: number of steps of each trajectory.
    """

    def __init__(
        self, tolerance: float, counted_from: int, interval: int, lengths: tuple[int, ...]
    ) -> None:
        self._tolerance = tolerance
        self._counted_from = counted_from
        self._interval = interval
        self._lengths = lengths
        self._next_look = float(_FEWEST_STEPS)

    def longest_segment(self, start: int) -> int:
        """Return how many steps there may be until the next call of `is_met`.

        A segment ends with a boundary, so no interval is a large part of what was counted, which
        would make the standard error unreliable.
        """
        if start < self._counted_from:
            return self._counted_from - start
        steps = max(_SHORTEST_SEGMENT, (start - self._counted_from) // _SEGMENT_SHARE)
        return -(-steps // self._interval) * self._interval

    def is_met(self, log_growth: list[Tensor], ends: list[int]) -> bool:
        """Whether the standard errors are small enough; cheap where it is too early to look.

        Args:
            log_growth: growth at the boundaries, [m, B, k] of each segment.
            ends: the boundaries.
        """
        first = bisect_right(ends, self._counted_from)
        if first == len(ends) or ends[-1] - self._counted_from < self._next_look:
            return False
        steps = interval_steps(ends[first:], self._counted_from, self._lengths)
        if not _enough_intervals(steps):
            return False
        growth = torch.cat(log_growth)[first:]
        total = growth.masked_fill((steps == 0).to(growth.device).unsqueeze(-1), 0.0).sum(dim=0)
        largest = largest_error(standard_errors(growth, steps.to(growth.device)), total)
        # Standard errors fall with the square root of the steps.
        needed = (largest / self._tolerance) ** 2
        self._next_look = (ends[-1] - self._counted_from) * min(max(needed, 1.1), 2.0)
        return largest <= self._tolerance


def largest_error(errors: Float[Tensor, "B k"], exponents: Float[Tensor, "B k"]) -> float:
    """Return the largest standard error, but for exponents of −∞."""
    return float(errors.masked_fill(torch.isneginf(exponents), 0.0).max())


def _enough_intervals(steps: Int[Tensor, "M B"]) -> bool:
    """Whether all trajectories have enough intervals, of which long ones count for more."""
    lengths = steps.double()
    effective = lengths.sum(dim=0).square() / lengths.square().sum(dim=0)
    return bool((effective >= _FEWEST_INTERVALS).all())
