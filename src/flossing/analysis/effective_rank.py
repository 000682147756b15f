"""`effective_rank`: how many directions the gradient of the recurrent weights spans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from flossing.analysis.linearisation import analysed_map, zero_after_end
from flossing.analysis.outputs import Loss, loss_value, outputs
from flossing.errors import InvalidOptionError, NonFiniteError
from flossing.support.autocast import without_autocast
from flossing.support.eval_mode import in_eval_mode
from flossing.support.printing import Printed
from flossing.support.torch_typed import svdvals
from flossing.systems.custom import CallableRecurrence
from flossing.systems.gates import GRU, LSTM, LayerWeights
from flossing.systems.module_precision import computing_in
from flossing.systems.recurrence import DrivenMap, Recurrence, System
from flossing.systems.stock import StockRecurrence
from flossing.systems.trajectory import check_finite, trajectory
from flossing.systems.wrapped import unwrapped


@dataclass(frozen=True, repr=False)
class GradientRank(Printed):
    """The singular values σ of the gradient of one matrix, and three effective ranks.

    Each rank lies between 1, for an outer product of two vectors, and the number of singular
    values, where all are equal. The ranks of a zero gradient are 0.

    Attributes:
        singular_values: (r,), in descending order.
    """

    singular_values: Float[Tensor, "r"]

    @property
    def participation_ratio(self) -> float:
        """(Σσ²)² / Σσ⁴, the number of equal σ² with the same spread."""
        squares = self._relative.square()
        # The largest is 1, unless all are 0.
        return float(squares.sum().square() / squares.square().sum().clamp(min=1.0))

    @property
    def stable_rank(self) -> float:
        """Σσ² / max σ² = ‖G‖_F² / ‖G‖₂² (Rudelson & Vershynin 2007)."""
        return float(self._relative.square().sum())

    @property
    def entropy_rank(self) -> float:
        """exp(−Σ p log p) with p = σ / Σσ (Roy & Vetterli 2007)."""
        total = self._relative.sum()
        if not total:
            return 0.0
        shares = self._relative / total
        return float(torch.xlogy(shares, shares).sum().neg().exp())

    @property
    def _relative(self) -> Float[Tensor, "r"]:
        # Squares of small gradients underflow; the ranks do not depend on the scale.
        values = self.singular_values.double()
        return values / torch.where(values[0] > 0, values[0], 1.0)


@dataclass(frozen=True, repr=False)
class EffectiveRank(Printed):
    """The gradients of weight matrices for one loss.

    Attributes:
        matrices: the rank of each gradient, by the name of the parameter.
        gates: for GRUs and LSTMs, the rank of each gate's rows, by the names of the parameter and
            of the gate: "reset", "update", "new"; "input", "forget", "cell", "output".
        loss: value of the loss.
    """

    matrices: Mapping[str, GradientRank]
    gates: Mapping[str, Mapping[str, GradientRank]]
    loss: float


# In the order of the rows, by PyTorch's names.
_GATES = {
    GRU: ("reset", "update", "new"),
    LSTM: ("input", "forget", "cell", "output"),
}


def effective_rank(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    loss: Loss,
    parameters: Sequence[str] | None = None,
    steps: int | None = None,
    dtype: torch.dtype | None = None,
    state_transient: int = 0,
) -> EffectiveRank:
    r"""Compute the effective rank of the gradient of a loss with respect to the recurrent weights.

    The gradient is a sum of outer products over time,

    .. math:: G = \sum_t \delta_t \, h_{t-1}^\top

    with δ_t the error at step t. Where the long-term Jacobians are ill conditioned, all errors
    collapse onto the same direction and G is close to rank one; with many exponents near zero,
    errors propagate back along many directions (Engelken, "Gradient flossing", NeurIPS 2023).

    The system is left unchanged, including the `.grad` of its parameters, and so is the global
    random state. Parameters that do not require gradients are included.

    Args:
        system: as in `flossing.lyapunov_spectrum`.
        inputs: as in `flossing.lyapunov_spectrum`; outputs after the end of a shorter sequence are
            zero.
        state: as in `flossing.lyapunov_spectrum`.
        loss: maps the outputs of all steps after the transient to a scalar; see
            `flossing.gradient_horizon`.
        parameters: names of matrices, as in `named_parameters()`. `None` for the recurrent ones:
            `weight_hh_l*` of stock layers, `*.weight_hh*` of other modules.
        steps: as in `flossing.lyapunov_spectrum`.
        dtype: as in `flossing.lyapunov_spectrum`; gradients that underflow in single precision
            are zero.
        state_transient: number of first steps before the loss starts; no gradient flows through
            them.

    Returns:
        Singular values and effective ranks of the gradient of each matrix.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: invalid inputs, or no steps left after the transient.
        InvalidStateError: an invalid initial state.
        InvalidOptionError: an option has an invalid value, a matrix does not exist, or the loss is
            not a scalar or has a zero gradient.
        NonFiniteError: the trajectory, the loss or the gradient is infinite or NaN.

    Example:
        >>> import torch, flossing
        >>> gru = torch.nn.GRU(2, 16)
        >>> inputs, targets = torch.randn(40, 8, 2), torch.randn(8, 16)
        >>> rank = flossing.effective_rank(
        ...     gru, inputs, loss=lambda output: (output[-1] - targets).square().mean()
        ... )
        >>> rank.matrices["weight_hh_l0"].singular_values.shape
        torch.Size([16])
        >>> 1 <= rank.gates["weight_hh_l0"]["update"].participation_ratio <= 16
        True
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        without_autocast(),
        in_eval_mode(system),
    ):
        problem = analysed_map(
            system,
            inputs,
            state,
            steps=steps,
            layer=None,
            dtype=dtype,
            state_transient=state_transient,
        )
        system = unwrapped(system)
        weights = _leaves(system, problem, parameters)
        problem = _with_weights(system, problem, weights)
        value = _loss(system, problem, loss, state_transient)
        gradients = _gradients(value, weights)
    gates = _gates(problem)
    return EffectiveRank(
        matrices={name: _rank(gradient) for name, gradient in gradients.items()},
        gates={
            name: dict(zip(gates, map(_rank, gradients[name].chunk(len(gates))), strict=True))
            for name in gradients
            if gates and not name.startswith("weight_hr")
        },
        loss=value.item(),
    )


def _leaves(
    system: System, problem: DrivenMap, parameters: Sequence[str] | None
) -> dict[str, Tensor]:
    """Return copies of the matrices to differentiate by, in the precision of the computation."""
    available = _matrices(system, problem.recurrence)
    if parameters is None:
        chosen = [name for name in available if name.split(".")[-1].startswith("weight_hh")]
    else:
        chosen = list(parameters)
    unknown = [name for name in chosen if name not in available]
    if unknown or not chosen:
        which = f"no matrix {unknown}" if unknown else "no matrix weight_hh* (the default)"
        raise InvalidOptionError(
            f"this {getattr(system, '__name__', type(system).__name__)} has {which} among its "
            "parameters; "
            + (
                f"pass parameters=[...] with names from {list(available)}"
                if available
                else "it has no matrices at all: write the system as an nn.Module"
            )
        )
    return {
        name: available[name].detach().to(problem.state.dtype, copy=True).requires_grad_()
        for name in chosen
    }


def _matrices(system: System, recurrence: Recurrence) -> dict[str, Tensor]:
    if isinstance(recurrence, StockRecurrence):
        named = {
            name: getattr(own, field)
            for layer, own in enumerate(recurrence.layers)
            for field, name in _names(recurrence, layer)
            if getattr(own, field) is not None
        }
    else:
        named = dict(system.named_parameters()) if isinstance(system, nn.Module) else {}
    return {name: weight for name, weight in named.items() if weight.dim() == 2}


def _names(recurrence: StockRecurrence, layer: int) -> list[tuple[str, str]]:
    """Return the fields of a layer's weights with their names in the module."""
    suffix = f"_l{layer}" if recurrence.stacked_states else ""
    return [(field, field + suffix) for field in LayerWeights._fields]


def _with_weights(system: System, problem: DrivenMap, weights: dict[str, Tensor]) -> DrivenMap:
    """Return the problem with the weights of these names replaced."""
    recurrence = problem.recurrence
    if not isinstance(recurrence, StockRecurrence):
        function = computing_in(system, problem.state.dtype, weights)
        own = cast(CallableRecurrence, recurrence)
        return replace(problem, recurrence=replace(own, function=function))
    layers = tuple(
        own._replace(
            **{field: weights[n] for field, n in _names(recurrence, layer) if n in weights}
        )
        for layer, own in enumerate(recurrence.layers)
    )
    return replace(problem, recurrence=replace(recurrence, layers=layers))


def _loss(
    system: System, problem: DrivenMap, loss: Loss, state_transient: int
) -> Float[Tensor, ""]:
    start = problem.state
    if state_transient:
        start = trajectory(problem, start, 0, state_transient, "detach")[-1]
    states = trajectory(problem, start, state_transient, problem.steps, "full")
    check_finite(problem, zero_after_end(states, problem), state_transient)
    return loss_value(loss, outputs(system, problem, states[1:]))


def _gradients(value: Float[Tensor, ""], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    gradients = dict(zip(weights, found, strict=True))
    for name, gradient in gradients.items():
        if not bool(gradient.any()):
            raise InvalidOptionError(
                f"the gradient of {name} is zero: the loss does not depend on it, all units are "
                "saturated, or the gradient underflows; in the last case pass dtype=torch.float64"
            )
        if not bool(gradient.isfinite().all()):
            raise NonFiniteError(
                f"the gradient of {name} is infinite or NaN, since it explodes: pass fewer steps, "
                "or dtype=torch.float64"
            )
    return gradients


def _gates(problem: DrivenMap) -> tuple[str, ...]:
    recurrence = problem.recurrence
    return _GATES.get(recurrence.kind, ()) if isinstance(recurrence, StockRecurrence) else ()


def _rank(gradient: Float[Tensor, "rows columns"]) -> GradientRank:
    return GradientRank(svdvals(gradient))
