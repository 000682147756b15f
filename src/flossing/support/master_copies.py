"""Float32 copies of parameters in half precision, for the steps of an optimizer.

A step is added to a weight in the weight's own precision. In bfloat16, of 8 significant bits, a
step below 1/512 of the weight is lost, and however many follow it, the weight stays where it is. In
float16, moreover, the 1e-8 that Adam adds to a denominator is zero, and zero over zero is NaN.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from flossing.errors import InvalidOptionError, NonFiniteError

_HALF_PRECISIONS = (torch.float16, torch.bfloat16)

_FLOAT16_SCALE = 2.0**10


class MasterCopies:
    """Parameters, and the tensors on which an optimizer steps in their place.

    Attributes:
        parameters: the parameters.
        stepped: for each its float32 copy, or the parameter itself if it has that precision anyway.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.stepped = [
            each.detach().float().requires_grad_() if each.dtype in _HALF_PRECISIONS else each
            for each in self.parameters
        ]

    def leave_out(self, optimized: Iterable[Tensor]) -> None:
        """Give up the copies of parameters that an optimizer changes by itself."""
        own = {id(each) for each in optimized}
        self.stepped = [
            parameter if id(parameter) in own else copy
            for parameter, copy in zip(self.parameters, self.stepped, strict=True)
        ]

    def copies(self) -> list[Tensor]:
        """Return the copies that there are."""
        return [copy for _, copy in self._pairs()]

    def load(self, copies: Sequence[Tensor]) -> None:
        """Load what `copies` returned.

        Raises:
            InvalidOptionError: they are copies of other parameters.
        """
        own = self.copies()
        if [each.shape for each in copies] != [each.shape for each in own]:
            raise InvalidOptionError(
                f"the state has copies of {len(copies)} parameters in half precision, and their "
                f"shapes are not those of the {len(own)} here: load it with the same parameters"
            )
        with torch.no_grad():
            for copy, loaded in zip(own, copies, strict=True):
                copy.copy_(loaded)

    @contextmanager
    def kept_in_step(self) -> Generator[list[Tensor]]:
        """Let an optimizer step on the tensors yielded, and round the copies to the parameters.

        Raises:
            NonFiniteError: the step made parameters in half precision infinite or NaN; all are left
                as they were before it.
        """
        self._refresh()
        halves = [each for each in self.parameters if each.dtype in _HALF_PRECISIONS]
        before = [each.detach().clone() for each in self.stepped] if halves else []
        yield self.stepped
        with torch.no_grad():
            rounded = [
                each.to(of.dtype) for of, each in zip(self.parameters, self.stepped, strict=True)
            ]
            if halves and not all(bool(each.isfinite().all()) for each in rounded):
                for each, value in zip(self.stepped, before, strict=True):
                    each.copy_(value)
                raise NonFiniteError(
                    f"a step of the optimizer makes parameters in {halves[0].dtype} infinite or "
                    "NaN; they are left as they were before it. If the optimizer was made with "
                    "these parameters (Adam's eps=1e-8 is zero in float16), pass a function "
                    "instead, optimizer=lambda parameters: torch.optim.Adam(parameters), which "
                    "gets float32 copies to step on; else use a smaller step size"
                )
            for parameter, copy in self._pairs():
                parameter.copy_(copy)

    def _refresh(self) -> None:
        """Take over what has been changed in the parameters since the last step."""
        with torch.no_grad():
            for parameter, copy in self._pairs():
                # The module may have been moved to another device.
                copy.data = copy.data.to(parameter.device)
                # Entry by entry: what rounding has left over elsewhere is kept.
                same = copy.to(parameter.dtype) == parameter
                copy.copy_(torch.where(same, copy, parameter.float()))

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        both = zip(self.parameters, self.stepped, strict=True)
        return [(parameter, copy) for parameter, copy in both if copy is not parameter]


def float32_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Return gradients, those of parameters in half precision as float32; `None` where unused."""
    if all(parameter.dtype != torch.float16 for parameter in parameters):
        return _scaled_gradients(loss, parameters, 1.0)
    # Autograd rounds a gradient to float16, where what is below 6e-8 vanishes and what is above
    # 65504 overflows. So it is computed of a multiple of the loss; if that overflows, of a part.
    scaled = _scaled_gradients(loss, parameters, _FLOAT16_SCALE, retain_graph=True)
    if all(gradient is None or bool(gradient.isfinite().all()) for gradient in scaled):
        return scaled
    return _scaled_gradients(loss, parameters, 1 / _FLOAT16_SCALE)


def _scaled_gradients(
    loss: Tensor, parameters: Sequence[Tensor], scale: float, *, retain_graph: bool = False
) -> list[Tensor | None]:
    if not loss.requires_grad:
        return [None] * len(parameters)
    factor = torch.full_like(loss, scale)
    found: list[Tensor | None] = []
    found.extend(
        torch.autograd.grad(
            loss, list(parameters), factor, retain_graph=retain_graph, allow_unused=True
        )
    )
    return [None if each is None else _unscaled(each, scale) for each in found]


def _unscaled(gradient: Tensor, scale: float) -> Tensor:
    if gradient.dtype in _HALF_PRECISIONS:
        gradient = gradient.float()
    return gradient if scale == 1 else gradient / scale
