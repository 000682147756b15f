"""Recurrent maps on flat states, and the conversion of modules, cells and callables to them.

`driven_map` checks a system, its inputs and its initial state; everything behind it relies on that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import (
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    UnsupportedSystemError,
)
from flossing.support.autocast import without_autocast
from flossing.systems.arguments import (
    autonomous_steps,
    check_devices,
    check_dtype_option,
    check_state_tensors,
    checked_inputs,
    computable,
    dtype_of,
    recordable,
    time_first,
)
from flossing.systems.custom import callable_recurrence
from flossing.systems.plain_tensors import require_plain_tensors
from flossing.systems.separate_states import (
    batched_state,
    given_state,
    is_neuron,
    recurrent_part,
)
from flossing.systems.stateful import Stateful
from flossing.systems.stock import StockCell, StockLayer, is_stock, stock_recurrence
from flossing.systems.tangent import TangentMap
from flossing.systems.wrapped import (
    advice_on_model,
    refuse_whole_model,
    require_no_transform,
    unwrapped,
)

System = nn.Module | Callable[..., Any]
StateGradient = Literal["full", "detach"] | int


@runtime_checkable
class Recurrence(Protocol):
    """A recurrent map h_t = f(h_{t-1}, x_t) on flat states: vectors of n entries."""

    @property
    def state_size(self) -> int:
        """Length of the flat state."""
        ...

    @property
    def tangent_slice(self) -> slice:
        """The part of the flat state that the tangent map acts on."""
        ...

    def elements_per_step(self, exponents: int) -> int:
        """Return roughly how many elements a scan holds for a step of one trajectory."""
        ...

    def requires_grad(self, inputs: Tensor | None, state: Tensor) -> bool:
        """Whether anything that the trajectory depends on requires gradients."""
        ...

    def unpack(self, state: Float[Tensor, "B n"], *, batched: bool) -> Any:
        """Return a flat state in the system's own convention."""
        ...

    def step(self, inputs: Any, state: Float[Tensor, "R n"]) -> Float[Tensor, "R n"]:
        """Return the flat states after one step on independent rows, any number of them."""
        ...

    def advance(
        self, inputs: Any, state: Float[Tensor, "B n"], steps: int
    ) -> Float[Tensor, "T B n"]:
        """Return the flat states after each step."""
        ...

    def tangent(self, inputs: Any, states: Float[Tensor, "T B n"], exponents: int) -> TangentMap:
        """Return the tangent map along the inputs of every step and the states before it."""
        ...


@runtime_checkable
class AutonomousSystem(Protocol):
    """A system without inputs that provides its own state flattening."""

    def __call__(self, state: Any) -> Any:
        """Return the state after one step."""
        ...

    def as_recurrence(
        self, state: Any, dtype: torch.dtype
    ) -> tuple[Recurrence, Float[Tensor, "B n"], bool]:
        """Return the map, the flat initial state, and whether it came with a batch dimension."""
        ...


@dataclass(frozen=True)
class DrivenMap:
    """A recurrent map with its inputs and initial state, checked, in one layout and dtype.

    Attributes:
        recurrence: the map on flat states.
        inputs: [T, B, ...], or `None` for an autonomous map.
        state: flat initial state [B, S].
        steps: number of steps T, that of the longest trajectory.
        lengths: number of steps of each trajectory; the steps after it are padding, which is
            computed but not counted.
        batched: whether the caller's tensors have a batch dimension.
    """

    recurrence: Recurrence
    inputs: Float[Tensor, "T B *features"] | None
    state: Float[Tensor, "B S"]
    steps: int
    lengths: tuple[int, ...]
    batched: bool

    @property
    def tangent_size(self) -> int:
        """Number n of exponents."""
        part = self.recurrence.tangent_slice
        return part.stop - part.start

    @property
    def differentiable(self) -> bool:
        """Whether gradients are enabled and there is something to differentiate."""
        return torch.is_grad_enabled() and self.recurrence.requires_grad(self.inputs, self.state)

    def inputs_from(self, start: int, stop: int) -> Tensor | None:
        """Return the inputs of a range of steps."""
        return None if self.inputs is None else self.inputs[start:stop]


@without_autocast()  # Parametrised weights and the first state are computed here.
def driven_map(
    system: System,
    inputs: Tensor | PackedSequence | None,
    state: Any,
    *,
    steps: int | None,
    layer: int | None,
    dtype: torch.dtype | None,
) -> DrivenMap:
    """Check a system with its inputs and state, and convert them to one form.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: the inputs are empty, of the wrong shape or dtype, or not finite.
        InvalidStateError: the state is missing, of the wrong shape or dtype, or not finite.
        InvalidOptionError: `steps`, `layer` or `dtype` is invalid.
    """
    require_no_transform()
    system = unwrapped(system)
    if not callable(system):
        raise UnsupportedSystemError(
            "the system must be a recurrent module, a cell, or a callable (x_t, state) -> state, "
            f"not a {type(system).__name__}"
        )
    check_dtype_option(dtype)
    require_plain_tensors(system, inputs, state)
    system = recurrent_part(system)
    state = given_state(system, state)
    if isinstance(system, AutonomousSystem) and inputs is not None:
        raise InvalidInputError(
            f"a {type(system).__name__} makes its own inputs: leave inputs out and pass steps=..., "
            "or pass the driven system itself for its exponents under these inputs"
        )
    adapted = isinstance(system, Stateful) or is_neuron(system)
    if not (is_stock(system) or isinstance(system, AutonomousSystem) or adapted):
        refuse_whole_model(system, state)
    # Three precisions: the system's own, the one asked for, and the one computed in, which is the
    # latter if given, else the former unless that is half precision.
    own_dtype = dtype_of(system, inputs, state)
    computing = dtype or computing_dtype(system, inputs, state)
    inputs, lengths, batched = time_first(system, inputs, state)
    check_devices(system, inputs, state)
    if inputs is None:
        steps = autonomous_steps(system, steps)
    elif steps is not None and steps != len(inputs):
        raise InvalidOptionError(
            f"steps={steps}, but the inputs have {len(inputs)} steps: leave steps out, which is "
            "for maps without inputs"
        )
    else:
        steps = len(inputs)
        inputs = recordable(checked_inputs(inputs, own_dtype, dtype).to(computing))
    check_state_tensors(state, own_dtype, dtype)
    # Three kinds of systems: PyTorch's modules, whose Jacobians have the structure A + C W; systems
    # that flatten their states themselves; and any other callable, by automatic differentiation.
    if is_stock(system):
        recurrence, flat = _stock(system, inputs, state, layer, computing)
    elif isinstance(system, AutonomousSystem):
        _refuse_layer(system, layer)
        recurrence, flat, batched = system.as_recurrence(state, computing)
    else:
        _refuse_layer(system, layer)
        if adapted:
            state = batched_state(system, inputs, state, batched=batched)
        try:
            recurrence, flat = callable_recurrence(
                system, inputs, state, batched=batched or adapted, dtype=computing
            )
        except (UnsupportedSystemError, InvalidStateError) as error:
            # Without a cause it runs as a step, but is not one that can be measured.
            is_step = isinstance(error, UnsupportedSystemError) and error.__cause__ is None
            advice = "" if is_step else advice_on_model(system)
            if not advice:
                raise
            raise UnsupportedSystemError(f"{error}{advice}") from error.__cause__ or error
    # Known only now where there are no inputs: the batch size is that of the state.
    if not lengths:
        lengths = (steps,) * len(flat)
    return DrivenMap(recurrence, inputs, flat, steps, lengths, batched)


def computing_dtype(system: System, inputs: Any, state: Any) -> torch.dtype:
    """Return the precision in which a system is computed unless the caller names another."""
    return computable(dtype_of(unwrapped(system), inputs, state))


def _stock(
    system: Any, inputs: Tensor | None, state: Any, layer: int | None, dtype: torch.dtype
) -> tuple[Recurrence, Tensor]:
    module: StockLayer | StockCell = system
    recurrence = stock_recurrence(module, layer, dtype)
    if inputs is None or inputs.dim() != 3 or inputs.shape[-1] != module.input_size:
        found = None if inputs is None else inputs.shape[-1]
        raise InvalidInputError(
            f"this {type(system).__name__} takes inputs with {module.input_size} features, "
            f"not {found}; without an input, pass zeros"
        )
    flat = recurrence.pack(state, inputs.shape[1], inputs)
    return recurrence, flat.to(dtype)


def _refuse_layer(system: System, layer: int | None) -> None:
    if layer is not None:
        raise InvalidOptionError(
            f"layer={layer} selects a layer of an nn.RNN, nn.GRU or nn.LSTM; this "
            f"{type(system).__name__} has none: leave layer out"
        )
