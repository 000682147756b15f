"""What may surround a recurrent module: wrappers, whole models, transforms of torch.func."""

from typing import Any, cast

import torch
from torch import nn
from torch.jit import ScriptModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from flossing.errors import UnsupportedDerivativeError, UnsupportedSystemError

_LAYERS = {"RNN", "GRU", "LSTM"}
_CELLS = {"RNNCell", "GRUCell", "LSTMCell"}

# The most submodules that a message lists.
_MOST_LISTED = 4


def unwrapped(system: Any) -> Any:
    """Return what is inside torch.compile, data-parallel and averaging wrappers.

    These compute what it does. A compiled module has no second derivatives, and a distributed one
    would synchronise at every step.
    """
    while True:
        inner: Any
        if isinstance(system, nn.DataParallel | DistributedDataParallel | AveragedModel):
            inner = cast(Any, system).module
        else:
            # Attributes instead of the class OptimizedModule: importing it loads the compiler.
            name = "_orig_mod" if isinstance(system, nn.Module) else "_torchdynamo_orig_callable"
            inner = getattr(system, name, None)
        if not callable(inner):
            return cast(Any, system)
        system = inner


def refuse_whole_model(system: Any, state: Any) -> None:
    """Refuse scripted and quantised layers, and models around a layer without a state.

    Raises:
        UnsupportedSystemError: the system is one of these.
    """
    if _kind(system) in _LAYERS:
        raise UnsupportedSystemError(
            f"this nn.{_kind(system)} is a {type(system).__module__}.{type(system).__name__}, "
            "which takes whole sequences and hides its weights: pass the module from which "
            "torch.jit or torch.ao.quantization made it"
        )
    if state is None and (advice := advice_on_model(system)):
        raise UnsupportedSystemError(
            f"this {type(system).__name__} is no stock recurrent module, and there is no initial "
            f"state, which a step (x_t, state) -> state needs{advice}"
        )


def require_no_transform() -> None:
    """Refuse to run inside torch.func.grad, vmap, jvp and the like, or forward-mode derivatives.

    Raises:
        UnsupportedDerivativeError: such a transform is active.
    """
    # There is no public way to ask.
    transformed = cast(Any, torch)._C._functorch.peek_interpreter_stack() is not None
    if transformed or vars(torch.autograd.forward_ad)["_current_level"] >= 0:
        raise UnsupportedDerivativeError(
            "Lyapunov exponents cannot be computed inside torch.func.grad, vmap, jvp and other "
            "transforms, nor by forward-mode differentiation: differentiate with backward() or "
            "torch.autograd.grad, which work with torch.func.functional_call too, and pass many "
            "trajectories as one batch"
        )


def advice_on_model(system: Any) -> str:
    """Return which submodule to pass, as another sentence, if a model contains stock modules."""
    if not isinstance(system, nn.Module):
        return ""
    modules: dict[str, nn.Module] = dict(cast(Any, system).named_modules())
    kinds = {name.removesuffix("._orig_mod"): _kind(each) for name, each in modules.items() if name}
    # A cell is usually part of a layer that is written as a loop: to be named only without others.
    found = {name: kind for name, kind in kinds.items() if kind in _LAYERS} or {
        name: kind for name, kind in kinds.items() if kind in _CELLS
    }
    if not found:
        return ""
    listed = ", ".join(f"an nn.{kind} at .{name}" for name, kind in [*found.items()][:_MOST_LISTED])
    more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    first = next(iter(found))
    indexed = any(part.isdigit() for part in first.split("."))
    which = f"model.get_submodule({first!r})" if indexed else f"model.{first}"
    return (
        f". {type(system).__name__} contains {listed}{more}: pass {which}, with the inputs that it "
        "gets there"
    )


def _kind(module: Any) -> str:
    """Return the name of the stock module that this one is, or was made from; empty for others."""
    if isinstance(module, ScriptModule):
        name = str(getattr(module, "original_name", ""))
    elif type(module).__module__.startswith("torch.ao.nn.quant"):
        # Quantised ones have the names of those that they replace, and are not derived from them.
        name = type(module).__name__
    else:
        stock = (getattr(nn, name) for name in sorted(_LAYERS | _CELLS))
        name = next((kind.__name__ for kind in stock if isinstance(module, kind)), "")
    return name if name in _LAYERS | _CELLS else ""
