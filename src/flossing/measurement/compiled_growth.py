"""Log growth rates by the compiled scans, where they apply: the fast way on a CPU."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.compiled import scan_interface
from flossing.compiled.scan_interface import CompiledForward, GatedTensors, Kept
from flossing.measurement.growth import Growth, detached, link_to, torch_growth
from flossing.scan.boundaries import Pace
from flossing.support.once import differentiable_once
from flossing.systems.cell_tangent import CellTangent
from flossing.systems.tangent import DenseTangent, GatedTangent, TangentMap


def compiled_growth(
    tangent: TangentMap, frame: Float[Tensor, "B n k"], stops: tuple[int, ...], pace: Pace
) -> Growth:
    """Scan in compiled loops on the CPU; whatever these do not know, in PyTorch operations.

    They know stock layers, and explicit Jacobians: stacks of them, and those of cells that are
    not much larger than the number of exponents.

    Args:
        tangent: the tangent map of every step.
        frame: orthonormal frame to start from.
        stops: increasing steps that must be boundaries; the last one is the number of steps.
        pace: the interval between boundaries.
    """
    tensors = _known(detached(tangent))
    if tensors is None or frame.device.type != "cpu":
        return torch_growth(tangent, frame, stops, pace)
    differentiable = torch.is_grad_enabled()
    with torch.no_grad():
        forward = scan_interface.forward(tensors, frame.detach(), stops, pace, keep=differentiable)
    log_growth, last_frame = forward.log_growth, forward.stop_frames[-1]
    if differentiable:
        log_growth, last_frame = _differentiable(tangent, tensors, frame, forward)
    return Growth(log_growth, forward.kept.ends, last_frame, forward.stop_frames, forward.pace)


def _known(tangent: TangentMap) -> GatedTensors | Tensor | None:
    if isinstance(tangent, GatedTangent):
        gates = tangent.recurrent
        return GatedTensors(gates.weight, gates.coefficients, tangent.diagonal)
    if isinstance(tangent, DenseTangent | CellTangent):
        return tangent.jacobians
    return None


def _differentiable(
    tangent: TangentMap, tensors: GatedTensors | Tensor, frame: Tensor, forward: CompiledForward
) -> tuple[Tensor, Tensor]:
    if isinstance(tangent, GatedTangent):
        gates = tangent.recurrent
        parts = (gates.weight, gates.coefficients, tangent.diagonal)
        return _apply(_GatedGrowth, *parts, frame, forward)
    if isinstance(tangent, DenseTangent):
        return _apply(_DenseGrowth, tangent.jacobians, frame, forward)
    batch, size, _ = frame.shape
    products = tangent.push_all(scan_interface.frames(forward.kept.rows[:-1], batch, size))
    return _apply(_ProductGrowth, products, link_to(products), frame, tensors, forward)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> tuple[Tensor, Tensor]:
    return cast(Any, function).apply(*arguments)


def _save(ctx: Any, forward: CompiledForward, *tangent: Tensor | None) -> tuple[Tensor, Tensor]:
    # Everything large goes through save_for_backward: only that can be recomputed or offloaded.
    ends, *tensors = forward.kept
    ctx.ends = ends
    ctx.save_for_backward(*tangent, *tensors)
    return forward.log_growth.clone(), forward.stop_frames[-1].clone()


def _saved(ctx: Any) -> tuple[list[Any], Kept]:
    *tangent, rows, triangles, diagonals, currents = ctx.saved_tensors
    return tangent, Kept(ctx.ends, rows, triangles, diagonals, currents)


class _GatedGrowth(torch.autograd.Function):
    """The parts of a gated tangent map, and the first frame, to log R_ii and the last frame."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Float[Tensor, "mN N"],
        coefficients: Float[Tensor, "T B s m N"],
        diagonal: Float[Tensor, "T B s s N"] | None,
        frame: Float[Tensor, "B n k"],  # noqa: ARG004 - carries the gradient
        forward: CompiledForward,
    ) -> tuple[Tensor, Tensor]:
        return _save(ctx, forward, weight, coefficients, diagonal)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, weights: Float[Tensor, "M B k"], cotangent: Float[Tensor, "B n k"]
    ) -> tuple[Tensor | None, ...]:
        tangent, kept = _saved(ctx)

        def gradients() -> tuple[Tensor | None, ...]:
            of_tangent, of_frame = scan_interface.backward_gated(
                GatedTensors(*tangent),
                kept,
                weights,
                cotangent,
                of_coefficients=any(ctx.needs_input_grad[1:3]),
            )
            return *of_tangent, of_frame

        return *differentiable_once(gradients, (*tangent, weights, cotangent)), None


class _DenseGrowth(torch.autograd.Function):
    """Explicit Jacobians, and the first frame, to log R_ii and the last frame."""

    @staticmethod
    def forward(
        ctx: Any,
        jacobians: Float[Tensor, "T B n n"],
        frame: Float[Tensor, "B n k"],  # noqa: ARG004 - carries the gradient
        forward: CompiledForward,
    ) -> tuple[Tensor, Tensor]:
        return _save(ctx, forward, jacobians)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, weights: Float[Tensor, "M B k"], cotangent: Float[Tensor, "B n k"]
    ) -> tuple[Tensor | None, ...]:
        (jacobians,), kept = _saved(ctx)

        def gradients() -> tuple[Tensor, Tensor]:
            adjoint, of_frame = scan_interface.backward_dense(jacobians, kept, weights, cotangent)
            batch, size = cotangent.shape[:2]
            return adjoint @ scan_interface.frames(kept.rows[:-1], batch, size).mT, of_frame

        return *differentiable_once(gradients, (jacobians, weights, cotangent)), None


class _ProductGrowth(torch.autograd.Function):
    """U_t = J_t V_{t-1} of every step, and the first frame, to log R_ii and the last frame."""

    @staticmethod
    def forward(
        ctx: Any,
        products: Float[Tensor, "T B n k"],  # noqa: ARG004 - carries the gradient
        link: Float[Tensor, ""],
        frame: Float[Tensor, "B n k"],  # noqa: ARG004 - carries the gradient
        jacobians: Float[Tensor, "T B n n"],
        forward: CompiledForward,
    ) -> tuple[Tensor, Tensor]:
        return _save(ctx, forward, link, jacobians)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, weights: Float[Tensor, "M B k"], cotangent: Float[Tensor, "B n k"]
    ) -> tuple[Tensor | None, ...]:
        (link, jacobians), kept = _saved(ctx)
        adjoint, of_frame = differentiable_once(
            lambda: scan_interface.backward_dense(jacobians, kept, weights, cotangent),
            (link, weights, cotangent),
        )
        return adjoint, None, of_frame, None, None
