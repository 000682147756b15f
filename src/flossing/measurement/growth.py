"""Log growth rates of a frame carried along a trajectory: the differentiable primitive.

The Jacobians of the trajectory enter through all products U_t = J_t V_{t-1} at once, computed
differentiably with the frames V_{t-1} held constant. One autograd function takes U to log R_ii; its
backward pass is the adjoint scan, whose Ā_t = ∂L/∂U_t it returns as the gradient of U. Autograd
does everything else: ∂L/∂J_t = Ā_t V_{t-1}ᵀ, and through J_t the parameters, inputs and states.
See docs/mathematics.md, The adjoint scan and Gradients of gated maps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import InvalidOptionError
from flossing.measurement.gradient_range import (
    gradients_in_range,
    products_in_range,
    warn_if_not_finite,
)
from flossing.scan.boundaries import Pace
from flossing.scan.pytorch import ForwardScan, scan_backward, scan_forward
from flossing.scan.reference import scan_reference
from flossing.support.once import differentiable_once
from flossing.support.pytree import Rebuild, flatten
from flossing.systems.tangent import DenseTangent, TangentMap


class Growth(NamedTuple):
    """Growth of a frame over one segment of a trajectory.

    Attributes:
        log_growth: log |R_ii| at every boundary, in nats; differentiable.
        ends: `ends[m]` is the number of steps of the segment done at boundary m.
        last_frame: the last frame; differentiable, for a segment that continues from it.
        stop_frames: the frame at every stop, without a graph.
        pace: the pace to continue with.
    """

    log_growth: Float[Tensor, "M B k"]
    ends: list[int]
    last_frame: Float[Tensor, "B n k"]
    stop_frames: list[Tensor]
    pace: Pace


Backend = Callable[[TangentMap, Tensor, tuple[int, ...], Pace], Growth]
"""`backend(tangent, frame, stops, pace)`: the growth of `frame` along `tangent`.

`frame` [B, n, k] is orthonormal; `stops` are increasing steps that must be boundaries, of which the
last one is the number of steps; `pace` is the interval between boundaries.
"""


def torch_growth(
    tangent: TangentMap, frame: Float[Tensor, "B n k"], stops: tuple[int, ...], pace: Pace
) -> Growth:
    """Scan in PyTorch operations, with the adjoint scan as gradient; see `Backend`."""
    constant = detached(tangent)
    differentiable = torch.is_grad_enabled()
    # No graph of the scan: its gradient is the adjoint scan.
    with torch.no_grad():
        forward = scan_forward(
            constant.push, frame.detach(), stops, pace, keep_frames=differentiable
        )
    log_growth, last_frame = forward.log_growth, forward.stop_frames[-1]
    if forward.frames is not None:
        # The products once more, all steps in one batched operation and with a graph. Frames are
        # constants here, since what V_{t-1} contributes to U_t is the scan's own business.
        products = tangent.push_all(forward.frames[:-1])
        log_growth, last_frame = cast(
            tuple[Tensor, Tensor],
            _LogGrowth.apply(products, link_to(products), frame, constant, forward),  # pyright: ignore[reportUnknownMemberType]
        )
    return Growth(log_growth, forward.ends, last_frame, forward.stop_frames, forward.pace)


def reference_growth(
    tangent: TangentMap, frame: Float[Tensor, "B n k"], stops: tuple[int, ...], pace: Pace
) -> Growth:
    """Scan explicit Jacobians by autograd through `torch.linalg.qr`; see `Backend`.

    A fixed interval is halved where it would lose more than half of the digits; an adaptive one is
    a boundary at every step.

    Warns:
        LostGradientWarning: in the backward pass, if the gradient is not finite.
    """
    if not isinstance(tangent, DenseTangent):
        raise InvalidOptionError(
            f"the reference scan needs explicit Jacobians, not a {type(tangent).__name__}; "
            "select it by backend='reference'"
        )
    # A view, for a hook on the Jacobians themselves would stay with the caller's tensor.
    jacobians = tangent.jacobians.view_as(tangent.jacobians)
    log_growth, ends, frames, pace = scan_reference(jacobians, frame, stops, pace)
    if jacobians.requires_grad:
        values = log_growth.detach()

        def check(gradient: Tensor | None) -> None:
            # `None` where a second derivative does not reach the Jacobians.
            if gradient is not None:
                warn_if_not_finite(gradient.detach(), values)

        jacobians.register_hook(check)  # pyright: ignore[reportUnknownMemberType]
    return Growth(log_growth, ends, frames[-1], [f.detach() for f in frames], pace)


class _LogGrowth(torch.autograd.Function):
    """Map U_t = J_t V_{t-1} of every step, and the first frame, to log R_ii and the last frame."""

    @staticmethod
    def forward(
        ctx: Any,
        products: Float[Tensor, "T B n k"],  # noqa: ARG004 - carries the gradient
        link: Float[Tensor, ""],
        frame: Float[Tensor, "B n k"],  # noqa: ARG004 - carries the gradient
        tangent: TangentMap,
        forward: ForwardScan,
    ) -> tuple[Tensor, Tensor]:
        # The scan is done already: forward only ties its results to U and the first frame.
        # Everything large goes through save_for_backward: only that can be recomputed or offloaded.
        leaves, rebuild = flatten((tangent, forward))
        ctx.save_for_backward(link, *leaves)
        ctx.rebuild = rebuild
        # Clones, because outputs get a grad_fn: a saved tensor that is also an output would hold
        # the node that holds it.
        return forward.log_growth.clone(), forward.stop_frames[-1].clone()

    # The backward scan is no graph of differentiable operations: a second derivative would be wrong
    # without a word. `once_differentiable` makes it an error.
    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, weights: Float[Tensor, "M B k"], cotangent: Float[Tensor, "B n k"]
    ) -> tuple[Tensor | None, ...]:
        rebuild: Rebuild = ctx.rebuild
        link, *leaves = ctx.saved_tensors
        tangent, forward = rebuild(leaves)

        def attempt(excluded: Tensor | None) -> tuple[Tensor, Tensor]:
            scan = forward if excluded is None else forward.without(excluded)
            return scan_backward(tangent.pull, scan, weights, cotangent)

        adjoint, first = differentiable_once(
            lambda: gradients_in_range(
                attempt, products_in_range, forward.log_growth, (weights, cotangent)
            ),
            (link, weights, cotangent),
        )
        return adjoint, None, first, None, None


def link_to(tensor: Tensor) -> Float[Tensor, ""]:
    """Return a single number with the graph of a large tensor, which it does not keep alive."""
    return tensor[(0,) * tensor.dim()].clone()


def detached(tangent: TangentMap) -> TangentMap:
    """Return a tangent map without graph."""
    leaves, rebuild = flatten(tangent)
    return rebuild([leaf.detach() for leaf in leaves])
