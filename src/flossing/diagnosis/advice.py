"""What a spectrum says about gradients over a horizon, and whether to floss: a rule, spelled out.

A component of the gradient along direction i changes over H steps by the factor e^{λ_i H}.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.measurement.result import LyapunovSpectrum
from flossing.support.checks import require_integer

Verdict: TypeAlias = Literal["explodes", "vanishes", "carries some", "carries all"]

VERDICTS: tuple[Verdict, ...] = ("explodes", "vanishes", "carries some", "carries all")
"""From the one that needs flossing most."""

CARRYING_FACTOR = 1000.0
"""A direction carries gradients over the horizon if they change by a smaller factor than this."""


@dataclass(frozen=True)
class Fates:
    """What becomes of the gradient along each of k directions over a horizon.

    Attributes:
        horizon: H, in steps.
        bound: ln(1000)/H, in nats per step: directions with |λ| below it carry.
        explode: How many directions have λ ≥ bound.
        carry: How many have |λ| < bound.
        vanish: How many have −∞ < λ ≤ −bound.
        lost: How many have λ = −∞.
        uncertain: How many have a |λ| within two standard errors of the bound, so that they could
            belong to another row; infinite standard errors count.
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
    """Whether to floss, and how many exponents.

    Attributes:
        verdict: "explodes" if some direction does; else "vanishes" if none carries, "carries all"
            if at least k do, "carries some" otherwise.
        k: How many exponents to push to zero, at least 1.
        resolvable: How many exponents are finite and less than half of the digits below the
            largest, in one step.
        carry: How many directions carry gradients over the horizon as they are.
    """

    verdict: Verdict
    k: int
    resolvable: int
    carry: int


def average(spectrum: LyapunovSpectrum) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
    """Return the exponents averaged over trajectories, and their standard errors, in float64.

    Args:
        spectrum: Of B trajectories, taken as independent.

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


def fates(exponents: Float[Tensor, "k"], errors: Float[Tensor, "k"], horizon: int) -> Fates:
    """Sort directions by what becomes of the gradient along them.

    Args:
        exponents: In nats per step.
        errors: Their standard errors.
        horizon: H, in steps, at least 1.

    Raises:
        InvalidOptionError: `horizon` is not an `int` of at least 1.

    Example:
        >>> exponents = torch.tensor([0.01, -0.02, -0.5, float("-inf")])
        >>> sorted_out = fates(exponents, torch.full((4,), 1e-3), horizon=100)
        >>> sorted_out.explode, sorted_out.carry, sorted_out.vanish, sorted_out.lost
        (0, 2, 1, 1)
    """
    require_integer("horizon", horizon, at_least=1)
    bound = math.log(CARRYING_FACTOR) / horizon
    lost = exponents.isneginf()
    near = (exponents.abs() - bound).abs() < 2 * errors
    return Fates(
        horizon=horizon,
        bound=bound,
        explode=_count(exponents >= bound),
        carry=_count(exponents.abs() < bound),
        vanish=_count((exponents <= -bound) & ~lost),
        lost=_count(lost),
        uncertain=_count(near & ~lost),
    )


def advise(
    exponents: Float[Tensor, "k"], sorted_out: Fates, *, dtype: torch.dtype, memory: int
) -> Advice:
    """Tell whether to floss, and how many exponents.

    k is the number of resolvable exponents, but no more than there are memory units. An exponent
    is resolvable if it is finite and λ_1 − λ_i < ½ ln(1/ε), ε the rounding unit: further down, a
    factorisation at every single step leaves less than half of the digits to compute a gradient
    with. The published setting, k = 75 for a vanilla network of 80 units, follows the same thought.

    Args:
        exponents: In nats per step, in descending order.
        sorted_out: What `fates` says of them.
        dtype: Precision in which the network will be flossed.
        memory: How many directions can hold memory: the cells of an LSTM, whose other half of the
            state is a function of them; the state size of other networks.

    Example:
        >>> exponents = torch.tensor([-0.5, -1.0, -12.0])
        >>> sorted_out = fates(exponents, torch.zeros(3), horizon=100)
        >>> advise(exponents, sorted_out, dtype=torch.float32, memory=3)
        Advice(verdict='vanishes', k=2, resolvable=2, carry=0)
    """
    gap = -math.log(torch.finfo(dtype).eps) / 2
    resolvable = _count(exponents.isfinite() & (exponents[0] - exponents < gap))
    k = max(1, min(resolvable, memory))
    if sorted_out.explode:
        verdict: Verdict = "explodes"
    elif not sorted_out.carry:
        verdict = "vanishes"
    else:
        verdict = "carries all" if sorted_out.carry >= k else "carries some"
    return Advice(verdict, k, resolvable, sorted_out.carry)


def _count(chosen: Tensor) -> int:
    return int(chosen.sum())
