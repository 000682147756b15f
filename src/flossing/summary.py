"""From growth at the boundaries to exponents, local rates and warnings."""

import math
import warnings

import torch
from torch import Tensor

from flossing.errors import ExplodingGradientWarning, IntervalWarning, LostRankWarning
from flossing.measure import Plan, Run
from flossing.recurrence import DrivenMap
from flossing.result import LyapunovSpectrum


def summarise(outcome: Run, problem: DrivenMap, plan: Plan) -> LyapunovSpectrum:
    """Turn the growth at the boundaries into exponents and local rates."""
    counted_from, dt = plan.counted_from, plan.dt
    counted = [index for index, end in enumerate(outcome.ends) if end > counted_from]
    ends = torch.tensor([outcome.ends[index] for index in counted])
    starts = torch.cat([torch.tensor([counted_from]), ends[:-1]])
    lengths = torch.tensor(problem.lengths)
    growth = outcome.log_growth[counted[0] :]
    steps = ((ends - starts).unsqueeze(-1) * (ends.unsqueeze(-1) <= lengths)).to(growth.device)
    there = (steps > 0).unsqueeze(-1)
    lost_rank = (torch.isneginf(growth) & there).any(dim=0)
    _warn_of_degradation(outcome, lost_rank)
    total = growth.sum(dim=0)
    if bool(lost_rank.any()) or not bool(there.all()):
        # Not one operation may see −inf with a gradient: the others' gradients stay clean.
        kept = torch.where(there & ~lost_rank, growth, 0.0)
        total = kept.sum(dim=0).masked_fill(lost_rank, -torch.inf)
    exponents = total / (dt * steps.sum(dim=0).unsqueeze(-1))
    order = exponents.detach().argsort(dim=-1, descending=True, stable=True)
    rates = growth / (dt * steps.clamp(min=1).unsqueeze(-1))
    local = rates.masked_fill(~there, torch.nan)
    return LyapunovSpectrum(
        exponents=exponents.gather(-1, order),
        local=local.gather(-1, order.expand_as(local)),
        interval_steps=steps,
        log_growth=total,
        order=order,
        final_state=problem.recurrence.unpack(outcome.final_state, batched=problem.batched),
        final_frame=outcome.final_frame,
        dt=dt,
    )


def _warn_of_degradation(outcome: Run, lost_rank: Tensor) -> None:
    if bool(lost_rank.any()):
        worst = int(lost_rank.sum(dim=-1).max())
        warnings.warn(
            f"the frame lost rank: up to {worst} of {lost_rank.shape[-1]} exponents are −inf, "
            f"because the Jacobians are singular or nearer to it than {outcome.log_growth.dtype} "
            "can tell; choose a smaller k, or compute with dtype=torch.float64",
            LostRankWarning,
            stacklevel=5,
        )
    if outcome.shortened:
        warnings.warn(
            f"the reorthonormalization interval is too long for {outcome.log_growth.dtype}: it was "
            f"shortened {outcome.shortened} times, where the frame would have lost more than half "
            "of the digits; use reorthonormalize='auto', a smaller interval or dtype=torch.float64",
            IntervalWarning,
            stacklevel=5,
        )


def warn_of_explosion(result: LyapunovSpectrum, problem: DrivenMap, plan: Plan) -> None:
    """Warn if the gradient goes through more chaos than the precision can carry."""
    through_states = plan.state_gradient == "full" and problem.recurrence.state_size > 0
    if not (through_states and result.exponents.requires_grad):
        return
    largest = float(result.exponents.detach().amax()) * result.dt
    growth = largest * problem.steps
    if growth > -math.log(torch.finfo(result.exponents.dtype).eps):
        warnings.warn(
            f"the largest exponent is {largest:.3g} nats per step, so over {problem.steps} steps "
            f"gradients through the states grow by about e^{growth:.0f} and are meaningless; use "
            "state_gradient='detach' or a window of about "
            f"{max(1, int(3 / largest))} steps",
            ExplodingGradientWarning,
            stacklevel=4,
        )
