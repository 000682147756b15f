"""The factorisation at a boundary, V = QR, also of frames that lost rank.

The diagonal of R may have either sign: neither the growth |R_ii| nor the adjoint depends on it, see
docs/mathematics.md, QR and its gauge. Signs are settled only where a frame is handed out
(`with_positive_diagonals`), because every operation here is paid at every boundary.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.scan.boundaries import Limits
from flossing.support.torch_typed import numbers, qr, vector_norm

# Householder QR commits an error of a few eps times the square root of the number of rows it sums
# over, relative to the largest entry of R. A diagonal entry below that is rounding, not growth.
_RANK_TOLERANCE = 4.0


class Factored(NamedTuple):
    """An orthonormal frame, its triangular factor, and the share of the limits that it used.

    Where a column of V depends linearly on those before it, `diagonal` is zero, the column of
    `frame` is an arbitrary orthonormal completion, and the column of `triangular` is that of the
    identity. These are the factors of V with the dependent column replaced by the completion: R
    stays invertible, and later columns, their growth and their gradients stay what they are.

    Attributes:
        frame: Q, orthonormal.
        triangular: R, upper triangular.
        diagonal: R_ii, zero where rank was lost.
        used: stretch as a share of the limits: more than 1 where they are exceeded, infinite where
            rank was lost, NaN where V is not finite.
    """

    frame: Float[Tensor, "B n k"]
    triangular: Float[Tensor, "B k k"]
    diagonal: Float[Tensor, "B k"]
    used: float


def factor(vectors: Float[Tensor, "B n k"], limits: Limits) -> Factored:
    """Factor a batch of frames, V = QR.

    Args:
        vectors: V.
        limits: the largest stretch between two boundaries.
    """
    frame, triangular = qr(vectors)
    diagonal = triangular.diagonal(dim1=-2, dim2=-1)
    # max |R_ij| and min |R_ii|. As max |R_ij| ≤ ‖R‖ and 1 / min |R_ii| ≤ ‖R⁻¹‖, their ratio is a
    # lower bound of the condition number of V, and for most frames close to it.
    longest = vector_norm(triangular, torch.inf, dim=(-2, -1))
    lengths = numbers(longest)
    precision = torch.finfo(vectors.dtype)
    rounding = _RANK_TOLERANCE * math.sqrt(vectors.shape[-2]) * precision.eps
    # Subnormal numbers have few digits, and a rounding of them may be none at all.
    if any(0 < length * rounding < precision.tiny for length in lengths):
        return _factor_scaled(vectors, longest, limits)
    extremes = zip(lengths, numbers(diagonal.abs().amin(dim=-1)), strict=True)
    shares = [_used(*each, rounding, limits) for each in extremes]
    # All trajectories share their boundaries, so the worst decides; max() would lose a NaN.
    used = math.nan if any(map(math.isnan, shares)) else max(shares)
    if not math.isinf(used):
        return Factored(frame, triangular, diagonal, used)
    dependent = diagonal.abs() <= rounding * longest.unsqueeze(-1)
    identity = torch.eye(triangular.shape[-1], dtype=vectors.dtype, device=vectors.device)
    return Factored(
        frame,
        torch.where(dependent.unsqueeze(-2), identity, triangular),
        diagonal.masked_fill(dependent, 0.0),
        used,
    )


def _factor_scaled(
    vectors: Float[Tensor, "B n k"], longest: Float[Tensor, "B"], limits: Limits
) -> Factored:
    """Factor frames of which some are tiny, these multiplied by a number on the way."""
    # Any subnormal number becomes a normal one, as do roundings of it, and none overflows.
    tiny = torch.finfo(vectors.dtype).tiny
    boost = 2.0 ** round(-0.8 * math.log2(tiny))
    factors = torch.ones_like(longest).masked_fill(longest * tiny**0.2 < tiny, boost)
    scaled = factor(vectors * factors[:, None, None], limits)
    diagonal = scaled.diagonal / factors.unsqueeze(-1)
    # What vanishes only now is lost, too.
    lost = (diagonal == 0).unsqueeze(-2)
    identity = torch.eye(diagonal.shape[-1], dtype=vectors.dtype, device=vectors.device)
    triangular = torch.where(lost, identity, scaled.triangular / factors[:, None, None])
    if math.isnan(scaled.used):
        return scaled
    if bool(lost.any()):
        return Factored(scaled.frame, triangular, diagonal, math.inf)
    magnitude = float(diagonal.abs().log().abs().amax()) / limits.magnitude
    return Factored(scaled.frame, triangular, diagonal, max(scaled.used, magnitude))


def with_positive_diagonals(
    frame: Float[Tensor, "B n k"],
    triangular: Float[Tensor, "B k k"],
    diagonals: list[Tensor],
) -> tuple[Float[Tensor, "B n k"], Float[Tensor, "B k k"]]:
    """Return the last of several factors as if all their diagonals had been made positive.

    Args:
        frame: the last orthonormal frame.
        triangular: the last triangular factor.
        diagonals: diagonals [B k] of all the factors.
    """
    # With D = diag(±1), QR = (QD)(DR). A sign that was not settled at one boundary is carried to
    # the next, so the product of all signs of a column is the one that is missing in the end.
    negative = torch.stack(diagonals).lt(0).sum(dim=0).remainder(2).bool()
    signs = torch.where(negative, -1.0, 1.0).to(frame.dtype)
    return frame * signs.unsqueeze(-2), triangular * signs.unsqueeze(-1)


def _used(longest: float, shortest: float, rounding: float, limits: Limits) -> float:
    if not math.isfinite(longest) or math.isnan(shortest):
        return math.nan
    # Includes a frame that vanished: 0 ≤ 0.
    if shortest <= rounding * longest:
        return math.inf
    high, low = math.log(longest), math.log(shortest)
    return max((high - low) / limits.spread, max(abs(high), abs(low)) / limits.magnitude)
