"""Custom modules, made by a factory function that the user names.

This is the only place where loading a checkpoint runs code; the code is that of the factory, never
of the checkpoint.
"""

import importlib
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flossing.diagnosis.checkpoints.prefixes import matching_prefixes
from flossing.errors import InvalidCheckpointError, InvalidOptionError


def build_by_factory(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Import a factory, call it and return the module that it makes.

    Args:
        name: "package.module:function"; the package may be in the current folder.
        arguments: Keyword arguments for the factory.

    Raises:
        InvalidOptionError: The factory does not exist or cannot be imported, it does not take the
            arguments, or it returns anything but an `nn.Module` with parameters.

    Example:
        >>> build_by_factory("torch.nn:GRUCell", {"input_size": 1, "hidden_size": 4})
        GRUCell(1, 4)
    """
    location, _, function_name = name.partition(":")
    with _importable_from_here():
        try:
            factory = getattr(importlib.import_module(location), function_name, None)
        except Exception as error:
            raise InvalidOptionError(
                f"{name} could not be imported ({type(error).__name__}: {error}): check its name, "
                "and install its package or run from the folder that contains it"
            ) from error
        if not callable(factory):
            raise InvalidOptionError(
                f"{location} has no function {function_name!r}: expected package.module:factory"
            )
        try:
            module = factory(**arguments)
        # Whatever the user's function raises.
        except Exception as error:
            raise InvalidOptionError(
                f"{name} could not be called with the arguments {dict(arguments)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    if not isinstance(module, nn.Module) or not list(module.parameters()):
        raise InvalidOptionError(
            f"{name} returned a {type(module).__name__}; expected an nn.Module with weights"
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise InvalidOptionError(
            f"{name} returned a {type(module).__name__} on the meta device, whose weights have no "
            "values: let it return module.to_empty(device='cpu')"
        )
    return module


def load_exactly(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str | None
) -> tuple[str, tuple[str, ...]]:
    """Load the tensors under a prefix into a module whose parameters have the same names.

    Args:
        module: Is changed.
        tensors: All tensors of a checkpoint.
        prefix: `None` for the one under which the names match.

    Returns:
        The prefix, and the tensors of the checkpoint for which the module has no name.

    Raises:
        InvalidCheckpointError: Names or shapes do not match, or match under several prefixes, or
            a parameter of the module got no value.
    """
    own = set(module.state_dict())
    meant = matching_prefixes(_prefixes(tensors), prefix)
    fitting = [each for each in meant if set(_below(tensors, each)) == own]
    if len(fitting) > 1:
        listed = ", ".join(map(repr, fitting))
        raise InvalidCheckpointError(
            f"the weights of {type(module).__name__} could be those under any of {listed}: select "
            "one with --prefix"
        )
    chosen = (fitting or meant or [""])[0]
    # PyTorch would convert them without a word, quantised weights without their scale.
    for name, weight in module.named_parameters():
        tensor = tensors.get(chosen + name)
        if tensor is not None and weight.is_floating_point() > tensor.is_floating_point():
            raise InvalidCheckpointError(
                f"{chosen}{name} is {tensor.dtype}, but the weight of {type(module).__name__} is "
                f"{weight.dtype}: save it as floating point, quantised weights with their scale"
            )
    # A module may load its weights in its own way, and leave some of them out.
    weights = [weight for weight in module.parameters() if not is_lazy(weight)]
    with torch.no_grad():
        for weight in weights:
            weight.fill_(torch.nan if weight.is_floating_point() else 0)
    try:
        module.load_state_dict(_below(tensors, chosen))
    except RuntimeError as error:
        raise InvalidCheckpointError(
            f"the tensors under {chosen!r} are not those of the module: {error}; check --prefix "
            "and the factory"
        ) from error
    empty = [name for name, weight in module.named_parameters() if _is_empty(weight)]
    if empty:
        raise InvalidCheckpointError(
            f"{type(module).__name__} took no value for {', '.join(empty[:4])} from the tensors "
            f"under {chosen!r}, or only NaN: check --prefix, the factory and its load_state_dict"
        )
    taken = {chosen + name for name in own}
    return chosen, tuple(name for name in tensors if name not in taken)


def _is_empty(weight: Tensor) -> bool:
    return weight.is_floating_point() and bool(weight.isnan().all())


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    found = {""}
    for name in tensors:
        parts = name.split(".")
        found |= {".".join(parts[:count]) + "." for count in range(1, len(parts))}
    return sorted(found)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@contextmanager
def _importable_from_here() -> Generator[None]:
    """Make the current folder importable, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
