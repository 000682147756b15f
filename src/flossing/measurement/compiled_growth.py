"""Log growth rates by the compiled scans, the fastest way on a CPU.

As in `flossing.measurement.growth`, the scan runs without a graph, and one autograd function ties
its results to what they depend on. Which function depends on how the tangent map is given:

- gated, J_t = A_t + C_t W: the backward scan accumulates the gradients of W, C and A itself, so no
  product U_t = J_t V_{t-1} is formed twice (docs/mathematics.md, Gradients of gated maps);
- dense, a stack of J_t: ∂L/∂J_t = Ā_t V_{t-1}ᵀ, one batched product after the scan;
- a cell whose Jacobians were built only for the scan: Ā_t is the gradient of U_t, and autograd
  takes it through the cell.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.compiled import scan_interface
from flossing.compiled.scan_interface import CompiledForward, GatedTensors, Kept
from flossing.measurement.gradient_range import gradients_in_range, in_range, products_in_range
from flossing.measurement.growth import Growth, detached, link_to, torch_growth
from flossing.scan.boundaries import Pace
from flossing.support.once import differentiable_once
from flossing.systems.cell_tangent import CellTangent
from flossing.systems.tangent import DenseTangent, GatedTangent, TangentMap

Gradients = TypeVar("Gradients", bound=Sequence[Tensor | None])


def compiled_growth(
    tangent: TangentMap, frame: Float[Tensor, "B n k"], stops: tuple[int, ...], pace: Pace
) -> Growth:
    """Scan in compiled loops where these know the tangent map, else by `torch_growth`.

    They know stock layers on the CPU, and explicit Jacobians: stacks of them, and those of cells
    that are not much larger than the number of exponents. For the arguments see `Backend`.
    """
    tensors = _known(detached(tangent))
    if tensors is None or frame.device.type != "cpu":
        return torch_growth(tangent, frame, stops, pace)
    differentiable = torch.is_grad_enabled()
    # The kernels read memory, not tensors: autograd must see nothing of what they do.
    with torch.no_grad():
        forward = scan_interface.forward(tensors, frame.detach(), stops, pace, keep=differentiable)
    log_growth, last_frame = forward.log_growth, forward.stop_frames[-1]
    if differentiable:
        log_growth, last_frame = _differentiable(tangent, tensors, frame, forward)
    return Growth(log_growth, forward.kept.ends, last_frame, forward.stop_frames, forward.pace)


def _known(tangent: TangentMap) -> GatedTensors | Tensor | None:
    """Return a tangent map as the compiled scans take it; `None` where they do not know it."""
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
    # A cell: its Jacobians are constants, made for the scan. Gradients go through the products,
    # which are computed once more, with a graph and from constant frames.
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
    # Clones, so that no saved tensor is an output, which would hold the node that holds it.
    return forward.log_growth.clone(), forward.stop_frames[-1].clone()


def _saved(ctx: Any) -> tuple[list[Any], Kept]:
    *tangent, rows, triangles, diagonals, currents = ctx.saved_tensors
    return tangent, Kept(ctx.ends, rows, triangles, diagonals, currents)


def _in_range(
    attempt: Callable[[Tensor | None], Gradients],
    are_in_range: Callable[[Gradients], Tensor],
    kept: Kept,
    weights: Tensor,
    cotangent: Tensor,
) -> Callable[[], Gradients]:
    return lambda: gradients_in_range(
        attempt, are_in_range, kept.diagonals.log(), (weights, cotangent)
    )


def _gated_in_range(gradients: tuple[Tensor | None, ...]) -> Tensor:
    weight, coefficients, diagonal, frame = gradients
    assert weight is not None
    assert frame is not None
    good = in_range(frame, 0)
    for each in (coefficients, diagonal):
        if each is not None:
            good = good & in_range(each, 1)
    # The gradient of W is a sum over trajectories, any of which may be too large.
    return good if bool(in_range(weight, 0).all()) or not bool(good.all()) else ~good


class _GatedGrowth(torch.autograd.Function):
    """Map W, C, A of a gated tangent map, and the first frame, to log R_ii and the last frame."""

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

        # Where weights alone require gradients, those of C and A, which are as large as the
        # trajectory, are not formed.
        def attempt(excluded: Tensor | None) -> tuple[Tensor | None, ...]:
            of_tangent, of_frame = scan_interface.backward_gated(
                GatedTensors(*tangent),
                kept if excluded is None else kept.without(excluded),
                weights,
                cotangent,
                of_coefficients=any(ctx.needs_input_grad[1:3]),
            )
            return *of_tangent, of_frame

        gradients = _in_range(attempt, _gated_in_range, kept, weights, cotangent)
        return *differentiable_once(gradients, (*tangent, weights, cotangent)), None


class _DenseGrowth(torch.autograd.Function):
    """Map explicit Jacobians, and the first frame, to log R_ii and the last frame."""

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

        def attempt(excluded: Tensor | None) -> tuple[Tensor, Tensor]:
            scan = kept if excluded is None else kept.without(excluded)
            adjoint, of_frame = scan_interface.backward_dense(jacobians, scan, weights, cotangent)
            batch, size = cotangent.shape[:2]
            # ∂L/∂J_t = Ā_t V_{t-1}ᵀ, all steps in one batched product.
            return adjoint @ scan_interface.frames(kept.rows[:-1], batch, size).mT, of_frame

        gradients = _in_range(attempt, products_in_range, kept, weights, cotangent)
        return *differentiable_once(gradients, (jacobians, weights, cotangent)), None


class _ProductGrowth(torch.autograd.Function):
    """Map U_t = J_t V_{t-1} of every step, and the first frame, to log R_ii and the last frame."""

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

        def attempt(excluded: Tensor | None) -> tuple[Tensor, Tensor]:
            scan = kept if excluded is None else kept.without(excluded)
            return scan_interface.backward_dense(jacobians, scan, weights, cotangent)

        gradients = _in_range(attempt, products_in_range, kept, weights, cotangent)
        adjoint, of_frame = differentiable_once(gradients, (link, weights, cotangent))
        return adjoint, None, of_frame, None, None
