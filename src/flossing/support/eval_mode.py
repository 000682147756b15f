"""Modules without dropout and statistics of a batch for a while."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm  # pyright: ignore[reportPrivateUsage]

# In train mode their weights are those that a call in train mode computes. cuDNN, moreover,
# differentiates its recurrent layers in train mode only.
_KEPT_IN_TRAIN_MODE = (nn.RNNBase, nn.RNNCellBase, _SpectralNorm)


@contextmanager
def in_eval_mode(system: object) -> Generator[None]:
    """Let a module compute as in eval mode, and put every submodule back as it was afterwards.

    A driven map is deterministic and treats its trajectories one by one: no dropout, and no
    statistics of a batch. Of a bound method or a `functools.partial`, its module; of any other
    callable object, the modules that are its attributes.
    """
    owner = getattr(system, "__self__", getattr(system, "func", system))
    held = [owner] if isinstance(owner, nn.Module) else getattr(owner, "__dict__", {}).values()
    changed: list[tuple[nn.Module, str, Any]] = []
    try:
        for root in held:
            for module in root.modules() if isinstance(root, nn.Module) else ():
                # Flag by flag, not by train(): submodules that were in eval mode must stay there.
                if isinstance(module, nn.RNNBase):
                    changed.append((module, "dropout", module.dropout))
                    module.dropout = 0.0
                elif not isinstance(module, _KEPT_IN_TRAIN_MODE):
                    changed.append((module, "training", module.training))
                    module.training = False
        yield
    finally:
        for module, name, value in reversed(changed):
            setattr(module, name, value)
