"""The factorisation at a boundary: V = QR, safe where V lost rank.

The diagonal of R may have either sign: neither the growth |R_ii| nor the adjoint depends on it.
Every operation here is paid at every boundary, so signs are settled only where a frame is handed
out (`with_positive_diagonals`).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.scan.boundaries import Limits
from flossing.support.torch_typed import numbers, qr, vector_norm


class Factored(NamedTuple):
    """An orthonormal frame, its triangular factor, the diagonal of that, and what it cost.

    Where a column is linearly dependent on those before it, `diagonal` is zero, the column of
    `frame` is an arbitrary orthonormal completion, and the column of `triangular` is that of the
    identity: the factor of the frame with the dependent column replaced by the completion, which
    is what later columns and their gradients depend on.
    """

    frame: Float[Tensor, "B n k"]
    triangular: Float[Tensor, "B k k"]
    diagonal: Float[Tensor, "B k"]
    used: float
    """Share of the tolerated loss of precision: infinite for lost rank, NaN for NaN or infinity."""


def factor(vectors: Float[Tensor, "B n k"], limits: Limits) -> Factored:
    """Factor a batch of frames.

    Rank is lost where a diagonal entry is within rounding of the largest entry of R: the
    precision cannot tell it from zero.

    Args:
        vectors: the frame.
        limits: what counts as using all of the tolerated loss of precision.
    """
    frame, triangular = qr(vectors)
    diagonal = triangular.diagonal(dim1=-2, dim2=-1)
    longest = vector_norm(triangular, torch.inf, dim=(-2, -1))
    rounding = 4 * math.sqrt(vectors.shape[-2]) * torch.finfo(vectors.dtype).eps
    extremes = zip(numbers(longest), numbers(diagonal.abs().amin(dim=-1)), strict=True)
    shares = [_precision_used(*each, rounding, limits) for each in extremes]
    used = math.nan if any(map(math.isnan, shares)) else max(shares)
    if not math.isinf(used):
        return Factored(frame, triangular, diagonal, used)
    dependent = diagonal.abs() <= rounding * longest.unsqueeze(-1)
    return Factored(
        frame, _replace_columns(triangular, dependent), diagonal.masked_fill(dependent, 0.0), used
    )


def with_positive_diagonals(
    frame: Float[Tensor, "B n k"],
    triangular: Float[Tensor, "B k k"],
    diagonals: list[Tensor],
) -> tuple[Float[Tensor, "B n k"], Float[Tensor, "B k k"]]:
    """Return the last of several factors as if every diagonal had been made positive.

    Args:
        frame: the last orthonormal frame.
        triangular: the last triangular factor.
        diagonals: diagonals [B k] of all the factors.
    """
    negative = torch.stack(diagonals).lt(0).sum(dim=0).remainder(2).bool()
    signs = torch.where(negative, -1.0, 1.0).to(frame.dtype)
    return frame * signs.unsqueeze(-2), triangular * signs.unsqueeze(-1)


def _precision_used(longest: float, shortest: float, rounding: float, limits: Limits) -> float:
    if not math.isfinite(longest) or math.isnan(shortest):
        return math.nan
    if shortest <= rounding * longest:
        return math.inf
    high, low = math.log(longest), math.log(shortest)
    return max(
        (high - low) / limits.spread, abs(high) / limits.magnitude, abs(low) / limits.magnitude
    )


def _replace_columns(
    triangular: Float[Tensor, "B k k"], dependent: Bool[Tensor, "B k"]
) -> Float[Tensor, "B k k"]:
    identity = torch.eye(
        triangular.shape[-1], dtype=triangular.dtype, device=triangular.device
    ).expand_as(triangular)
    return torch.where(dependent.unsqueeze(-2), identity, triangular)
