"""Segments of a graph that are computed again in the backward pass instead of being kept.

`torch.utils.checkpoint` computes a segment again wherever something that autograd saved in it is
asked for. A segment that differentiates inside itself, as for the Jacobians of a callable, asks
while it still runs, and would be repeated for every derivative. Here what is saved stays until the
segment is done.
"""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def recomputed(function: Callable[[], Result], device: torch.device) -> Result:
    """Return a result whose graph is computed again in the backward pass.

    Args:
        function: computes it without autocast, and does the same every time.
        device: where.
    """
    return _Segment(function, device).run()


class _Saved:
    """What autograd saved: the tensor while the segment runs, and once it was computed again."""

    __slots__ = ("__weakref__", "shape", "tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.shape = tensor.shape
        self.keep(tensor)

    def keep(self, tensor: Tensor) -> None:
        # Without its graph, which would hold what holds this object. Memory and version are shared.
        self.tensor: Tensor | None = tensor.detach()
        self.version = tensor._version

    def kept(self) -> Tensor | None:
        if self.tensor is not None and self.tensor._version != self.version:
            raise RuntimeError(
                "a tensor that a derivative needs was changed by an in-place operation: replace "
                "it by one that returns a new tensor"
            )
        return self.tensor


class _Segment(Generic[Result]):
    def __init__(self, function: Callable[[], Result], device: torch.device) -> None:
        self.function = function
        self.device = device
        # In the order in which they were saved. Weak, so that each is gone once it has been used.
        self.saved: list[weakref.ref[_Saved]] = []

    def run(self) -> Result:
        result, self.saved = self._recorded()
        for reference in self.saved:
            saved = reference()
            if saved is not None:
                saved.tensor = None
        return result

    def _recorded(self) -> tuple[Result, list[weakref.ref[_Saved]]]:
        """Return the result and what its graph needs."""
        recorded: list[weakref.ref[_Saved]] = []

        def pack(tensor: Tensor) -> _Saved:
            saved = _Saved(tensor)
            recorded.append(weakref.ref(saved))
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, self._unpack):
            result = self.function()
        # What only derivatives inside the segment needed, or checks that are made once, is gone.
        return result, [reference for reference in recorded if reference() is not None]

    def _unpack(self, saved: _Saved) -> Tensor:
        if saved.tensor is None:
            self._run_again()
        tensor = saved.kept()
        if tensor is None:
            raise RuntimeError(_DIFFERENT)
        return tensor

    def _run_again(self) -> None:
        with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            # The result holds its graph, and that what was saved, until it is taken from there.
            _result, again = self._recorded()
        if len(again) != len(self.saved):
            raise RuntimeError(_DIFFERENT)
        for old, new in zip(self.saved, again, strict=True):
            wanted, found = old(), new()
            if wanted is not None and found is not None:
                tensor = found.kept()
                if tensor is None or tensor.shape != wanted.shape:
                    raise RuntimeError(_DIFFERENT)
                wanted.keep(tensor)


_DIFFERENT = (
    "a step did other operations when it was repeated in the backward pass than in the forward "
    "pass; with checkpoint_interval it must do the same every time"
)
