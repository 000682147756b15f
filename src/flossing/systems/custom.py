"""Callables `(x_t, state) -> state`, `-> (output, state)` or `(state) -> state` as recurrent maps.

The flat state is the concatenation of the state's tensors, each flattened, in the order in which
they come in tuples, lists and dictionaries (see `flossing.support.pytree`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.utils.checkpoint
from jaxtyping import Float
from torch import Tensor

from flossing.errors import FlossingError, InvalidStateError, UnsupportedSystemError
from flossing.support.pytree import Rebuild, constants, describe, flatten, same_structure
from flossing.support.torch_typed import fork_rng, split
from flossing.systems.cell_tangent import CellTangent, depends_on_state, jacobians_pay
from flossing.systems.module_precision import computing_in
from flossing.systems.separate_states import after_output, is_neuron, takes_separate_states
from flossing.systems.step_checks import (
    companions,
    require_independent_rows,
    require_second_derivatives,
    warn_of_other_derivatives,
)
from flossing.systems.tangent import TangentMap

# Roughly how many arrays as large as its rows automatic differentiation of a step holds: the rows,
# the step's intermediate results, cotangents and products.
_ARRAYS_PER_ROW = 4

# Errors raised within a step that are passed on as they are. The last one is how PyTorch ends the
# recomputation of a checkpointed segment as soon as it has what it needs, in the middle of a step.
_NOT_OF_THE_STEP = (
    FlossingError,
    MemoryError,
    torch.OutOfMemoryError,
    torch.utils.checkpoint._StopRecomputationError,  # pyright: ignore[reportPrivateUsage]
)


@dataclass(frozen=True)
class CallableRecurrence:
    """A user's callable as a recurrent map.

    Attributes:
        function: the callable, computing in one dtype.
        system: the callable itself, of which each is compared with finite differences once.
        driven: whether it takes an input.
        batched: whether it takes a batch; otherwise `torch.vmap` maps it over one.
        shapes: shape of each tensor of the state, without a batch dimension.
        rebuild: puts the tensors of a state into the caller's structure.
        convention: replaces `unpack` for states whose tensors do not have the batch as their first
            dimension; `None` if they do.
        constants: what in a state is not a tensor, and so is never changed.
        separate: whether the tensors of the state are arguments of their own.
        neuron: whether it is one of snnTorch's neurons.
    """

    function: Callable[..., Any]
    system: Callable[..., Any]
    driven: bool
    batched: bool
    shapes: tuple[torch.Size, ...]
    rebuild: Rebuild
    convention: Callable[..., Any] | None = None
    constants: tuple[Any, ...] = ()
    separate: bool = False
    neuron: bool = False

    @property
    def state_size(self) -> int:
        """Length of the flat state."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def tangent_slice(self) -> slice:
        """The part of the flat state that the tangent map acts on: all of it."""
        return slice(0, self.state_size)

    def elements_per_step(self, exponents: int) -> int:
        """Return roughly how many elements a scan holds for a step of one trajectory."""
        # As many rows of n entries as there are copies of the state: n for a Jacobian, else k.
        size = self.state_size
        return _ARRAYS_PER_ROW * size * (size if jacobians_pay(size, exponents) else exponents)

    def requires_grad(self, inputs: Tensor | None, state: Tensor) -> bool:
        """Whether anything that the trajectory depends on requires gradients."""
        if state.requires_grad or (inputs is not None and inputs.requires_grad):
            return True
        # Parameters may be anywhere, in a closure too: only a step tells.
        return self.step(None if inputs is None else inputs[0], state).requires_grad

    def unpack(self, state: Float[Tensor, "B n"], *, batched: bool) -> Any:
        """Return a flat state in the caller's own structure."""
        if self.convention is not None:
            return self.convention(state, batched=batched)
        return self._tree(state if batched else state.squeeze(0))

    def step(self, inputs: Tensor | None, state: Float[Tensor, "R n"]) -> Float[Tensor, "R n"]:
        """Return the flat states after one step on independent rows."""
        if self.batched:
            return self._call(inputs, state)
        # The caller's function takes a single trajectory, but all steps are linearised at once.
        if self.driven:
            return torch.vmap(self._call)(inputs, state)
        return torch.vmap(partial(self._call, None))(state)

    def advance(
        self, inputs: Tensor | None, state: Float[Tensor, "B n"], steps: int
    ) -> Float[Tensor, "T B n"]:
        """Return the flat states after each step."""
        states: list[Tensor] = []
        for t in range(steps):
            state = self.step(None if inputs is None else inputs[t], state)
            states.append(state)
        return torch.stack(states)

    def tangent(
        self, inputs: Tensor | None, states: Float[Tensor, "T B n"], exponents: int
    ) -> TangentMap:
        """Return the tangent map along the inputs of every step and the states before it."""
        return CellTangent.of(self.step, inputs, states, exponents)

    def require_valid_step(
        self,
        inputs: Float[Tensor, "T B *features"] | None,
        states: Float[Tensor, "T B n"],
        images: Float[Tensor, "T B n"],
        *,
        twice: bool,
    ) -> None:
        """Check the step at some places of a trajectory; with `twice` for second derivatives, too.

        Args:
            inputs: the inputs of each step.
            states: the states before each.
            images: the states after each.
            twice: whether the second derivative is needed.

        Raises:
            UnsupportedSystemError: its rows depend on one another, or it has no second derivative.
        """
        with _unseen_by_checkpoints():
            require_independent_rows(self.step, inputs, states, images)
            if twice:
                require_second_derivatives(self.step, inputs, states)
            warn_of_other_derivatives(self.step, inputs, states, self.system)

    def _tree(self, state: Float[Tensor, "*R n"]) -> Any:
        parts = split(state, [shape.numel() for shape in self.shapes])
        leaves = [
            part.reshape((*state.shape[:-1], *shape))
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return self.rebuild(leaves)

    def _call(self, inputs: Tensor | None, state: Float[Tensor, "*R n"]) -> Float[Tensor, "*R n"]:
        tree = self._tree(state)
        states = tuple(tree) if self.separate else (tree,)
        try:
            result = self.function(inputs, *states) if self.driven else self.function(*states)
        except _NOT_OF_THE_STEP:
            raise
        except Exception as error:
            signature = "(x_t, state)" if self.driven else "(state)"
            raise UnsupportedSystemError(
                f"calling {_name(self.system)}{signature} failed with {type(error).__name__}: "
                f"{error}. The system must be one step of a recurrent map, in PyTorch operations "
                "that leave its arguments unchanged (no NumPy, no .item(); torch.func.grad for "
                "derivatives; h = h + 1 instead of h += 1, or begin with h = h.clone()); pass the "
                "recurrent module itself rather than a model around it, and batched inputs and "
                "state if it cannot be mapped over a batch by torch.vmap"
            ) from error
        after = state_of(result, tree, neuron=self.neuron)
        if self.constants:
            self._require_constants(after)
        flat = [leaf.reshape(*state.shape[:-1], -1) for leaf in flatten(after)[0]]
        joined = torch.cat(flat, dim=-1)
        if joined.is_complex():
            raise UnsupportedSystemError(
                f"{_name(self.system)} returns a complex state from a real one: keep the real and "
                "imaginary parts as two real tensors of the state (torch.view_as_complex inside "
                "the step, torch.view_as_real at its end)"
            )
        # A step may compute in another precision, under autocast for instance.
        return joined.to(state.dtype)

    def _require_constants(self, after: Any) -> None:
        for before, now in zip(self.constants, constants(after), strict=False):
            if now is not before and now != before:
                raise UnsupportedSystemError(
                    f"{_name(self.system)} changes a part of the state that is not a tensor, from "
                    f"{before!r} to {now!r}: make it a tensor with the batch as its first "
                    "dimension, or an input"
                )


def callable_recurrence(
    system: Callable[..., Any],
    inputs: Float[Tensor, "T B *features"] | None,
    state: Any,
    *,
    batched: bool,
    dtype: torch.dtype,
) -> tuple[CallableRecurrence, Float[Tensor, "B n"]]:
    """Return the recurrent map of a callable, and its flat initial state.

    Raises:
        InvalidStateError: the state is missing, empty, or its batch is not that of the inputs.
        UnsupportedSystemError: the callable fails, does not return a state like the one that it
            received, or does not treat the rows of a batch independently and deterministically.
    """
    leaves, rebuild = flatten(state)
    if not leaves:
        raise InvalidStateError(
            "a callable needs an initial state, a tensor or a structure of tensors, which defines "
            f"its size; got {describe(state)}: pass state=..., e.g. torch.zeros(batch, size), or "
            "flossing.stateful(cell) if the cell keeps its state inside"
        )
    if batched:
        _check_batch(leaves, inputs)
        shapes = tuple(leaf.shape[1:] for leaf in leaves)
        flat = torch.cat([leaf.to(dtype).flatten(1) for leaf in leaves], dim=-1)
    else:
        shapes = tuple(leaf.shape for leaf in leaves)
        flat = torch.cat([leaf.to(dtype).flatten() for leaf in leaves]).unsqueeze(0)
    if flat.shape[1] == 0:
        raise InvalidStateError(f"the state is empty: {describe(state)}")
    function = computing_in(system, dtype)
    recurrence = CallableRecurrence(
        function,
        system,
        inputs is not None,
        batched,
        shapes,
        rebuild,
        constants=tuple(constants(state)),
        separate=takes_separate_states(system, state, driven=inputs is not None),
        neuron=is_neuron(system),
    )
    probe(recurrence, system, inputs, flat)
    return recurrence, flat


def _unseen_by_checkpoints() -> AbstractContextManager[None]:
    # Hooks that do nothing take the place of those of a caller who checkpoints the measurement:
    # they would count what is saved here and miss it where a check is not repeated. Without such,
    # none: torch.func does not work inside of hooks, and steps may use it. There is no public way
    # to ask.
    if cast(Any, torch)._C._autograd._top_saved_tensors_default_hooks(True) is None:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _check_batch(leaves: list[Tensor], inputs: Tensor | None) -> None:
    batch = leaves[0].shape[0] if inputs is None else inputs.shape[1]
    found = [tuple(leaf.shape) for leaf in leaves]
    if any(shape[:1] != (batch,) for shape in found):
        raise InvalidStateError(
            f"every tensor of the state must have the batch of {batch} as its first dimension, "
            f"like the inputs; got shapes {', '.join(map(str, found))}"
        )


def _name(system: Callable[..., Any]) -> str:
    return getattr(system, "__name__", type(system).__name__)


def state_of(result: Any, state: Any, *, neuron: bool = False) -> Any:
    """Return the next state from what a step returned: a state, or an output and a state.

    Of a neuron of snnTorch the states are the last results.

    Raises:
        UnsupportedSystemError: neither has the structure and shapes of the state before.
    """
    result = after_output(result, state, neuron=neuron)
    # The state itself first: a state that is a pair, like an LSTM's, is not (output, state).
    if same_structure(result, state):
        return result
    if isinstance(result, tuple | list):
        pair = cast(list[Any], result)
        if len(pair) == 2 and same_structure(pair[1], state):
            return pair[1]
    raise UnsupportedSystemError(
        f"the system must return the next state, or (output, next state), with the state's own "
        f"structure and shapes, {describe(state)}; it returned {describe(result)}"
    )


def probe(
    recurrence: CallableRecurrence,
    system: Callable[..., Any],
    inputs: Tensor | None,
    state: Float[Tensor, "B n"],
) -> None:
    """Try one step: on the batch, beside as many other rows, and for its derivative.

    Raises:
        UnsupportedSystemError: the step fails, is random, couples the rows, or has no derivative.
    """
    # The tangent maps run a step on every state of many steps at once, and on many copies of each
    # (see `flossing.systems.cell_tangent`). So a step must take any number of rows, and a
    # row's result must not depend on the other rows nor on chance. Both show when it runs on the
    # batch beside other rows.
    devices = [state.device] if state.is_cuda else []
    # A random step is refused, but it has drawn its numbers.
    with fork_rng(devices):
        _probe(recurrence, _name(system), inputs, state.detach().clone())


def _probe(
    recurrence: CallableRecurrence,
    name: str,
    inputs: Tensor | None,
    state: Float[Tensor, "B n"],
) -> None:
    # Copies, for a step that changes its arguments must not change the caller's.
    first = None if inputs is None else inputs[0].detach().clone()
    twice = None if first is None else torch.cat([first, first])
    signature = "(state)" if inputs is None else "(x_t, state)"
    both = torch.cat([companions(state), state])
    given = [each for each in (first, state) if each is not None]
    kept = [each.clone() for each in given]
    with torch.no_grad():
        once = recurrence.step(first, state)
        # The version counts writes, except through torch.vmap.
        written = any(each._version for each in given)
        if written or not all(map(torch.equal, given, kept)):
            raise UnsupportedSystemError(
                f"{name} changes its arguments in place: write h = h + 1 instead of h += 1, or "
                "begin with a copy, h = h.clone()"
            )
        try:
            beside = recurrence.step(twice, both)[len(state) :]
        except UnsupportedSystemError as error:
            if error.__cause__ is None:
                raise
            raise UnsupportedSystemError(
                f"{name} fails on a batch of {2 * len(state)} rows although it takes {len(state)}: "
                f"{error.__cause__}. It must accept any batch size, since all steps are linearised "
                "at once; a program of torch.export does with dynamic_shapes=({0: Dim.AUTO}, …)"
            ) from error.__cause__
    # Half of the digits: matrix products round differently in batches of different sizes, and a
    # step may amplify that. Noise and batch statistics differ by far more.
    tolerance = torch.finfo(state.dtype).eps ** 0.5
    if not torch.allclose(beside, once, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise UnsupportedSystemError(
            f"{name} returns other results for the same rows beside others: it is random, or the "
            "rows of a batch depend on one another (dropout or noise; a batch mean, batch "
            "normalisation in train mode, a quantisation observer); call .eval(), pass noise as an "
            "input, and write the step so that every row is on its own"
        )
    try:
        dependent = depends_on_state(recurrence.step, first, state)
    except _NOT_OF_THE_STEP:
        raise
    except Exception as error:
        raise UnsupportedSystemError(
            f"the backward pass of {name}{signature} failed with {type(error).__name__}: {error}. "
            "Jacobians are taken by automatic differentiation: write the step in differentiable "
            "operations that return new tensors, h = h + 1 instead of h += 1"
        ) from error
    if not dependent:
        raise UnsupportedSystemError(
            f"autograd finds that the result of {name}{signature} does not depend on the state, so "
            "it has no Jacobians: keep detach, torch.no_grad and other libraries out of the step, "
            "and give thresholds a surrogate gradient"
        )
