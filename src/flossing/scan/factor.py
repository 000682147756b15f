"""The factorisation at a boundary, V = QR, also of frames that lost rank.

The diagonal of R may have either sign: neither the growth |R_ii| nor the adjoint depends on it, see
docs/mathematics.md, QR and its gauge. Signs are settled only where a frame is handed out
(`with_positive_diagonals`), because every operation here is paid at every boundary.
"""

import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.errors import LostRankWarning
from flossing.scan.boundaries import Limits
from flossing.support.torch_typed import numbers, qr, vector_norm

# Householder QR commits an error of a few eps times the square root of the number of rows it sums
# over, relative to the largest entry of R. A diagonal entry below that is rounding, not growth.
_RANK_TOLERANCE = 4.0

# The adjoint is divided by R_ii. From this multiple of the smallest normal number on, the inverse
# of R_ii is a thousandth of the largest number or less, which leaves room for a gradient.
_GRADIENT_ROOM = 2.0**10


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
    rounding = _RANK_TOLERANCE * math.sqrt(vectors.shape[-2]) * torch.finfo(vectors.dtype).eps
    extremes = zip(numbers(longest), numbers(diagonal.abs().amin(dim=-1)), strict=True)
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


def columns_without_gradient(log_growth: Float[Tensor, "M B k"]) -> Bool[Tensor, "M B k"]:
    """Return where ∂ log R_ii cannot be formed: rank was lost, or R_ii is too close to zero.

    Warns:
        LostRankWarning: some R_ii is not zero, but its inverse times a gradient would overflow.
    """
    dtype = log_growth.dtype
    least = math.log(torch.finfo(dtype).tiny * _GRADIENT_ROOM)
    missing = log_growth < least
    unresolved = missing & log_growth.isfinite()
    if bool(unresolved.any()):
        concerned = unresolved.flatten(0, -2).any(dim=0)
        named = ", ".join(str(index + 1) for index, each in enumerate(concerned) if each)
        least_growth = float(log_growth[unresolved].amin())
        warnings.warn(
            f"the gradient of exponent {named} of {log_growth.shape[-1]} is left out, as if rank "
            f"were lost: its vector shrinks by a factor of e^{least_growth:.0f} between two "
            f"boundaries, whose inverse {dtype} cannot hold. Units are far in saturation: use "
            "smaller inputs or weights, a smaller k"
            + ("" if dtype == torch.float64 else ", or dtype=torch.float64"),
            LostRankWarning,
            stacklevel=2,
        )
    return missing


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
