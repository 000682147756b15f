"""The forward and the backward scan in PyTorch operations: any device, any tangent map.

The compiled scans of `flossing.compiled` do the same for the tangent maps they know. For the
recursions and why they are stable, see docs/mathematics.md, The adjoint scan.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.errors import NonFiniteError
from flossing.scan.boundaries import Limits, Pace
from flossing.scan.factor import Factored, factor, with_positive_diagonals
from flossing.support.torch_typed import solve_triangular

NOT_FINITE = (
    "the tangent vectors became infinite or NaN: a Jacobian is not finite, or its entries are too "
    "large for the precision; check the weights and inputs, or compute with dtype=torch.float64"
)

Product = Callable[[int, Tensor], Tensor]
"""`product(t, vectors)`: the Jacobian of step t, or its transpose, times `vectors` [B n k]."""


class ForwardScan(NamedTuple):
    """The result of the forward scan, with what the backward scan needs where that was requested.

    Attributes:
        log_growth: log |R_ii| at every boundary, in nats; −inf where rank was lost.
        ends: `ends[m]` is the number of steps done at boundary m.
        stop_frames: Q at every stop.
        pace: the pace to continue with.
        frames: `frames[t]` is the frame before step t and `frames[T]` the last one: Q at
            boundaries, and V = J_t V_{t-1} between them.
        triangular: R at every boundary.
    """

    log_growth: Float[Tensor, "M B k"]
    ends: list[int]
    stop_frames: list[Tensor]
    pace: Pace
    frames: Float[Tensor, "T_plus_1 B n k"] | None
    triangular: Float[Tensor, "M B k k"] | None

    def without(self, excluded: Bool[Tensor, "B k"]) -> "ForwardScan":
        """Return the scan with some exponents as constants, as where rank was lost.

        Args:
            excluded: the exponents.
        """
        triangular = self.triangular
        if triangular is not None:
            identity = torch.eye(triangular.shape[-1]).to(triangular)
            triangular = torch.where(excluded.unsqueeze(-2), identity, triangular)
        log_growth = self.log_growth.masked_fill(excluded, -torch.inf)
        return self._replace(log_growth=log_growth, triangular=triangular)


def scan_forward(
    push: Product,
    frame: Float[Tensor, "B n k"],
    stops: tuple[int, ...],
    pace: Pace,
    *,
    keep_frames: bool,
) -> ForwardScan:
    """Carry a frame along the trajectory: V_t = J_t V_{t-1}, factored at the boundaries.

    Args:
        push: `push(t, V)` is J_t V.
        frame: orthonormal frame to start from.
        stops: increasing steps that must be boundaries; the last one is the number of steps.
        pace: the interval between boundaries.
        keep_frames: keep what the backward scan needs, O(steps) memory.

    Raises:
        NonFiniteError: a tangent vector is infinite or NaN.
    """
    diagonals: list[Tensor] = []
    triangular: list[Tensor] = []
    ends: list[int] = []
    stop_frames: list[Tensor] = []
    frames = _frame_buffer(stops[-1], frame) if keep_frames else None
    # At every boundary, with `start` steps done:
    #     V_start = Q R,    log_growth = log |R_ii|,    and Q goes on.
    # Every stop is a boundary, so that its frame is orthonormal and its growth complete.
    start = 0
    for stop in stops:
        # Signs are right up to here: what is to be corrected at this stop are those that follow.
        settled = len(diagonals)
        while start < stop:
            planned = min(pace.interval, stop - start)
            trail, factored = next_boundary(push, frame, start, planned, pace.limits)
            taken = len(trail)
            pace = pace.after(planned, taken, factored.used)
            frame, upper = factored.frame, factored.triangular
            diagonals.append(factored.diagonal)
            if start + taken == stop:
                frame, upper = with_positive_diagonals(frame, upper, diagonals[settled:])
            if frames is not None:
                triangular.append(upper)
                # The last vectors of the trail are QR: the next step starts from Q instead.
                for offset, vectors in enumerate(trail[:-1], start=start + 1):
                    frames[offset] = vectors
                frames[start + taken] = frame
            start += taken
            ends.append(start)
        stop_frames.append(frame)
    return ForwardScan(
        # log 0 = −inf is the growth of a direction that lost rank.
        log_growth=torch.stack(diagonals).abs().log(),
        ends=ends,
        stop_frames=stop_frames,
        pace=pace,
        frames=frames,
        triangular=torch.stack(triangular) if keep_frames else None,
    )


def next_boundary(
    push: Product, vectors: Float[Tensor, "B n k"], start: int, length: int, limits: Limits
) -> tuple[list[Tensor], Factored]:
    """Take some steps, or half as many until the limits hold, and factor the last frame.

    Args:
        push: `push(t, V)` is J_t V.
        vectors: the frame before step `start`.
        start: the first step.
        length: the largest number of steps.
        limits: the largest stretch of the frame.

    Returns:
        The frames after every step, the last one not factored, and its factors.

    Raises:
        NonFiniteError: a tangent vector is infinite or NaN.
    """
    trail: list[Tensor] = []
    for step in range(start, start + length):
        vectors = push(step, vectors)
        trail.append(vectors)
    factored = factor(trail[-1], limits)
    # The frames on the way are there already, so a shorter interval costs a factorisation and no
    # step. Negated because `used` may be NaN: an overflow may be over in a shorter interval. A
    # single step is accepted whatever it uses, for there is nothing shorter.
    while not factored.used <= 1.0 and length > 1:
        length //= 2
        factored = factor(trail[length - 1], limits)
    if math.isnan(factored.used):
        raise NonFiniteError(NOT_FINITE)
    return trail[:length], factored


def scan_backward(
    pull: Product,
    forward: ForwardScan,
    weights: Float[Tensor, "M B k"],
    cotangent: Float[Tensor, "B n k"],
) -> tuple[Float[Tensor, "T B n k"], Float[Tensor, "B n k"]]:
    """Compute the adjoint of the forward scan, without a graph through any factorisation.

    Args:
        pull: `pull(t, G)` is J_tᵀ G.
        forward: the forward scan, with its frames kept.
        weights: w = ∂L/∂ log R_ii at every boundary.
        cotangent: G = ∂L/∂Q of the last frame, from a scan that goes on from it.

    Returns:
        Ā_t, the gradients of the products J_t V_{t-1}, and the gradient of the first frame.
    """
    frames, triangular = forward.frames, forward.triangular
    if frames is None or triangular is None:
        raise ValueError("the backward scan needs a forward scan with keep_frames=True")
    adjoint = torch.empty_like(frames[:-1])
    dependent = torch.isneginf(forward.log_growth)
    lost_rank = bool(dependent.any())
    upper = torch.ones_like(triangular[0, 0]).triu()
    # An exponent of −inf is a constant: whatever weight the loss gives it, be it infinite or NaN,
    # must not enter a sum.
    weights = torch.where(dependent, 0.0, weights)
    # Backward in time, with G = `cotangent`, Q = `frame`, w = `weights`, Ā = `adjoint`:
    #     at a boundary:    C = Qᵀ G;    G ← (G − Q (triu(C) − diag(w))) R^{-T}
    #     at every step:    Ā_t = G;     G ← J_tᵀ G
    for boundary in reversed(range(len(forward.ends))):
        frame = frames[forward.ends[boundary]]
        # triu(C) is diag(w) of the boundary that follows in exact arithmetic, and is replaced by
        # the weights of this one. Above the diagonal it is zero, but for rounding errors, which the
        # recursion multiplies by R_ii / R_jj, so by e^((λ_i − λ_j) t). Subtracting all of triu(C),
        # not its diagonal alone, removes them before they grow.
        correction = (frame.mT @ cotangent).mul_(upper)
        correction.diagonal(dim1=-2, dim2=-1).sub_(weights[boundary])
        # X R^{-T}, a solve from the right with the lower triangle Rᵀ.
        cotangent = solve_triangular(
            triangular[boundary].mT,
            torch.baddbmm(cotangent, frame, correction, alpha=-1),
            upper=False,
            left=False,
        )
        # A dependent column was replaced by a completion, which does not depend on V. (R has the
        # column of the identity there, so the solve was safe.)
        if lost_rank:
            cotangent = cotangent.masked_fill(dependent[boundary].unsqueeze(-2), 0.0)
        start = forward.ends[boundary - 1] if boundary else 0
        for step in reversed(range(start, forward.ends[boundary])):
            adjoint[step] = cotangent
            cotangent = pull(step, cotangent)
    return adjoint, cotangent


def _frame_buffer(steps: int, frame: Float[Tensor, "B n k"]) -> Float[Tensor, "T_plus_1 B n k"]:
    # Columns contiguous in memory: LAPACK's own order, and one matrix product for all columns.
    buffer = frame.new_empty(steps + 1, *frame.mT.shape).mT
    buffer[0] = frame
    return buffer
