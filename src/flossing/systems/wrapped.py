"""What may surround a recurrent module: wrappers, whole models, transforms of torch.func."""

from typing import Any, cast

import torch
from torch import nn
from torch.jit import ScriptModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from flossing.errors import UnsupportedDerivativeError, UnsupportedSystemError

_LAYERS = (nn.RNN, nn.GRU, nn.LSTM)

# The most submodules that a message lists.
_MOST_LISTED = 4


def unwrapped(system: Any) -> Any:
    """Return the module inside torch.compile, data-parallel and averaging wrappers.

    These compute what the module does. A compiled module has no second derivatives, and a
    distributed one would synchronise at every step.
    """
    while isinstance(system, nn.Module):
        if isinstance(system, nn.DataParallel | DistributedDataParallel | AveragedModel):
            system = cast(nn.Module, system.module)
        # The class OptimizedModule is not asked for: importing it loads the compiler.
        elif isinstance(inner := getattr(system, "_orig_mod", None), nn.Module):
            system = inner
        else:
            break
    return system


def refuse_whole_model(system: Any, state: Any) -> None:
    """Refuse scripted layers, and models that contain a stock layer and come without a state.

    Raises:
        UnsupportedSystemError: the system is one of these.
    """
    if isinstance(system, ScriptModule) and _kind(system) in {kind.__name__ for kind in _LAYERS}:
        raise UnsupportedSystemError(
            f"this nn.{_kind(system)} is a {type(system).__name__} of torch.jit, which takes whole "
            "sequences and hides its weights: pass the Python module from which torch.jit.script "
            "or torch.jit.trace made it"
        )
    if state is None and (advice := advice_on_model(system)):
        raise UnsupportedSystemError(
            f"this {type(system).__name__} is no stock recurrent module, and there is no initial "
            f"state, which a step (x_t, state) -> state needs. {advice}"
        )


def require_no_transform() -> None:
    """Refuse to run inside torch.func.grad, vmap, jvp and the like.

    Raises:
        UnsupportedDerivativeError: such a transform is active.
    """
    # There is no public way to ask.
    peek = cast(Any, torch)._C._functorch.peek_interpreter_stack
    if peek() is not None:
        raise UnsupportedDerivativeError(
            "Lyapunov exponents cannot be computed inside torch.func.grad, vmap, jvp and other "
            "transforms: differentiate with backward() or torch.autograd.grad, which work with "
            "torch.func.functional_call too, and pass many trajectories as one batch"
        )


def advice_on_model(system: Any) -> str:
    """Return which of its submodules to pass, if a model contains stock recurrent layers."""
    if not isinstance(system, nn.Module):
        return ""
    layers = {kind.__name__ for kind in _LAYERS}
    modules: dict[str, nn.Module] = dict(cast(Any, system).named_modules())
    found = {name: _kind(each) for name, each in modules.items() if _kind(each) in layers}
    if not found:
        return ""
    listed = ", ".join(f"an nn.{kind} at .{name}" for name, kind in [*found.items()][:_MOST_LISTED])
    more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    first = next(iter(found))
    indexed = any(part.isdigit() for part in first.split("."))
    which = f"model.get_submodule({first!r})" if indexed else f"model.{first}"
    return (
        f"{type(system).__name__} contains {listed}{more}: pass {which}, with the inputs that it "
        "gets there"
    )


def _kind(module: nn.Module) -> str:
    # A scripted module keeps the name of its class.
    if isinstance(module, ScriptModule):
        return str(getattr(module, "original_name", ""))
    return next((kind.__name__ for kind in _LAYERS if isinstance(module, kind)), "")
