"""The states of a recurrent map along its inputs, with as much of the graph as is wanted."""

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import NonFiniteError
from flossing.systems.compiled_layer import ALWAYS_CUT
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
        start: first step.
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
    pieces = [state.unsqueeze(0)]
    while start < stop:
        cut = min(stop, (start // state_gradient + 1) * state_gradient)
        state = pieces[-1][-1]
        if start and start % state_gradient == 0:
            state = state.detach()
        pieces.append(_advance(problem, state, start, cut)[1:])
        start = cut
    return torch.cat(pieces)


def compiled_trajectory(
    problem: DrivenMap,
    state: Float[Tensor, "B S"],
    start: int,
    stop: int,
    state_gradient: StateGradient,
) -> tuple[Float[Tensor, "T_plus_1 B S"], TangentMap | None] | None:
    """Do what `trajectory` does in compiled loops, and return the tangent map where these know it.

    `None` for what they do not run: all but stock layers without projection on the CPU.
    """
    recurrence, inputs = problem.recurrence, problem.inputs_from(start, stop)
    if not isinstance(recurrence, StockRecurrence) or recurrence.projected:
        return None
    if inputs is None or inputs.device.type != "cpu":
        return None
    if isinstance(state_gradient, int):
        return recurrence.linearised_run(inputs, state, start, state_gradient)
    if state_gradient == "full":
        return recurrence.linearised_run(inputs, state, start, 0)
    states, tangent = recurrence.linearised_run(inputs, state, start, ALWAYS_CUT)
    return states.detach(), tangent


def check_finite(states: Float[Tensor, "T_plus_1 B S"], start: int) -> None:
    """Refuse states that are infinite or NaN; the first one is that before step `start`.

    Raises:
        NonFiniteError: there are such.
    """
    finite = torch.isfinite(states.detach()).flatten(1).all(dim=1)
    if bool(finite.all()):
        return
    step = start + int(finite.to(torch.int8).argmin())
    raise NonFiniteError(
        f"the state became infinite or NaN at step {step}: the trajectory diverges; check the "
        "weights, the scale of the inputs and the initial state"
    )


def _advance(problem: DrivenMap, state: Tensor, start: int, stop: int) -> Tensor:
    inputs = problem.inputs_from(start, stop)
    states = problem.recurrence.advance(inputs, state, stop - start)
    return torch.cat([state.unsqueeze(0), states])
