"""Inputs, initial state and precision of a system: checked, and brought into one layout."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from flossing.errors import InvalidInputError, InvalidOptionError, InvalidStateError
from flossing.support.checks import require_integer
from flossing.support.pytree import flatten
from flossing.systems.stock import is_stock


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


def computable(dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which tensors of a floating point type are computed."""
    # QR and triangular solves exist in float32 and float64 only.
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def dtype_of(system: Any, inputs: Any, state: Any) -> torch.dtype:
    """Return the floating point type in which the system works by itself."""
    leaves, _ = flatten(state)
    # A stock module's is that of its weights. For other systems the state comes first: a step
    # returns a state of the state's own dtype, whatever its parameters are.
    if is_stock(system) or not leaves:
        owned = list(_own_tensors(system))
        leaves = [tensor for tensor in owned if tensor.is_floating_point()] or leaves
    if leaves:
        return leaves[0].dtype
    data = inputs.data if isinstance(inputs, PackedSequence) else inputs
    return data.dtype if isinstance(data, Tensor) else torch.get_default_dtype()


def _own_tensors(system: Any) -> Iterator[Tensor]:
    if isinstance(system, nn.Module):
        yield from system.parameters()
        # The weights of a stock module may be buffers; those of others may be anything.
        if is_stock(system):
            yield from system.buffers()


def time_first(system: Any, inputs: Any, state: Any) -> tuple[Tensor | None, tuple[int, ...], bool]:
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
            f"PackedSequence, not a {type(inputs).__name__}: convert arrays with "
            "torch.from_numpy(...), lists with torch.tensor(...), in the precision of the system"
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


def autonomous_steps(system: Any, steps: int | None) -> int:
    """Return the number of steps of a run without inputs."""
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


def checked_inputs(inputs: Tensor, own_dtype: torch.dtype, dtype: torch.dtype | None) -> Tensor:
    """Return inputs that are floating point, finite, and of the precision of the system.

    Args:
        inputs: (T, B, …).
        own_dtype: the floating point type in which the system works by itself.
        dtype: the one that the caller asked for, if any.
    """
    if not inputs.is_floating_point():
        raise InvalidInputError(
            f"inputs must be floating point, not {inputs.dtype}: convert them with .to("
            f"{own_dtype}), or embed tokens first"
        )
    # Silent conversion could hide a mistake (float64 data for a float32 network), so it takes a
    # dtype=. A half-precision system is computed in float32, so float32 inputs suit it too.
    if dtype is None and inputs.dtype not in (own_dtype, computable(own_dtype)):
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


def recordable(tensor: Tensor) -> Tensor:
    """Return a tensor on which autograd can record operations."""
    # Autograd cannot record operations on a tensor created in inference mode, only on its copy.
    return tensor.clone() if tensor.is_inference() else tensor


def check_state_tensors(state: Any, own_dtype: torch.dtype, dtype: torch.dtype | None) -> None:
    """Require a state that is floating point, finite, and of the precision of the system."""
    for leaf in flatten(state)[0]:
        if not leaf.is_floating_point():
            raise InvalidStateError(
                f"the state must be floating point, not {leaf.dtype}: convert it with .float()"
            )
        if dtype is None and leaf.dtype not in (own_dtype, computable(own_dtype)):
            raise InvalidStateError(
                f"the state is {leaf.dtype} but the system works in {own_dtype}: convert one of "
                "them, or choose the precision to compute in with dtype=..."
            )
        if not bool(torch.isfinite(leaf).all()):
            raise InvalidStateError("the state contains infinite or NaN values")


def check_devices(system: Any, inputs: Tensor | None, state: Any) -> None:
    """Require parameters, inputs and state on one device."""
    devices = {"state": {leaf.device for leaf in flatten(state)[0]}}
    if inputs is not None:
        devices["inputs"] = {inputs.device}
    # Of a plain callable, parameters in its closure cannot be seen; its first step fails instead.
    if isinstance(system, nn.Module):
        devices["parameters"] = {tensor.device for tensor in _own_tensors(system)}
    if len(set[torch.device]().union(*devices.values())) > 1:
        found = ", ".join(
            f"{name} on {' and '.join(sorted(map(str, where)))}"
            for name, where in devices.items()
            if where
        )
        raise InvalidInputError(f"everything must be on one device; found {found}: use .to(device)")
