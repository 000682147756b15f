"""The states of a recurrent map under its inputs, with all, part or none of their graph, checked.

See docs/mathematics.md, Gradients of gated maps, for what the three choices mean.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import NonFiniteError
from flossing.systems.cell_tangent import CellTangent
from flossing.systems.compiled_layer import ALWAYS_CUT, NEVER_CUT
from flossing.systems.custom import CallableRecurrence
from flossing.systems.divergence import first_steps, in_words
from flossing.systems.recurrence import DrivenMap, StateGradient
from flossing.systems.stock import StockRecurrence
from flossing.systems.tangent import TangentMap


def trajectory(
    problem: DrivenMap,
    state: Float[Tensor, "B S"],
    start: int,
    stop: int,
    state_gradient: StateGradient,
) -> Float[Tensor, "T_plus_1 B S"]:
    """Return the states before step `start` and after every step up to `stop`.

    Args:
        problem: the map and its inputs.
        state: the state before step `start`.
        start: first step, counted from the start of the whole run.
        stop: step after the last one.
        state_gradient: "full" keeps the graph through the states, "detach" none of it, and an
            integer w cuts it before every w-th step of the whole run, so that each state keeps
            between 1 and w steps of its history.
    """
    if state_gradient == "detach" or not torch.is_grad_enabled():
        with torch.no_grad():
            return _advance(problem, state, start, stop)
    if state_gradient == "full":
        return _advance(problem, state, start, stop)
    windows = [state.unsqueeze(0)]
    while start < stop:
        # Cuts lie at multiples of w in the whole run, not in this range of steps, so that gradients
        # do not depend on how a run is divided into segments.
        cut = min(stop, (start // state_gradient + 1) * state_gradient)
        state = windows[-1][-1]
        # Never before step 0: the initial state is the caller's, who may want its gradient.
        if start and start % state_gradient == 0:
            state = state.detach()
        # Without the first state, which keeps its graph in the window before: the Jacobian of the
        # step after a cut is still differentiated through the state before it.
        windows.append(_advance(problem, state, start, cut)[1:])
        start = cut
    return torch.cat(windows)


def compiled_trajectory(
    problem: DrivenMap,
    state: Float[Tensor, "B S"],
    start: int,
    stop: int,
    state_gradient: StateGradient,
) -> tuple[Float[Tensor, "T_plus_1 B S"], TangentMap | None] | None:
    """Return what `trajectory` does, and the tangent map if available, from compiled loops.

    `None` unless the system is a stock module without projection on the CPU.
    """
    recurrence, inputs = problem.recurrence, problem.inputs_from(start, stop)
    if not isinstance(recurrence, StockRecurrence) or recurrence.projected:
        return None
    if inputs is None or inputs.device.type != "cpu":
        return None
    if isinstance(state_gradient, int):
        return recurrence.linearised_run(inputs, state, start, state_gradient)
    if state_gradient == "full":
        return recurrence.linearised_run(inputs, state, start, NEVER_CUT)
    # "detach": the tangent map keeps its graph to the weights and inputs, the states have none.
    states, tangent = recurrence.linearised_run(inputs, state, start, ALWAYS_CUT)
    return states.detach(), tangent


def check_finite(problem: DrivenMap, states: Float[Tensor, "T_plus_1 B S"], start: int) -> None:
    """Require finite states, the first of which is that before step `start`.

    Raises:
        NonFiniteError: a state is infinite or NaN.
    """
    # Checked before the tangent map: from non-finite states it would only report itself.
    finite = torch.isfinite(states.detach()).all(dim=-1)
    if bool(finite.all()):
        return
    diverged = first_steps(finite, start)
    first = min(diverged.values())
    rows = f"{in_words(diverged, states.shape[1])}; " if states.shape[1] > 1 else ""
    others = ", or leave these rows out" if rows else ""
    # Of Euler's method with a right-hand side in place of the map, divergence is the usual sign.
    vector_field = (
        "; if the callable is the right-hand side f of an ordinary differential equation, its step "
        "is state + dt * f(state), or one of a better method"
        if isinstance(problem.recurrence, CallableRecurrence)
        else ""
    )
    raise NonFiniteError(
        f"the state became infinite or NaN at step {first}: the trajectory diverges; {rows}check "
        f"the weights, the scale of the inputs and the initial state{others}{vector_field}",
        diverged,
    )


def check_step(
    problem: DrivenMap,
    times: slice | list[int],
    states: Float[Tensor, "T B n"],
    images: Float[Tensor, "T B n"],
    tangent: TangentMap | None,
) -> None:
    """Require of a step that is known only by calling it what its derivatives rely on.

    Args:
        problem: the map and its inputs.
        times: the steps to check.
        states: the states before each.
        images: the states after each.
        tangent: the tangent map, unless gradients are enabled.

    Raises:
        UnsupportedSystemError: see `CallableRecurrence.require_valid_step`.
    """
    if isinstance(problem.recurrence, CallableRecurrence):
        inputs = None if problem.inputs is None else problem.inputs[times]
        # Without gradients, and with explicit Jacobians, first derivatives of the step suffice.
        products = isinstance(tangent, CellTangent) and tangent.jacobians is None
        twice = products or torch.is_grad_enabled()
        problem.recurrence.require_valid_step(inputs, states, images, twice=twice)


def _advance(problem: DrivenMap, state: Tensor, start: int, stop: int) -> Tensor:
    inputs = problem.inputs_from(start, stop)
    states = problem.recurrence.advance(inputs, state, stop - start)
    return torch.cat([state.unsqueeze(0), states])
