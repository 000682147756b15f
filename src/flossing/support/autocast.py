"""Computations that autocast leaves alone, forward and backward.

Autocast runs single operations in a lower precision than that of their operands. In exponents these
errors are amplified, and nobody who trains under autocast asks for it.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def without_autocast() -> Generator[None]:
    """Switch autocast off on all devices where it is on."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def backward_without_autocast(result: Tensor) -> None:
    """Make a backward pass that reaches a result run without autocast from there on.

    Also where the backward pass itself is called under autocast. That concerns all nodes that the
    result depends on, those behind the inputs included; there, too, a backward pass repeats the
    casts of its forward pass and needs no others.
    """
    if result.grad_fn is not None:
        # The nodes below, not the result's own: a hook that holds its own node is never freed.
        upstream = _next_nodes(result.grad_fn)
        hook = partial(_switch_off_upstream, upstream, result.device.type)
        cast(Any, result).register_hook(hook)


def _switch_off_upstream(upstream: list[Any], device: str, _: object) -> None:
    if not torch.is_autocast_enabled(device):
        return
    # Under autocast only, so that other backward passes pay nothing. The engine sets its modes anew
    # for every node, so each node has to switch autocast off by itself, for itself.
    seen: set[Any] = set()
    while upstream:
        node = upstream.pop()
        before = _next_nodes(node)
        # Leaves compute nothing, and may outlive the graph, so that hooks would pile up there.
        if before and node not in seen:
            seen.add(node)
            node.register_prehook(partial(_switch_off, device))
            upstream.extend(before)


def _switch_off(device: str, *_: object) -> None:
    torch.set_autocast_enabled(device, False)


def _next_nodes(node: Any) -> list[Any]:
    return [each for each, _ in cast(list[tuple[Any, int]], node.next_functions) if each]
