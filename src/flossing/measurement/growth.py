"""Log growth rates of a frame carried along a trajectory: the differentiable primitive.

The trajectory's Jacobians enter through all products U_t = J_t V_{t-1} at once, computed
differentiably with the frames held constant. One autograd function takes U to log R_ii; its
backward pass is the adjoint scan, which returns the gradient of U. Autograd does everything else.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import InvalidOptionError
from flossing.scan.boundaries import Pace
from flossing.scan.pytorch import ForwardScan, scan_backward, scan_forward
from flossing.scan.reference import scan_reference
from flossing.support.once import differentiable_once
from flossing.support.pytree import Rebuild, flatten
from flossing.systems.tangent import DenseTangent, TangentMap


class Growth(NamedTuple):
    """Growth of a frame over one stretch of a trajectory.

    `ends[m]` is the step at which boundary m lies. `last_frame` carries gradients to whatever
    goes on from it; `stop_frames` (one for every stop) do not. `pace` is the one to go on with.
    """

    log_growth: Float[Tensor, "M B k"]
    ends: list[int]
    last_frame: Float[Tensor, "B n k"]
    stop_frames: list[Tensor]
    pace: Pace


Backend = Callable[[TangentMap, Tensor, tuple[int, ...], Pace], Growth]
"""`backend(tangent, frame, stops, pace)`: the growth of `frame` along `tangent`."""


def torch_growth(
    tangent: TangentMap, frame: Float[Tensor, "B n k"], stops: tuple[int, ...], pace: Pace
) -> Growth:
    """Scan in PyTorch operations, with the adjoint scan as gradient.

    Args:
        tangent: the tangent map of every step.
        frame: orthonormal frame to start from.
        stops: increasing steps that must be boundaries; the last one is the number of steps.
        pace: the interval between boundaries.
    """
    constant = detached(tangent)
    differentiable = torch.is_grad_enabled()
    with torch.no_grad():
        forward = scan_forward(
            constant.push, frame.detach(), stops, pace, keep_frames=differentiable
        )
    log_growth, last_frame = forward.log_growth, forward.stop_frames[-1]
    if forward.frames is not None:
        products = tangent.push_all(forward.frames[:-1])
        log_growth, last_frame = cast(
            tuple[Tensor, Tensor],
            _LogGrowth.apply(products, link_to(products), frame, constant, forward),  # pyright: ignore[reportUnknownMemberType]
        )
    return Growth(log_growth, forward.ends, last_frame, forward.stop_frames, forward.pace)


def reference_growth(
    tangent: TangentMap, frame: Float[Tensor, "B n k"], stops: tuple[int, ...], pace: Pace
) -> Growth:
    """Scan explicit Jacobians by autograd through `torch.linalg.qr`.

    The interval is kept where it is fixed; an adaptive one is a boundary at every step.
    """
    if not isinstance(tangent, DenseTangent):
        raise InvalidOptionError(
            f"the reference scan needs explicit Jacobians, not a {type(tangent).__name__}; "
            "select it by backend='reference'"
        )
    steps = 1 if pace.adaptive else pace.interval
    log_growth, ends, frames = scan_reference(tangent.jacobians, frame, stops, steps)
    return Growth(log_growth, ends, frames[-1], [f.detach() for f in frames], pace)


class _LogGrowth(torch.autograd.Function):
    """U_t = J_t V_{t-1} of every step, and the first frame, to log R_ii and the last frame."""

    @staticmethod
    def forward(
        ctx: Any,
        products: Float[Tensor, "T B n k"],  # noqa: ARG004 - carries the gradient
        link: Float[Tensor, ""],
        frame: Float[Tensor, "B n k"],  # noqa: ARG004 - carries the gradient
        tangent: TangentMap,
        forward: ForwardScan,
    ) -> tuple[Tensor, Tensor]:
        # Everything large goes through save_for_backward: only that can be recomputed or offloaded.
        leaves, rebuild = flatten((tangent, forward))
        ctx.save_for_backward(link, *leaves)
        ctx.rebuild = rebuild
        return forward.log_growth.clone(), forward.stop_frames[-1].clone()

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, weights: Float[Tensor, "M B k"], cotangent: Float[Tensor, "B n k"]
    ) -> tuple[Tensor | None, ...]:
        rebuild: Rebuild = ctx.rebuild
        link, *leaves = ctx.saved_tensors
        tangent, forward = rebuild(leaves)
        adjoint, first = differentiable_once(
            lambda: scan_backward(tangent.pull, forward, weights, cotangent),
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
