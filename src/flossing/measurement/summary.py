"""The summary of a run: exponents, local rates, and warnings where they are degraded."""

import math
import warnings
from bisect import bisect_right

import torch
from torch import Tensor

from flossing.errors import (
    ExplodingGradientWarning,
    IntervalWarning,
    LostRankWarning,
    ToleranceWarning,
)
from flossing.measurement.plan import Plan
from flossing.measurement.result import LyapunovSpectrum
from flossing.measurement.run import Run
from flossing.measurement.stopping import largest_error
from flossing.scan.boundaries import interval_steps
from flossing.systems.recurrence import DrivenMap

# Within the window that the warning proposes, gradients grow by no more than e^3, 20-fold.
_NATS_OF_A_WINDOW = 3


def summarise(outcome: Run, problem: DrivenMap, plan: Plan) -> LyapunovSpectrum:
    """Turn the growth at the boundaries into exponents and local rates."""
    dt = plan.dt
    # The boundary at `counted_from` ends an interval of the transient: it is not counted.
    first = bisect_right(outcome.ends, plan.counted_from)
    growth = outcome.log_growth[first:]
    steps = interval_steps(outcome.ends[first:], plan.counted_from, problem.lengths)
    steps = steps.to(growth.device)
    there = (steps > 0).unsqueeze(-1)
    lost_rank = (torch.isneginf(growth) & there).any(dim=0)
    _warn_of_degradation(outcome, lost_rank)
    total = growth.sum(dim=0)
    if bool(lost_rank.any()) or not bool(there.all()):
        # A direction that lost rank once has the exponent −inf, whatever it did elsewhere. It gets
        # that value as a constant, and its growth leaves the graph before the sum: the derivative
        # of a loss at −inf, say 2λ, is infinite, and infinite times zero would be a NaN in the
        # gradients of all. Both `where` and `masked_fill` select in the backward pass too, they do
        # not multiply, so the gradients of the others are those of a run without the direction.
        # Past the end of a trajectory growth is zero, whatever its padding does.
        kept = torch.where(there & ~lost_rank, growth, 0.0)
        total = kept.sum(dim=0).masked_fill(lost_rank, -torch.inf)
        # A trajectory without any steps is one that diverged.
        total = total.masked_fill(~there.any(dim=0), torch.nan)
    # Intervals that a trajectory does not have become NaN below; the 1 only avoids 0/0.
    rates = growth / (dt * steps.clamp(min=1).unsqueeze(-1))
    return LyapunovSpectrum.of_columns(
        log_growth=total,
        rates=rates.masked_fill(~there, torch.nan),
        interval_steps=steps,
        first_state=problem.recurrence.unpack(outcome.first_state, batched=problem.batched),
        first_frame=outcome.first_frame,
        final_state=problem.recurrence.unpack(outcome.final_state, batched=problem.batched),
        final_frame=outcome.final_frame,
        dt=dt,
    )


# Stack levels make warnings point at the caller of `flossing.lyapunov_spectrum`: one for each call
# in between, of which this function has one more than those below.
def _warn_of_degradation(outcome: Run, lost_rank: Tensor) -> None:
    if bool(lost_rank.any()):
        worst = int(lost_rank.sum(dim=-1).max())
        warnings.warn(
            f"the frame lost rank: up to {worst} of {lost_rank.shape[-1]} exponents are −inf, "
            "because the Jacobians are singular, or too close to it for "
            f"{outcome.log_growth.dtype}; choose a smaller k"
            + ("" if outcome.log_growth.dtype == torch.float64 else ", or dtype=torch.float64"),
            LostRankWarning,
            stacklevel=5,
        )
    if outcome.shortened:
        warnings.warn(
            f"the reorthonormalization interval is too long for {outcome.log_growth.dtype}: it was "
            f"shortened {outcome.shortened} times, where the frame would have lost more than half "
            "of its digits; use reorthonormalize='auto' or a smaller interval"
            + ("" if outcome.log_growth.dtype == torch.float64 else ", or dtype=torch.float64"),
            IntervalWarning,
            stacklevel=5,
        )


def warn_of_tolerance(result: LyapunovSpectrum, problem: DrivenMap, plan: Plan) -> None:
    """Warn if the run used all steps before its standard errors were within the tolerance."""
    stopped_early = plan.counted_from + int(result.counted_steps.max()) < problem.steps
    if plan.tolerance is None or stopped_early:
        return
    largest = largest_error(result.standard_error, result.exponents)
    if largest <= plan.tolerance:
        return
    counted = int(result.counted_steps[~result.diverged].min())
    if math.isinf(largest):
        needed = "more than one interval, since a single one has no standard error"
    else:
        # Standard errors fall with the square root of the counted steps.
        needed = f"about {math.ceil(counted * (largest / plan.tolerance) ** 2)} steps"
    warnings.warn(
        f"the largest standard error is {largest:.2g} after {counted} counted steps, larger than "
        f"tolerance={plan.tolerance:g}: that takes {needed}; allow more steps, or extend the "
        "result by another run (LyapunovSpectrum.extended_by)",
        ToleranceWarning,
        stacklevel=4,
    )


def warn_of_explosion(result: LyapunovSpectrum, problem: DrivenMap, plan: Plan) -> None:
    """Warn if gradients through the states grow beyond the precision."""
    through_states = plan.state_gradient == "full" and problem.recurrence.state_size > 0
    if not (through_states and result.exponents.requires_grad):
        return
    largest = float(result.exponents.detach()[~result.diverged].amax()) * result.dt
    growth = largest * problem.steps
    # Backpropagation through T steps multiplies rounding errors by e^(λ_1 T): beyond 1/eps none of
    # the digits is left.
    if growth > -math.log(torch.finfo(result.exponents.dtype).eps):
        warnings.warn(
            f"the largest exponent is {largest:.3g} nats per step, so over {problem.steps} steps "
            f"gradients through the states grow by about e^{growth:.0f} and are meaningless; use "
            "state_gradient='detach' or a window of about "
            f"{max(1, int(_NATS_OF_A_WINDOW / largest))} steps",
            ExplodingGradientWarning,
            stacklevel=4,
        )
