"""The factorisation at a boundary: V = QR with a positive diagonal, safe where V lost rank."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.scan.boundaries import Precision
from flossing.typed import qr, vector_norm


class Factored(NamedTuple):
    """An orthonormal frame, its triangular factor, the log of the diagonal, and what it cost.

    Where a column is linearly dependent on those before it, `log_growth` is −inf, the column of
    `frame` is an arbitrary orthonormal completion, and the column of `triangular` is that of the
    identity: the factor of the frame with the dependent column replaced by the completion, which
    is what later columns and their gradients depend on.
    """

    frame: Float[Tensor, "B n k"]
    triangular: Float[Tensor, "B k k"]
    log_growth: Float[Tensor, "B k"]
    used: float
    """Share of the tolerated loss of precision: infinite for lost rank, NaN for NaN or infinity."""


def factor(vectors: Float[Tensor, "B n k"]) -> Factored:
    """Factor a batch of frames.

    Rank is lost where a diagonal entry is within rounding of the longest column: the precision
    cannot tell it from zero.
    """
    frame, triangular = _positive_qr(vectors)
    diagonal = triangular.diagonal(dim1=-2, dim2=-1)
    longest = vector_norm(triangular, dim=-2).amax(dim=-1, keepdim=True)
    rounding = 4 * math.sqrt(vectors.shape[-2]) * torch.finfo(vectors.dtype).eps
    dependent = diagonal <= rounding * longest
    log_growth = diagonal.log().masked_fill(dependent, -torch.inf)
    used = _precision_used(log_growth, longest.log())
    if math.isinf(used):
        triangular = _replace_columns(triangular, dependent)
    return Factored(frame, triangular, log_growth, used)


def _positive_qr(
    vectors: Float[Tensor, "B n k"],
) -> tuple[Float[Tensor, "B n k"], Float[Tensor, "B k k"]]:
    frame, triangular = qr(vectors)
    signs = torch.where(triangular.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(vectors.dtype)
    return frame * signs.unsqueeze(-2), triangular * signs.unsqueeze(-1)


def _precision_used(log_growth: Float[Tensor, "B k"], log_longest: Float[Tensor, "B 1"]) -> float:
    limits = Precision.of(log_growth.dtype)
    spread = (log_longest - log_growth) / limits.spread
    magnitude = torch.maximum(log_longest.abs(), log_growth.abs()) / limits.magnitude
    # A frame that vanished altogether has −inf − (−inf) here: lost rank, not a non-finite number.
    spread = torch.where(torch.isneginf(log_growth), torch.inf, spread)
    used = torch.where(log_longest < torch.inf, torch.maximum(spread, magnitude), torch.nan)
    return float(used.amax())


def _replace_columns(
    triangular: Float[Tensor, "B k k"], dependent: Tensor
) -> Float[Tensor, "B k k"]:
    identity = torch.eye(
        triangular.shape[-1], dtype=triangular.dtype, device=triangular.device
    ).expand_as(triangular)
    return torch.where(dependent.unsqueeze(-2), identity, triangular)
