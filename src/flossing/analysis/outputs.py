"""The outputs that a loss is a function of, and its gradient with respect to the states."""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.linearisation import Linearisation, zero_after_end
from flossing.errors import InvalidOptionError, NonFiniteError
from flossing.support.pytree import describe, flatten
from flossing.support.torch_typed import unflatten
from flossing.systems.recurrence import DrivenMap, System
from flossing.systems.stock import StockRecurrence
from flossing.systems.wrapped import unwrapped

Loss = Callable[[Any], Any]
"""Maps the outputs of all steps, in the layout of `outputs`, to a scalar tensor."""


def outputs(system: System, problem: DrivenMap, states: Float[Tensor, "T B S"]) -> Any:
    """Return the outputs of all steps in the layout of the system itself.

    For a stock module its first result, (T, B, N), or (B, T, N) if it is `batch_first`: the hidden
    states of the last layer, or of the selected one. For a cell h after every step, and for a
    callable its state, each tensor with a first dimension of T. There is a batch dimension only if
    the inputs have one. After the end of a shorter sequence they are zero, as PyTorch pads them.
    """
    system = unwrapped(system)
    states = zero_after_end(states, problem)
    rows = problem.recurrence.unpack(states.flatten(0, 1), batched=True)
    if isinstance(problem.recurrence, StockRecurrence):
        rows = _hidden(problem.recurrence, rows)
    leaves, rebuild = flatten(rows)
    shaped = [unflatten(leaf, 0, states.shape[:2]) for leaf in leaves]
    if not problem.batched:
        return rebuild([leaf.squeeze(1) for leaf in shaped])
    if isinstance(system, torch.nn.RNNBase) and system.batch_first:
        return shaped[0].transpose(0, 1)
    return rebuild(shaped)


def loss_value(loss: Loss, seen: Any) -> Float[Tensor, ""]:
    """Return the loss of the outputs `seen`.

    Raises:
        InvalidOptionError: the loss is not a scalar, or does not depend on the outputs.
        NonFiniteError: the loss is infinite or NaN.
    """
    value: object = loss(seen)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InvalidOptionError(
            f"the loss must return a scalar tensor, not {describe(value)}: reduce it with .mean() "
            "or .sum()"
        )
    if not value.requires_grad:
        raise InvalidOptionError(
            "autograd finds no dependence of the loss on the outputs: compute it from its "
            "argument, without detach or torch.no_grad"
        )
    if not bool(value.isfinite()):
        raise NonFiniteError(f"the loss is {value.item()}: it has no gradient")
    return value.reshape(())


def loss_gradient(
    system: System, linearisation: Linearisation, loss: Loss
) -> Float[Tensor, "T B n"]:
    """Return ∂L/∂h_t for every step t: the direct dependence, not that through later states.

    Raises:
        InvalidOptionError: the loss is not a scalar, or does not depend on the outputs.
        NonFiniteError: the loss or its gradient is infinite or NaN.
    """
    problem = linearisation.problem
    with torch.enable_grad():
        states = linearisation.states[1:].detach().requires_grad_()
        value = loss_value(loss, outputs(system, problem, states))
        (gradient,) = torch.autograd.grad(value, [states])
    if not bool(gradient.isfinite().all()):
        raise NonFiniteError("the gradient of the loss with respect to the outputs is not finite")
    return gradient[..., problem.recurrence.tangent_slice]


def _hidden(recurrence: StockRecurrence, state: Any) -> Tensor:
    hidden = cast(Tensor, state[0] if isinstance(state, tuple) else state)
    if not recurrence.stacked_states:
        return hidden
    return hidden[-1 if recurrence.selected is None else recurrence.selected]
