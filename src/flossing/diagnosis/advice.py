"""The rule by which flossing is recommended.

Over H steps a gradient along direction i changes by a factor of about exp(λ_i H). The direction
carries gradients if this factor is less than a thousand, in growth or in decay.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.measurement.result import LyapunovSpectrum
from flossing.support.checks import require_integer

CARRYING_FACTOR = 1000.0
"""Gradients that change by this factor or more over the horizon have vanished or exploded."""

GATED_SHARE = 4
"""Of a gated network at most one in so many directions is flossed: see docs/guide.md."""

Verdict: TypeAlias = Literal["explodes", "vanishes", "carries some", "carries enough"]

VERDICTS: tuple[Verdict, ...] = ("explodes", "vanishes", "carries some", "carries enough")
"""In descending order of the need for flossing."""


@dataclass(frozen=True)
class DirectionCounts:
    """Number of directions along which gradients explode, are carried, or vanish over a horizon.

    Attributes:
        horizon: H, in steps.
        bound: ln(1000)/H, in nats per step.
        explode: Directions with λ ≥ bound.
        carry: Directions with |λ| < bound.
        vanish: Directions with −∞ < λ ≤ −bound.
        lost: Directions with λ = −∞.
        uncertain: Directions with |λ| within two standard errors of the bound, whatever class
            they are counted in; infinite standard errors count.
    """

    horizon: int
    bound: float
    explode: int
    carry: int
    vanish: int
    lost: int
    uncertain: int


@dataclass(frozen=True)
class Advice:
    """Recommendation for one layer.

    Attributes:
        verdict: "explodes" if gradients explode along any direction; otherwise "vanishes" if no
            direction carries them, "carries enough" if at least k do, and "carries some" if fewer
            do.
        k: Number of exponents to floss, at least 1.
        flossable: Number of directions that flossing can act on, at least 1.
        resolvable: Number of exponents that the precision can resolve.
        carry: Number of directions that carry gradients over the horizon.
    """

    verdict: Verdict
    k: int
    flossable: int
    resolvable: int
    carry: int


def average(spectrum: LyapunovSpectrum) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
    """Return the exponents averaged over trajectories, and their standard errors, in float64.

    Trajectories are treated as independent.

    Example:
        >>> import flossing
        >>> jacobians = torch.diag(torch.tensor([0.5, 2.0])).repeat(60, 3, 1, 1)
        >>> exponents, _ = average(flossing.log_growth_rates(jacobians, frame_transient=30))
        >>> [round(float(exponent), 3) for exponent in exponents]
        [0.693, -0.693]
    """
    exponents = spectrum.exponents.detach().double().cpu()
    errors = spectrum.standard_error.double().cpu()
    return exponents.mean(dim=0), errors.square().sum(dim=0).sqrt() / len(errors)


def count_directions(
    exponents: Float[Tensor, "k"], errors: Float[Tensor, "k"], horizon: int
) -> DirectionCounts:
    """Classify directions by what happens to gradients along them over the horizon.

    Args:
        exponents: In nats per step.
        errors: Their standard errors, in nats per step.
        horizon: H, in steps.

    Raises:
        InvalidOptionError: `horizon` is not an `int` of at least 1.

    Example:
        >>> exponents = torch.tensor([0.01, -0.02, -0.5, float("-inf")])
        >>> counts = count_directions(exponents, torch.full((4,), 1e-3), horizon=100)
        >>> counts.explode, counts.carry, counts.vanish, counts.lost
        (0, 2, 1, 1)
    """
    require_integer("horizon", horizon, at_least=1)
    bound = math.log(CARRYING_FACTOR) / horizon
    lost = exponents.isneginf()
    near = (exponents.abs() - bound).abs() < 2 * errors
    return DirectionCounts(
        horizon=horizon,
        bound=bound,
        explode=int((exponents >= bound).sum()),
        carry=int((exponents.abs() < bound).sum()),
        vanish=int(((exponents <= -bound) & ~lost).sum()),
        lost=int(lost.sum()),
        uncertain=int((near & ~lost).sum()),
    )


def advise(
    exponents: Float[Tensor, "k"],
    counts: DirectionCounts,
    *,
    dtype: torch.dtype,
    memory: int,
    gated: bool,
) -> Advice:
    """Recommend whether to floss, and how many exponents.

    k is the number of resolvable exponents, limited to the number of directions that can hold
    memory, and for gated networks to a quarter of that number. An exponent is resolvable if it is
    finite and λ_1 − λ_i < ½ ln(1/ε), where ε is the machine epsilon: beyond that, even an
    orthonormalisation at every step leaves less than half of the digits for the gradient. The
    published setting, k = 75 for a vanilla network of 80 units, is of the same kind.

    Args:
        exponents: In nats per step, in descending order.
        counts: Of the same exponents.
        dtype: Precision in which the network will be flossed.
        memory: Number of directions that can hold memory: the cells of an LSTM, since the other
            half of its state is a function of them; the state size of other networks.
        gated: Whether it is an LSTM or a GRU.

    Example:
        >>> exponents = torch.tensor([-0.5, -1.0, -12.0])
        >>> counts = count_directions(exponents, torch.zeros(3), horizon=100)
        >>> advise(exponents, counts, dtype=torch.float32, memory=3, gated=False)
        Advice(verdict='vanishes', k=2, flossable=2, resolvable=2, carry=0)
    """
    close = exponents[0] - exponents < resolvable_gap(dtype)
    resolvable = int((exponents.isfinite() & close).sum())
    flossable = max(1, min(resolvable, memory))
    k = max(1, min(resolvable, memory // GATED_SHARE)) if gated else flossable
    if counts.explode:
        verdict: Verdict = "explodes"
    elif not counts.carry:
        verdict = "vanishes"
    else:
        verdict = "carries enough" if counts.carry >= k else "carries some"
    return Advice(verdict, k, flossable, resolvable, counts.carry)


def resolvable_gap(dtype: torch.dtype) -> float:
    """Return the gap in nats per step at which a single step loses half of the digits."""
    return -math.log(torch.finfo(dtype).eps) / 2
