"""The stopping rule: a run ends when its standard errors are within the tolerance.

A rule that looks at its own error bars repeatedly stops rather when they happen to be too small.
The estimate is right in the limit of small tolerances (Glynn & Whitt, "The asymptotic validity of
sequential stopping rules for stochastic simulations", Ann. Appl. Probab. 1992) if the run may not
stop before it rests on enough steps and intervals; see docs/mathematics.md, Error bars and the
stopping rule.
"""

from bisect import bisect_right

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing.measurement.statistics import standard_errors
from flossing.scan.boundaries import interval_steps

# A standard error is itself uncertain, by a share ½ √((20 τ + 2) / M) of its value for M intervals
# with an autocorrelation time of τ intervals (Madras & Sokal 1988, for lags up to 5τ). That is 40 %
# for 300 steps and a τ of 10 steps, and 50 % for 20 intervals that are not correlated at all.
_FEWEST_STEPS = 300
_FEWEST_INTERVALS = 20

# A segment ends with a boundary and a look, so it must not be so short as to cost more than its
# steps; nor long, since no interval may be a large part of what was counted. Segments of a 16th of
# the counted steps T_c grow by 17/16 each. If every interval were as long as its segment, they
# would count as (Σs)² / Σs² = 17² (1 − (16/17)²) = 33 equal ones: more than the fewest allowed.
_SHORTEST_SEGMENT = 16
_SEGMENT_SHARE = 16

# Looks cost time in proportion to what was counted. As the standard error falls like 1/√T_c, the
# next look is due where it is expected to meet the tolerance: at least a tenth later, so that all
# looks together cost at most 11 times the last, and at most twice as late, since an early standard
# error may be far too large.
_LEAST_INCREASE = 1.1
_LARGEST_INCREASE = 2.0


class StoppingRule:
    """Decides whether a run may stop, and when to look next.

    Args:
        tolerance: largest standard error, in nats per step.
        counted_from: the step from which growth is counted.
        interval: segments are multiples of this number of steps.
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
        """Return the largest number of steps before the next call of `is_met`."""
        if start < self._counted_from:
            return self._counted_from - start
        steps = max(_SHORTEST_SEGMENT, (start - self._counted_from) // _SEGMENT_SHARE)
        # Rounded up to whole intervals: a segment's end adds no boundary to a fixed interval.
        return -(-steps // self._interval) * self._interval

    def is_met(self, log_growth: list[Tensor], ends: list[int]) -> bool:
        """Whether the standard errors are within the tolerance; cheap where it is too early.

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
        # SE ∝ 1/√T_c, so the tolerance is expected at (SE / tolerance)² T_c.
        needed = (largest / self._tolerance) ** 2
        increase = min(max(needed, _LEAST_INCREASE), _LARGEST_INCREASE)
        self._next_look = (ends[-1] - self._counted_from) * increase
        return largest <= self._tolerance


def largest_error(errors: Float[Tensor, "B k"], exponents: Float[Tensor, "B k"]) -> float:
    """Return the largest standard error of the exponents that are not −∞ or NaN."""
    return float(errors.masked_fill(~(exponents > -torch.inf), 0.0).max())


def _enough_intervals(steps: Int[Tensor, "M B"]) -> bool:
    # Intervals of length s_m count as (Σs)² / Σs² equal ones (Kish's effective sample size): one
    # that takes most of the run leaves hardly more than one, however many short ones there are.
    lengths = steps.double()
    effective = lengths.sum(dim=0).square() / lengths.square().sum(dim=0)
    return bool((effective >= _FEWEST_INTERVALS).all())
