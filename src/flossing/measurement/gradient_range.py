"""Gradients that exceed the range of the precision: noticed, left out, and said.

An exponent's derivative is a multiple of 1/R_ii, and over several steps a product of such numbers.
Where a direction shrinks to the end of the range of exponents, that overflows, and what is infinite
in one column is NaN in all others soon. The derivative with respect to the Jacobians then has no
number in this precision. That of the directions before it has: log R_ii depends on the first i
vectors of the frame only.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.errors import LostGradientWarning

Gradients = TypeVar("Gradients", bound=Sequence[Tensor | None])

# What is left of the range for the products that autograd makes of the gradients.
_RESERVE = 2.0**-10


def gradients_in_range(
    attempt: Callable[[Bool[Tensor, "B k"] | None], Gradients],
    are_in_range: Callable[[Gradients], Bool[Tensor, "B"]],
    log_growth: Float[Tensor, "M B k"],
    given: tuple[Float[Tensor, "M B k"], Float[Tensor, "B n k"]],
) -> Gradients:
    """Return gradients, without those of exponents that exceed the range.

    Args:
        attempt: computes the gradients, without those of some exponents.
        are_in_range: whether those of each trajectory are.
        log_growth: log R_ii at every boundary.
        given: the gradients that arrive, of log R_ii and of the last frame.
    """
    gradients = attempt(None)
    good = are_in_range(gradients)
    if bool(good.all()):
        return gradients
    lost = torch.isneginf(log_growth)
    weights, cotangent = given
    if not bool((weights.isfinite() | lost).all() & cotangent.isfinite().all()):
        # What arrived is not finite: no exponent of ours is to blame.
        return gradients
    least = log_growth.masked_fill(lost, torch.inf).amin(dim=0)
    excluded = torch.zeros_like(least, dtype=torch.bool)
    tolerance = 1.0
    while not bool(good.all()):
        # The direction that shrinks most, those that shrink about as much, and all after them,
        # whose growth depends on its direction.
        smallest = least.masked_fill(excluded, torch.inf).amin(dim=-1, keepdim=True)
        chosen = (least <= smallest + tolerance) & ~good.unsqueeze(-1)
        excluded |= chosen.cumsum(dim=-1) > 0
        gradients = attempt(excluded)
        good = are_in_range(gradients) | excluded.all(dim=-1)
        tolerance *= 4
    _warn(excluded, least)
    return gradients


def products_in_range(gradients: tuple[Tensor, Tensor]) -> Bool[Tensor, "B"]:
    """Whether gradients of every step [T, B, …] and of a first frame [B, n, k] are in range."""
    of_steps, first = gradients
    return in_range(of_steps, 1) & in_range(first, 0)


def in_range(gradient: Float[Tensor, "..."], dimension: int) -> Bool[Tensor, "B"]:
    """Whether no entry is NaN, infinite, or too large for autograd to go on with.

    Args:
        gradient: any gradient.
        dimension: that of the trajectories.
    """
    limit = torch.finfo(gradient.dtype).max * _RESERVE
    low, high = gradient.aminmax() if gradient.numel() else (gradient.sum(), gradient.sum())
    # So written that NaN fails.
    if bool((low >= -limit) & (high <= limit)):
        return torch.ones(gradient.shape[dimension], dtype=torch.bool, device=gradient.device)
    return (gradient.abs() <= limit).movedim(dimension, 0).flatten(1).all(dim=1)


def _warn(excluded: Bool[Tensor, "B k"], least: Float[Tensor, "B k"]) -> None:
    count = excluded.shape[1]
    columns = excluded.any(dim=0)
    numbers = ", ".join(str(column + 1) for column in range(count) if bool(columns[column]))
    shrunk = float(least[excluded].amin())
    warnings.warn(
        f"the gradient of exponents number {numbers} of {count} exceeds the range of {least.dtype} "
        f"and was left out: between two factorisations their directions shrink by as much as "
        f"e^{shrunk:.0f}. The gradients of the others are right; choose a smaller k, or compute "
        "with dtype=torch.float64",
        LostGradientWarning,
        stacklevel=2,
    )
