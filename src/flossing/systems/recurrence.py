"""Recurrent maps on flat states, and the conversion of modules, cells and callables to them.

The only place where a system, its inputs and its initial state are checked; everything behind
`driven_map` relies on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from flossing.errors import (
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    UnsupportedSystemError,
)
from flossing.support.checks import require_integer
from flossing.support.pytree import flatten
from flossing.systems.custom import callable_recurrence
from flossing.systems.separate_states import (
    batched_state,
    given_state,
    is_neuron,
    recurrent_part,
)
from flossing.systems.stateful import Stateful
from flossing.systems.stock import StockCell, StockLayer, is_stock, stock_recurrence
from flossing.systems.tangent import TangentMap

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
    if not callable(system):
        raise UnsupportedSystemError(
            "the system must be a recurrent module, a cell, or a callable (x_t, state) -> state, "
            f"not a {type(system).__name__}"
        )
    check_dtype_option(dtype)
    system = recurrent_part(system)
    state = given_state(system, state)
    if isinstance(system, AutonomousSystem) and inputs is not None:
        raise InvalidInputError(
            f"a {type(system).__name__} makes its own inputs: leave inputs out and pass steps=..., "
            "or pass the driven system itself for its exponents under these inputs"
        )
    # Three precisions: the system's own, the one asked for, and the one computed in, which is the
    # latter if given, else the former unless that is half precision.
    own_dtype = _own_dtype(system, inputs, state)
    computing = dtype or computing_dtype(system, inputs, state)
    inputs, lengths, batched = _time_first(system, inputs, state)
    # Before the values are looked at: tensors on the meta device have none.
    _check_devices(system, inputs, state)
    if inputs is None:
        steps = _autonomous_steps(system, steps)
    elif steps is not None and steps != len(inputs):
        raise InvalidOptionError(
            f"steps={steps}, but the inputs have {len(inputs)} steps: leave steps out, which is "
            "for maps without inputs"
        )
    else:
        steps = len(inputs)
        inputs = _recordable(_checked_inputs(inputs, own_dtype, dtype).to(computing))
    _check_state_tensors(state, own_dtype, dtype)
    # Three kinds of systems: PyTorch's modules, whose Jacobians have the structure A + C W; systems
    # that flatten their states themselves; and any other callable, by automatic differentiation.
    if is_stock(system):
        recurrence, flat = _stock(system, inputs, state, layer, computing)
    elif isinstance(system, AutonomousSystem):
        _refuse_layer(system, layer)
        recurrence, flat, batched = system.as_recurrence(state, computing)
    else:
        _refuse_layer(system, layer)
        adapted = isinstance(system, Stateful) or is_neuron(system)
        if adapted:
            state = batched_state(system, inputs, state, batched=batched)
        recurrence, flat = callable_recurrence(
            system, inputs, state, batched=batched or adapted, dtype=computing
        )
    # Known only now where there are no inputs: the batch size is that of the state.
    if not lengths:
        lengths = (steps,) * len(flat)
    return DrivenMap(recurrence, inputs, flat, steps, lengths, batched)


def computing_dtype(system: System, inputs: Any, state: Any) -> torch.dtype:
    """Return the precision in which a system is computed unless the caller names another."""
    return _computable(_own_dtype(system, inputs, state))


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


def _computable(dtype: torch.dtype) -> torch.dtype:
    # QR and triangular solves exist in float32 and float64 only.
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def check_dtype_option(dtype: torch.dtype | None) -> None:
    """Require a precision in which exponents can be computed, or `None`.

    Raises:
        InvalidOptionError: `dtype` is another one.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise InvalidOptionError(
            f"dtype must be torch.float32 or torch.float64, in which exponents can be computed, "
            f"or None for the system's own, not {dtype!r}"
        )


def _own_dtype(system: System, inputs: Any, state: Any) -> torch.dtype:
    """Return the floating point type in which the system works by itself."""
    leaves, _ = flatten(state)
    # A stock module's is that of its weights. For other systems the state comes first: a step
    # returns a state of the state's own dtype, whatever its parameters are.
    if is_stock(system) or not leaves:
        module = system if isinstance(system, nn.Module) else nn.Module()
        # A stock module may have its weights as buffers, as a reservoir that is not trained.
        weights = [*module.parameters(), *(module.buffers() if is_stock(system) else ())]
        leaves = [weight for weight in weights if weight.is_floating_point()] or leaves
    if leaves:
        return leaves[0].dtype
    data = inputs.data if isinstance(inputs, PackedSequence) else inputs
    return data.dtype if isinstance(data, Tensor) else torch.get_default_dtype()


def _time_first(
    system: System, inputs: Any, state: Any
) -> tuple[Tensor | None, tuple[int, ...], bool]:
    """Return inputs [T, B, ...], packed trajectories' lengths, and whether there is a batch."""
    if inputs is None:
        # An autonomous map: a state of one dimension is a single vector, more have a batch.
        leaves, _ = flatten(state)
        return None, (), bool(leaves) and leaves[0].dim() >= 2
    if isinstance(inputs, PackedSequence):
        # Padded with zeros after each end, in the caller's order of trajectories. All run to the
        # last step, and what comes after a trajectory's end is left out of its exponents: simpler
        # than a batch that shrinks from step to step, and its gradient is zero.
        padded, lengths = pad_packed_sequence(inputs)
        return padded, tuple(int(length) for length in lengths), True
    if not isinstance(inputs, Tensor):
        raise InvalidInputError(
            "inputs must be a tensor (steps, batch, features) or (steps, features), or a "
            f"PackedSequence, not a {type(inputs).__name__}"
        )
    # (steps, features): unbatched, as PyTorch's modules take it.
    if inputs.dim() == 2:
        return inputs.unsqueeze(1), (), False
    if inputs.dim() < 2 or (inputs.dim() > 3 and is_stock(system)):
        raise InvalidInputError(
            f"inputs must be (steps, batch, features) or (steps, features), not of shape "
            f"{tuple(inputs.shape)}"
        )
    # Steps of other systems take one x_t at a time, so `batch_first` could mean anything there.
    if getattr(system, "batch_first", False) is True and is_stock(system):
        inputs = inputs.transpose(0, 1)
    return inputs, (), True


def _autonomous_steps(system: System, steps: int | None) -> int:
    if is_stock(system):
        raise InvalidInputError(
            f"this {type(system).__name__} takes inputs: pass inputs=..., zeros to run it without "
            "any"
        )
    if steps is None:
        raise InvalidInputError(
            "without inputs the number of steps is unknown: pass steps=... for an autonomous map "
            "(state) -> state, or inputs=... for a driven one"
        )
    return require_integer("steps", steps, at_least=1)


def _checked_inputs(inputs: Tensor, own_dtype: torch.dtype, dtype: torch.dtype | None) -> Tensor:
    if not inputs.is_floating_point():
        raise InvalidInputError(
            f"inputs must be floating point, not {inputs.dtype}: convert them with .to("
            f"{own_dtype}), or embed tokens first"
        )
    # Silent conversion could hide a mistake (float64 data for a float32 network), so it takes a
    # dtype=. A half-precision system is computed in float32, so float32 inputs suit it too.
    if dtype is None and inputs.dtype not in (own_dtype, _computable(own_dtype)):
        raise InvalidInputError(
            f"inputs are {inputs.dtype} but the system works in {own_dtype}: convert one of them, "
            "or choose the precision to compute in with dtype=..."
        )
    if inputs.numel() == 0:
        raise InvalidInputError(
            f"inputs are empty: shape (steps, batch, ...) = {tuple(inputs.shape)}"
        )
    if not bool(torch.isfinite(inputs).all()):
        raise InvalidInputError("inputs contain infinite or NaN values: clean them first")
    return inputs


def _recordable(tensor: Tensor) -> Tensor:
    # Autograd cannot record operations on a tensor created in inference mode, only on its copy.
    return tensor.clone() if tensor.is_inference() else tensor


def _check_state_tensors(state: Any, own_dtype: torch.dtype, dtype: torch.dtype | None) -> None:
    for leaf in flatten(state)[0]:
        if not leaf.is_floating_point():
            raise InvalidStateError(
                f"the state must be floating point, not {leaf.dtype}: convert it with .float()"
            )
        if dtype is None and leaf.dtype not in (own_dtype, _computable(own_dtype)):
            raise InvalidStateError(
                f"the state is {leaf.dtype} but the system works in {own_dtype}: convert one of "
                "them, or choose the precision to compute in with dtype=..."
            )
        if not bool(torch.isfinite(leaf).all()):
            raise InvalidStateError("the state contains infinite or NaN values")


def _check_devices(system: System, inputs: Tensor | None, state: Any) -> None:
    devices = {"state": {leaf.device for leaf in flatten(state)[0]}}
    if inputs is not None:
        devices["inputs"] = {inputs.device}
    # Of a plain callable, parameters in its closure cannot be seen; its first step fails instead.
    if isinstance(system, nn.Module):
        devices["parameters"] = {parameter.device for parameter in system.parameters()}
    if len(set[torch.device]().union(*devices.values())) > 1:
        found = ", ".join(
            f"{name} on {' and '.join(sorted(map(str, where)))}"
            for name, where in devices.items()
            if where
        )
        raise InvalidInputError(f"everything must be on one device; found {found}: use .to(device)")
