"""The slow, obvious reference: explicit Jacobians, and autograd through `torch.linalg.qr`.

The fast scans are compared with it, in tests and benchmarks. Frames that lose rank give gradients
that are not finite. See docs/mathematics.md, QR and its gauge.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import NonFiniteError
from flossing.scan.boundaries import Pace
from flossing.scan.factor import factor
from flossing.scan.pytorch import NOT_FINITE
from flossing.support.torch_typed import qr


def explicit_jacobians(
    step: Callable[[Tensor | None, Tensor], Tensor],
    inputs: Float[Tensor, "T B *features"] | None,
    states: Float[Tensor, "T B S"],
    part: slice,
) -> Float[Tensor, "T B n n"]:
    """Differentiate one output of one step at a time, keeping the graph if gradients are enabled.

    Args:
        step: one step of the whole state, inputs [B, ...] and states [B, S] to states [B, S].
        inputs: inputs of every step.
        states: states before every step.
        part: the part of the state whose Jacobian is computed, of length n.
    """
    return torch.stack(
        [
            _explicit_jacobian(step, None if inputs is None else inputs[t], states[t], part)
            for t in range(len(states))
        ]
    )


def _explicit_jacobian(
    step: Callable[[Tensor | None, Tensor], Tensor],
    inputs: Tensor | None,
    state: Float[Tensor, "B S"],
    part: slice,
) -> Float[Tensor, "B n n"]:
    keep_graph = torch.is_grad_enabled()
    # A Jacobian takes autograd even where nobody wants gradients of the exponents.
    with torch.enable_grad():
        if not state.requires_grad:
            state = state.detach().requires_grad_()
        image = step(inputs, state)[:, part]
        if not image.requires_grad:
            return image.new_zeros(*image.shape, image.shape[1])
        rows: list[Tensor] = []
        for output in image.unbind(1):
            # Rows of the batch are independent, so the gradient of a sum over the batch is the
            # gradient of each: row i of J for all trajectories at once.
            (row,) = torch.autograd.grad(
                output.sum(), state, create_graph=True, materialize_grads=True
            )
            rows.append(row[:, part])
        jacobian = torch.stack(rows, dim=1)
    return jacobian if keep_graph else jacobian.detach()


def identity_after(
    jacobians: Float[Tensor, "T B n n"], lengths: tuple[int, ...], start: int
) -> Float[Tensor, "T B n n"]:
    """Replace the Jacobians after the end of a trajectory by the identity.

    Its padding is not counted, but a frame that loses rank there would make the gradients NaN.

    Args:
        jacobians: J_t of every step.
        lengths: number of steps of each trajectory.
        start: the step of the first Jacobian.
    """
    steps = torch.arange(start, start + len(jacobians), device=jacobians.device)
    running = steps.unsqueeze(-1) < torch.tensor(lengths, device=jacobians.device)
    identity = torch.eye(jacobians.shape[-1]).to(jacobians)
    return torch.where(running[..., None, None], jacobians, identity)


def scan_reference(
    jacobians: Float[Tensor, "T B n n"],
    frame: Float[Tensor, "B n k"],
    stops: tuple[int, ...],
    pace: Pace,
) -> tuple[Float[Tensor, "M B k"], list[int], list[Tensor], Pace]:
    """Return log R_ii at every boundary, the boundaries, the frames at the stops, and the pace.

    Args:
        jacobians: J_t of every step; gradients flow to them.
        frame: orthonormal frame to start from.
        stops: increasing steps that must be boundaries; the last one is the number of steps.
        pace: the interval between boundaries; an adaptive one is a boundary at every step.

    Raises:
        NonFiniteError: a tangent vector is infinite or NaN.
    """
    log_growth: list[Tensor] = []
    ends: list[int] = []
    stop_frames: list[Tensor] = []
    start = 0
    # V_t = J_t V_{t-1}; at a boundary V_t = Q R, and Q goes on. All of it in the graph.
    for stop in stops:
        while start < stop:
            planned = 1 if pace.adaptive else min(pace.interval, stop - start)
            trail = [frame]
            for jacobian in jacobians[start : start + planned]:
                trail.append(jacobian @ trail[-1])
            taken = planned
            used = factor(trail[taken].detach(), pace.limits).used
            # Here too an interval is halved where it would lose more than half of the digits.
            while taken > 1 and not used <= 1.0:
                taken //= 2
                used = factor(trail[taken].detach(), pace.limits).used
            if math.isnan(used):
                raise NonFiniteError(NOT_FINITE)
            if not pace.adaptive:
                pace = pace.after(planned, taken, used)
            frame, triangular = qr(trail[taken])
            diagonal = triangular.diagonal(dim1=-2, dim2=-1)
            # QR = (QD)(DR) with D = diag(sign R_ii): LAPACK leaves signs open, the frames handed
            # out are those of a positive diagonal.
            frame = frame * torch.where(diagonal < 0, -1.0, 1.0).to(frame).unsqueeze(-2)
            log_growth.append(diagonal.abs().log())
            start += taken
            ends.append(start)
        stop_frames.append(frame)
    return torch.stack(log_growth), ends, stop_frames, pace
