"""A run along a trajectory, segment by segment: states, tangent map, growth of the frame."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.measurement.compiled_growth import compiled_growth
from flossing.measurement.growth import Backend, Growth, reference_growth
from flossing.measurement.stopping import StoppingRule
from flossing.scan.boundaries import Pace
from flossing.scan.reference import explicit_jacobians, identity_after
from flossing.support.torch_typed import checkpoint
from flossing.systems.custom import CallableRecurrence
from flossing.systems.jacobian_stack import JacobianStack
from flossing.systems.recurrence import DrivenMap, StateGradient
from flossing.systems.tangent import DenseTangent, TangentMap
from flossing.systems.trajectory import check_finite, compiled_trajectory, trajectory

_SEGMENT_ELEMENTS = 1 << 22


class Plan(NamedTuple):
    """How a trajectory is to be scanned; steps count from the start of the run."""

    frame: Float[Tensor, "B n k"]
    state_transient: int
    counted_from: int
    pace: Pace
    state_gradient: StateGradient
    checkpoint_interval: int | None
    dt: float
    tolerance: float | None
    backend: Backend

    @property
    def exponents(self) -> int:
        """How many exponents are measured."""
        return self.frame.shape[-1]


class Run(NamedTuple):
    """Growth at all boundaries after the state transient, where counting started and all ended."""

    log_growth: Float[Tensor, "M B k"]
    ends: list[int]
    first_state: Float[Tensor, "B S"]
    first_frame: Float[Tensor, "B n k"]
    final_state: Float[Tensor, "B S"]
    final_frame: Float[Tensor, "B n k"]
    shortened: int


class _Segment(NamedTuple):
    last_state: Float[Tensor, "B S"]
    stop_states: list[Tensor]
    growth: Growth | None


def run(problem: DrivenMap, plan: Plan) -> Run:
    """Scan a whole trajectory.

    Without gradients the segments are short and nothing of them is kept, so memory does not grow
    with the number of steps beyond inputs and outputs. With gradients it is one segment, or, with
    a checkpoint interval, segments that are computed again in the backward pass.
    """
    differentiable = problem.differentiable
    with torch.set_grad_enabled(differentiable):
        return _run_segments(problem, plan, differentiable)


def _run_segments(problem: DrivenMap, plan: Plan, differentiable: bool) -> Run:
    state, frame, pace = problem.state, plan.frame, plan.pace
    final_state, final_frame = problem.state.detach().clone(), frame.detach().clone()
    first_state, first_frame = torch.empty_like(final_state), torch.empty_like(final_frame)
    log_growth: list[Tensor] = []
    ends: list[int] = []
    start = 0
    length = _segment_length(problem, plan, differentiable)
    rule = None if plan.tolerance is None else _stopping_rule(problem, plan, plan.tolerance)
    while start < problem.steps and not (rule and rule.is_met(log_growth, ends)):
        if start == plan.counted_from:
            first_state.copy_(state.detach())
            first_frame.copy_(frame.detach())
        limit = rule.longest_segment(start) if rule else length
        stop = _segment_end(start, min(length, limit), problem, plan)
        arguments = (problem, plan, state, frame, start, stop, pace)
        if differentiable and plan.checkpoint_interval is not None:
            segment = cast(
                _Segment,
                checkpoint(_run_segment, *arguments, use_reentrant=False, preserve_rng_state=False),
            )
        else:
            segment = _run_segment(*arguments)
        state = segment.last_state
        if segment.growth is not None:
            growth = segment.growth
            frame, pace = growth.last_frame, growth.pace
            log_growth.append(growth.log_growth)
            ends.extend(start + end for end in growth.ends)
            stops = _stops(problem, plan, start, stop)
            for at, states, frames in zip(
                stops, segment.stop_states, growth.stop_frames, strict=True
            ):
                # Those that go on will be overwritten, unless the run stops here.
                there = [row for row, steps in enumerate(problem.lengths) if steps >= start + at]
                final_state[there], final_frame[there] = states[there], frames[there]
        start = stop
    return Run(
        log_growth=torch.cat(log_growth),
        ends=ends,
        first_state=first_state,
        first_frame=first_frame,
        final_state=final_state,
        final_frame=final_frame,
        shortened=pace.shortened,
    )


def _stopping_rule(problem: DrivenMap, plan: Plan, tolerance: float) -> StoppingRule:
    return StoppingRule(tolerance * plan.dt, plan.counted_from, plan.pace.interval, problem.lengths)


def _run_segment(
    problem: DrivenMap,
    plan: Plan,
    state: Float[Tensor, "B S"],
    frame: Float[Tensor, "B n k"],
    start: int,
    stop: int,
    pace: Pace,
) -> _Segment:
    states, tangent = _states(problem, plan, state, start, stop)
    check_finite(states, start)
    if stop <= plan.state_transient:
        return _Segment(states[-1], [], None)
    stops = _stops(problem, plan, start, stop)
    if tangent is None:
        tangent = _tangent(problem, plan, states[:-1], start, stop)
    growth = plan.backend(tangent, frame, stops, pace)
    return _Segment(states[-1], [states[at].detach() for at in stops], growth)


def _states(
    problem: DrivenMap, plan: Plan, state: Float[Tensor, "B S"], start: int, stop: int
) -> tuple[Float[Tensor, "T_plus_1 B S"], TangentMap | None]:
    arguments = problem, state, start, stop, plan.state_gradient
    compiled = compiled_trajectory(*arguments) if plan.backend is compiled_growth else None
    return compiled or (trajectory(*arguments), None)


def _tangent(
    problem: DrivenMap, plan: Plan, states: Float[Tensor, "T B S"], start: int, stop: int
) -> TangentMap:
    inputs, recurrence = problem.inputs_from(start, stop), problem.recurrence
    if plan.backend is reference_growth and not isinstance(recurrence, JacobianStack):
        if isinstance(recurrence, CallableRecurrence):
            recurrence.require_valid_step(inputs, states, twice=torch.is_grad_enabled())
        part = recurrence.tangent_slice
        jacobians = explicit_jacobians(recurrence.step, inputs, states, part)
        return DenseTangent(identity_after(jacobians, problem.lengths, start))
    return recurrence.tangent(inputs, states, plan.exponents)


def _segment_length(problem: DrivenMap, plan: Plan, differentiable: bool) -> int:
    if differentiable:
        return plan.checkpoint_interval or problem.steps
    elements = len(problem.state) * problem.recurrence.elements_per_step(plan.exponents)
    length = max(1, _SEGMENT_ELEMENTS // elements)
    # Whole intervals, so that where a segment ends adds no boundaries.
    return max(plan.pace.interval, length // plan.pace.interval * plan.pace.interval)


def _segment_end(start: int, length: int, problem: DrivenMap, plan: Plan) -> int:
    for stop in (plan.state_transient, plan.counted_from):
        if start < stop:
            return min(start + length, stop, problem.steps)
    return min(start + length, problem.steps)


def _stops(problem: DrivenMap, plan: Plan, start: int, stop: int) -> tuple[int, ...]:
    """Return the boundaries that there must be in a segment, counted from its start."""
    wanted = {plan.counted_from, *problem.lengths, stop}
    return tuple(sorted(at - start for at in wanted if start < at <= stop))
