"""A run along a trajectory, segment by segment: states, tangent maps, growth of the frame."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import NonFiniteError
from flossing.measurement.compiled_growth import compiled_growth
from flossing.measurement.growth import Growth, reference_growth
from flossing.measurement.plan import Plan
from flossing.measurement.stopping import StoppingRule
from flossing.scan.boundaries import Pace
from flossing.scan.reference import explicit_jacobians, identity_after
from flossing.support.autocast import backward_without_autocast
from flossing.support.eval_mode import in_eval_mode
from flossing.support.recomputation import recomputed
from flossing.systems.divergence import diverging_frame
from flossing.systems.gates import RELU
from flossing.systems.jacobian_stack import JacobianStack
from flossing.systems.recurrence import DrivenMap
from flossing.systems.stock import StockRecurrence
from flossing.systems.tangent import DenseTangent, TangentMap
from flossing.systems.trajectory import check_finite, check_step, compiled_trajectory, trajectory

_SEGMENT_ELEMENTS = 1 << 22
"""Numbers that a segment without gradients may hold, roughly: 16 MiB in float32."""

# The derivatives of a cell take two calls of its step for a whole segment, besides one a step. The
# state and the frame at the start of each segment are kept, so shorter ones save little memory.
_SHORTEST_CHECKPOINT = 4


class Run(NamedTuple):
    """Growth at all boundaries after the state transient, and where counting started and ended.

    Attributes:
        log_growth: log |R_ii| at every boundary, in nats, in the order of the frame's columns.
        ends: the step at which each boundary lies, from the start of the run.
        first_state: the flat state where counting started.
        first_frame: the orthonormal frame there.
        final_state: the flat state of each trajectory after its own last step.
        final_frame: the orthonormal frame there.
        shortened: number of fixed intervals that had to be shortened.
    """

    log_growth: Float[Tensor, "M B k"]
    ends: list[int]
    first_state: Float[Tensor, "B S"]
    first_frame: Float[Tensor, "B n k"]
    final_state: Float[Tensor, "B S"]
    final_frame: Float[Tensor, "B n k"]
    shortened: int


class _Segment(NamedTuple):
    """The state after a segment, with a graph; all of them, without; and its growth."""

    last_state: Float[Tensor, "B S"]
    states: Float[Tensor, "T_plus_1 B S"]
    growth: Growth | None


def run(problem: DrivenMap, plan: Plan) -> Run:
    """Scan a whole trajectory.

    Without gradients the segments are short and nothing of them is kept, so memory does not grow
    with the number of steps beyond inputs and outputs. With gradients it is one segment, or, with
    a checkpoint interval, segments that are computed again in the backward pass.
    """
    problem = _of_influence(problem)
    differentiable = problem.differentiable
    with torch.set_grad_enabled(differentiable):
        outcome = _run_segments(problem, plan, differentiable)
    # The only part of it that has a graph.
    backward_without_autocast(outcome.log_growth)
    return outcome


def _of_influence(problem: DrivenMap) -> DrivenMap:
    """Return the same map without the graph of what growth cannot depend on."""
    recurrence = problem.recurrence
    if not isinstance(recurrence, StockRecurrence):
        return problem
    problem = replace(problem, recurrence=recurrence.of_influence())
    if recurrence.kind is not RELU:
        return problem
    # The slopes are 0 and 1, whatever the trajectory.
    inputs = None if problem.inputs is None else problem.inputs.detach()
    return replace(problem, inputs=inputs, state=problem.state.detach())


def _run_segments(problem: DrivenMap, plan: Plan, differentiable: bool) -> Run:
    # Invariants before every segment: `start` steps are done; `state` and `frame` are those at
    # `start`, with their graph; `frame` is orthonormal; growth is complete up to `ends[-1]`, which
    # is `start` once the state transient is over. Neither `state_transient` nor `counted_from` lies
    # inside a segment.
    state, frame, pace = problem.state, plan.frame, plan.pace
    # Written row by row below: clones, for a caller's tensor must not change, and detached, for the
    # ends of a result carry no graph.
    final_state, final_frame = problem.state.detach().clone(), frame.detach().clone()
    first_state, first_frame = torch.empty_like(final_state), torch.empty_like(final_frame)
    log_growth: list[Tensor] = []
    ends: list[int] = []
    checkpointed = differentiable and plan.checkpoint_interval is not None
    first_steps: dict[int, Tensor] = {}
    start = 0
    length = _segment_length(problem, plan, differentiable)
    rule = None if plan.tolerance is None else _stopping_rule(problem, plan, plan.tolerance)
    while start < problem.steps and not (rule and rule.is_met(log_growth, ends)):
        if start == plan.counted_from:
            # Copies: views would keep the states and frames of a whole segment in memory.
            first_state.copy_(state.detach())
            first_frame.copy_(frame.detach())
        limit = rule.longest_segment(start) if rule else length
        stop = _segment_end(start, min(length, limit), problem, plan)
        arguments = (problem, plan, state, frame, start, stop, pace)
        segment: _Segment = (
            recomputed(partial(_repeatable_segment, *arguments), problem.state.device)
            if checkpointed
            else _run_segment(*arguments)
        )
        state = segment.last_state
        if segment.growth is not None:
            growth = segment.growth
            frame, pace = growth.last_frame, growth.pace
            log_growth.append(growth.log_growth)
            ends.extend(start + end for end in growth.ends)
            stops = _stops(problem, plan, start, stop)
            for at, frames in zip(stops, growth.stop_frames, strict=True):
                # Trajectories that go on from here are overwritten at a later stop, unless the
                # stopping rule ends the run at this one.
                there = [row for row, steps in enumerate(problem.lengths) if steps >= start + at]
                final_state[there], final_frame[there] = segment.states[at][there], frames[there]
            if checkpointed:
                first_steps[start] = segment.states[:2].clone()
        start = stop
    if checkpointed:
        before, after = torch.stack(list(first_steps.values()), dim=1)
        check_step(problem, list(first_steps), before, after, None)
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
    # A rate per unit time is dt times as large per step.
    return StoppingRule(tolerance * plan.dt, plan.counted_from, plan.pace.interval, problem.lengths)


def _repeatable_segment(problem: DrivenMap, *arguments: Any) -> _Segment:
    # It is repeated in the backward pass, when a module may be in train mode again.
    with in_eval_mode(getattr(problem.recurrence, "system", None)):
        return _run_segment(problem, *arguments)


def _run_segment(
    problem: DrivenMap,
    plan: Plan,
    state: Float[Tensor, "B S"],
    frame: Float[Tensor, "B n k"],
    start: int,
    stop: int,
    pace: Pace,
) -> _Segment:
    span = problem, state, start, stop, plan.state_gradient
    # The compiled loops yield the tangent map with the states; `None` where they do not apply.
    compiled = compiled_trajectory(*span) if plan.backend is compiled_growth else None
    states, tangent = compiled or (trajectory(*span), None)
    check_finite(problem, states, start)
    if stop <= plan.state_transient:
        return _Segment(states[-1], states.detach(), None)
    if tangent is None:
        # states[t] is the state before step t, at which J_t is taken; the last one has no step.
        tangent = _tangent(problem, plan, states[:-1], start, stop)
        # Of checkpointed segments, which are many and are repeated, it is checked after the run.
        if plan.checkpoint_interval is None or not torch.is_grad_enabled():
            check_step(problem, slice(start, stop), states[:-1], states[1:], tangent)
    try:
        growth = plan.backend(tangent, frame, _stops(problem, plan, start, stop), pace)
    except NonFiniteError as error:
        raise diverging_frame(error, tangent, frame, start, stop) from None
    return _Segment(states[-1], states.detach(), growth)


def _tangent(
    problem: DrivenMap, plan: Plan, states: Float[Tensor, "T B S"], start: int, stop: int
) -> TangentMap:
    inputs, recurrence = problem.inputs_from(start, stop), problem.recurrence
    if plan.backend is reference_growth and not isinstance(recurrence, JacobianStack):
        part = recurrence.tangent_slice
        jacobians = explicit_jacobians(recurrence.step, inputs, states, part)
        return DenseTangent(identity_after(jacobians, problem.lengths, start))
    return recurrence.tangent(inputs, states, plan.exponents)


def _segment_length(problem: DrivenMap, plan: Plan, differentiable: bool) -> int:
    if differentiable:
        return max(plan.checkpoint_interval or problem.steps, _SHORTEST_CHECKPOINT)
    elements = len(problem.state) * problem.recurrence.elements_per_step(plan.exponents)
    length = max(1, _SEGMENT_ELEMENTS // elements)
    # Whole intervals, so that the end of a segment, which is a boundary, is one anyway.
    return max(plan.pace.interval, length // plan.pace.interval * plan.pace.interval)


def _segment_end(start: int, length: int, problem: DrivenMap, plan: Plan) -> int:
    # The frame starts to move at `state_transient` and growth to count at `counted_from`: both end
    # a segment, so that each segment is of one kind.
    for stop in (plan.state_transient, plan.counted_from):
        if start < stop:
            return min(start + length, stop, problem.steps)
    return min(start + length, problem.steps)


def _stops(problem: DrivenMap, plan: Plan, start: int, stop: int) -> tuple[int, ...]:
    """Return the boundaries that a segment must have, counted from its start."""
    # The end of every trajectory is one, so that no interval mixes its steps with padding.
    wanted = {plan.counted_from, *problem.lengths, stop}
    return tuple(sorted(at - start for at in wanted if start < at <= stop))
