"""How far back a gradient reaches: what a curve of its norm against the lag says."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class GradientReach:
    """The norm of one kind of covector, carried back along B trajectories, by lag.

    Attributes:
        log_norm: (S, B), natural log of its norm at each lag relative to that at lag 0; −inf where
            it is exactly zero.
        vanishing_lag: (B,), the first of the lags from which on the norm stays below the threshold;
            inf if it does not by the last lag, so that the true one is larger than that.
        exploding_lag: (B,), the first of the lags at which the norm exceeds 1/threshold; inf if
            none does.
        slope: (B,), nats per step: the line fitted by least squares to the later half of the lags.
            −inf where a norm there is zero.
    """

    log_norm: Float[Tensor, "S B"]
    vanishing_lag: Float[Tensor, "B"]
    exploding_lag: Float[Tensor, "B"]
    slope: Float[Tensor, "B"]


@dataclass(frozen=True)
class GradientHorizon:
    """How large gradients of the last state are with respect to earlier ones, by lag.

    Logs are natural ones and in double precision, so that a norm of e^-2000 is a number like any
    other.

    Attributes:
        lags: (S,), steps back from the last state, ascending.
        error: ‖∂h_T/∂h_{T−s}ᵀ g‖ / ‖g‖ in the direction of the error, g = ∂L/∂h_T; `None` without a
            loss.
        random: the same in random directions, the geometric mean over them; `None` for none.
        random_quartiles: (2, S, B), lower and upper quartile of the log norms over the random
            directions; `None` for none.
        worst: the largest singular value of ∂h_T/∂h_{T−s}; `None` if it was not asked for.
        log_total_gradient: (T+1, B), log ‖dL/dh_t‖ for t = 0 … T, through all later states; `None`
            without a loss.
        exponent: (B,), the largest Lyapunov exponent of the same steps, in nats per step: what the
            slopes tend to.
        threshold: below it, relative to lag 0, a norm counts as vanished, and above its inverse as
            exploded.
    """

    lags: Int[Tensor, "S"]
    error: GradientReach | None
    random: GradientReach | None
    random_quartiles: Float[Tensor, "2 S B"] | None
    worst: GradientReach | None
    log_total_gradient: Float[Tensor, "T_plus_1 B"] | None
    exponent: Float[Tensor, "B"]
    threshold: float


def gradient_reach(
    lags: Int[Tensor, "S"], log_norm: Float[Tensor, "S B"], threshold: float
) -> GradientReach:
    """Return what the log norms at ascending lags say.

    >>> lags = torch.arange(5)
    >>> reach = gradient_reach(lags, -2.0 * lags.unsqueeze(1), threshold=0.01)
    >>> reach.vanishing_lag.item(), reach.exploding_lag.item(), round(reach.slope.item(), 6)
    (3.0, inf, -2.0)
    """
    bound = math.log(threshold)
    stays_below = (log_norm < bound).flip(0).to(torch.int8).cumprod(dim=0).flip(0).bool()
    return GradientReach(
        log_norm=log_norm,
        vanishing_lag=_first(lags, stays_below),
        exploding_lag=_first(lags, log_norm > -bound),
        slope=_tail_slope(lags, log_norm),
    )


def _first(lags: Int[Tensor, "S"], reached: Bool[Tensor, "S B"]) -> Float[Tensor, "B"]:
    first = lags[reached.to(torch.int8).argmax(dim=0)].double()
    return torch.where(reached.any(dim=0), first, torch.inf)


def _tail_slope(lags: Int[Tensor, "S"], log_norm: Float[Tensor, "S B"]) -> Float[Tensor, "B"]:
    tail = lags >= lags[-1] / 2
    x, y = lags[tail].double(), log_norm[tail]
    if len(x) == 1:
        # At lag 0 the log norm is 0.
        x, y = torch.cat([torch.zeros_like(x), x]), torch.cat([torch.zeros_like(y), y])
    vanished = y.isneginf().any(dim=0)
    x = (x - x.mean()).unsqueeze(-1)
    slope = (x * y.masked_fill(vanished, 0.0)).sum(dim=0) / x.square().sum()
    return slope.masked_fill(vanished, -torch.inf)
