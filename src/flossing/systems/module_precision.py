"""A custom module called in a given precision, without any call leaving a trace in it."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from flossing.systems.separate_states import explicit_states, has_neurons
from flossing.systems.stock_weights import has_hooks


def computing_in(
    system: Callable[..., Any], dtype: torch.dtype, parameters: Mapping[str, Tensor] | None = None
) -> Callable[..., Any]:
    """Return the system with its floating point parameters and buffers in the given dtype.

    A module's own buffers are restored after every call, so one that keeps its state in them is
    left as it was; so are the plain tensors and numbers of modules with hooks.

    Args:
        system: the callable; returned unchanged if it is not a module.
        dtype: the precision to compute in.
        parameters: tensors that replace the module's parameters of these names.
    """
    if not isinstance(system, nn.Module):
        return system
    parameters = parameters or {}
    foreign = {name: p for name, p in system.named_parameters() if _in(p, dtype) is not p}
    own = dict(system.named_buffers())
    neurons = has_neurons(system)
    # A hook before the forward stores the weight that it computes as a plain attribute; others
    # count calls there, or record what they see.
    hooked = [module for module in system.modules() if has_hooks(module)]
    if not (foreign or own or parameters or hooked):
        return system
    # Conversion is differentiable: gradients arrive at the module's parameters in their own dtype.
    replaced = {**{name: _in(p, dtype) for name, p in foreign.items()}, **parameters}
    attributes = [(vars(module), _plain_values(module)) for module in hooked]

    def copy_of(buffer: Tensor) -> Tensor:
        converted = _in(buffer, dtype)
        return converted.clone() if converted is buffer else converted

    # Copies of all buffers, since a module may write to them in place.
    copies = {name: copy_of(buffer) for name, buffer in own.items()}

    def call(*arguments: Any) -> Any:
        versions = {name: buffer._version for name, buffer in copies.items()}
        try:
            for current, before in attributes:
                current.update({name: _copied(value) for name, value in before.items()})
            with explicit_states(system) if neurons else nullcontext():
                result = torch.func.functional_call(system, {**copies, **replaced}, arguments)
        finally:
            for current, before in attributes:
                current.update(before)
        for name, version in versions.items():
            # Every call starts from the module's own values, whatever the one before has written.
            if copies[name]._version != version:
                copies[name] = copy_of(own[name])
        return result

    return call


def _in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a precision: a complex one stays complex, an integer one as it is."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _plain_values(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Tensor | int | float)
    }


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
