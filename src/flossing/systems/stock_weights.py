"""The weights with which a module of PyTorch computes when it is called.

Usually they are its parameters. They may also be buffers, plain tensors, or computed from other
parameters: by a parametrization whenever the attribute is read, or by a forward pre-hook before
every call, as pruning and the older weight_norm and spectral_norm do.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flossing.errors import UnsupportedSystemError
from flossing.systems.gates import LayerWeights

WeightHook = BasePruningMethod | WeightNorm | SpectralNorm


def layer_weights(
    system: nn.Module, suffixes: Sequence[str], dtype: torch.dtype
) -> tuple[LayerWeights, ...]:
    """Return the weights of every layer, differentiable, without changing the module.

    Args:
        system: a recurrent layer or cell of PyTorch.
        suffixes: what the names of each layer's weights end with.
        dtype: the weights are converted to it, so that gradients reach those of the module.

    Raises:
        UnsupportedSystemError: the weights are random.
    """
    if not (_pre_hooks(system) or parametrize.is_parametrized(system)):
        return _layers(system, suffixes, dtype)
    cuda = sorted({each.device for each in system.parameters() if each.is_cuda}, key=str)
    before = _random_states(cuda)
    layers = _layers(system, suffixes, dtype)
    if all(map(torch.equal, before, _random_states(cuda))):
        return layers
    torch.set_rng_state(before[0])
    for device, state in zip(cuda, before[1:], strict=True):
        torch.cuda.set_rng_state(state, device)
    raise UnsupportedSystemError(
        f"the weights of this {type(system).__name__} are drawn at random whenever they are "
        "computed, so every step is a different map: remove the random parametrization"
    )


def _random_states(cuda: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]


def _layers(
    system: nn.Module, suffixes: Sequence[str], dtype: torch.dtype
) -> tuple[LayerWeights, ...]:
    hooks = {_hooked_weight(hook): hook for hook in _pre_hooks(system)}
    layers: list[LayerWeights] = []
    for suffix in suffixes:
        weights = [
            _weight(system, name, hooks.get(name))
            for name in (field + suffix for field in LayerWeights._fields)
        ]
        # Not every module has every weight: a cell has no weight_hr, some no biases.
        converted = [None if weight is None else weight.to(dtype) for weight in weights]
        layers.append(LayerWeights(*cast(list[Any], converted)))
    return tuple(layers)


def unknown_pre_hooks(system: nn.Module, suffixes: Sequence[str]) -> list[Any]:
    """Return the forward pre-hooks that may do anything else than recompute a weight."""
    names = {field + suffix for suffix in suffixes for field in LayerWeights._fields}
    # A hook that recomputes what another one starts from, as for pruned `weight_hh_l0_v` of
    # weight_norm, acts a call later or not, depending on their order: not known either.
    own = [hook for hook in _pre_hooks(system) if _hooked_weight(hook) not in names]
    return [*own, *_global_hooks("_global_forward_pre_hooks")]


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks of its own run before or after the module's forward."""
    return bool(_pre_hooks(module) or cast(Any, module)._forward_hooks)


def has_forward_hooks(system: nn.Module) -> bool:
    """Whether a hook may change what the module returns."""
    return bool(cast(Any, system)._forward_hooks or _global_hooks("_global_forward_hooks"))


def _global_hooks(name: str) -> list[Any]:
    return list(vars(torch.nn.modules.module)[name].values())


def _pre_hooks(system: nn.Module) -> list[Any]:
    # There is no public list of them.
    return list(cast(Any, system)._forward_pre_hooks.values())


def _hooked_weight(hook: Any) -> str | None:
    """Return the name of the weight that a hook recomputes, `None` for a hook of unknown effect."""
    known: dict[Any, str] = {
        BasePruningMethod: "_tensor_name",
        WeightNorm: "name",
        SpectralNorm: "name",
    }
    for kind, attribute in known.items():
        # A subclass that overrides the call may do something else.
        if isinstance(hook, kind) and type(hook).__call__ is kind.__call__:
            return getattr(hook, attribute)
    return None


def _weight(system: nn.Module, name: str, hook: WeightHook | None) -> Tensor | None:
    # What a hook computed before the last call is out of date once its parameters have changed.
    if hook is not None:
        with _buffers_kept(system):
            return _computed(hook, system)
    if parametrize.is_parametrized(system, name):
        # Every reading computes the weight again, and with spectral_norm in train mode a better
        # one: it is read once only.
        with _buffers_kept(cast(Any, system.parametrizations)[name]):
            return getattr(system, name)
    # By its attribute, not from the list of parameters: there a parameter of two names is only
    # under the first one, and weights that are buffers are missing.
    return getattr(system, name, None)


def _computed(hook: WeightHook, system: nn.Module) -> Tensor:
    if isinstance(hook, BasePruningMethod):
        return cast(Any, hook).apply_mask(system)
    if isinstance(hook, WeightNorm):
        return hook.compute_weight(system)
    return hook.compute_weight(system, do_power_iteration=system.training)


@contextmanager
def _buffers_kept(module: nn.Module) -> Generator[None]:
    """Let copies of the buffers change inside: measuring leaves the module as it is."""
    # The copies take the buffers' place, instead of the old values being copied back at the end:
    # the backward pass may need the tensors that the weight was computed from, unmodified.
    held: list[dict[str, Tensor | None]] = [cast(Any, part)._buffers for part in module.modules()]
    originals = [dict(buffers) for buffers in held]
    try:
        for buffers in held:
            for name, buffer in buffers.items():
                buffers[name] = None if buffer is None else buffer.clone()
        yield
    finally:
        for buffers, original in zip(held, originals, strict=True):
            buffers.clear()
            buffers.update(original)
