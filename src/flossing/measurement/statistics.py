"""Error bars of time averages of correlated series.

See docs/mathematics.md, Error bars and the stopping rule.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing.support.torch_typed import irfft, rfft

# Lags are summed up to this many autocorrelation times. Where correlations decay like e^(−s/τ_e),
# τ is about 2 τ_e, and what is left out beyond lag 5τ is a share e^(−10) of τ. A wider window would
# only add noise: the variance of the estimate grows with it (Sokal 1997).
_WINDOW = 5.0

# Trajectories and exponents are transformed together, up to this many numbers at a time: 32 MiB in
# float64, and about four times as much for the padded spectrum.
_CHUNK_ELEMENTS = 1 << 22


def standard_error(log_growth: Float[Tensor, "M k"], steps: Int[Tensor, "M"]) -> Float[Tensor, "k"]:
    r"""Return the standard error of Σ log_growth / Σ steps for correlated intervals.

    The residuals e_m = log_growth_m − λ steps_m have mean zero whatever the lengths of the
    intervals; the variance of their sum is M times their long-run variance γ(0) τ. The integrated
    autocorrelation time τ = 1 + 2 Σ_s ρ(s) is summed up to the first lag W ≥ 5 max(τ(W), 1),
    after Sokal, "Monte Carlo Methods in Statistical Mechanics" (1997).

    Args:
        log_growth: log growth of each interval, in nats.
        steps: length of each interval.

    Returns:
        Nats per step; infinite where there are fewer than two intervals or the growth is not
        finite, since then nothing is known of the error.

    >>> noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    >>> error = standard_error(noise, torch.ones(4000, dtype=torch.long))
    >>> bool((error - 4000**-0.5).abs() < 0.1 * 4000**-0.5)
    True
    """
    count, exponents = log_growth.shape
    if count < 2:
        return log_growth.new_full((exponents,), torch.inf)
    # In float64: the residuals are small differences of growth and its mean.
    growth = log_growth.detach().to("cpu", torch.float64)
    duration = steps.to("cpu", torch.float64).unsqueeze(-1)
    # A growth of −inf would make every residual NaN. Masked, then reported as unknown.
    unknown = ~torch.isfinite(growth).all(dim=0)
    growth = growth.masked_fill(unknown, 0.0)
    # With the counted steps T_c = Σ s_m and λ = Σ g_m / T_c:
    #     e_m = g_m − λ s_m,    Var(Σ e_m) = M γ(0) τ,    SE(λ) = √(M γ(0) τ) / T_c
    # To first order λ_true − λ = Σ (g_m − λ_true s_m) / T_c, so no variance of T_c enters.
    residuals = growth - growth.sum(dim=0) / duration.sum() * duration
    covariance = _autocovariance(residuals)
    variance = covariance[0] * _autocorrelation_time(covariance)
    errors = (variance * count).sqrt() / duration.sum()
    return errors.masked_fill(unknown, torch.inf).to(log_growth)


def standard_errors(
    log_growth: Float[Tensor, "M B k"], steps: Int[Tensor, "M B"]
) -> Float[Tensor, "B k"]:
    """Return the `standard_error` of each trajectory, from its own intervals.

    Args:
        log_growth: log growth of each interval, in nats; any value where there is none.
        steps: length of each interval; zero where a trajectory has none.
    """
    first = steps[:, 0]
    # The usual case, equal intervals: one Fourier transform for the columns of all trajectories.
    if bool((steps == first.unsqueeze(-1)).all() & (first > 0).all()):
        columns = log_growth.flatten(1)
        chunks = columns.chunk(columns.numel() // _CHUNK_ELEMENTS + 1, dim=1)
        together = torch.cat([standard_error(chunk, first) for chunk in chunks])
        return together.reshape(log_growth.shape[1:])
    rows = zip(log_growth.unbind(1), steps.unbind(1), strict=True)
    return torch.stack([standard_error(row[own > 0], own[own > 0]) for row, own in rows])


def fluctuation(
    log_growth: Float[Tensor, "M B k"], steps: Int[Tensor, "M B"]
) -> Float[Tensor, "B k"]:
    """Return the range of the partial sums of residuals, over the counted steps.

    What a growth that only goes up and down, as along a limit cycle, may leave at the end of a
    run. Of uncorrelated intervals it is about 1.25 standard errors (Kuiper 1960).

    Args:
        log_growth: log growth of each interval, in nats; any value where there is none.
        steps: length of each interval; zero where a trajectory has none.

    Returns:
        Nats per step; NaN where the growth is not finite.
    """
    duration = steps.to(log_growth.dtype).unsqueeze(-1)
    growth = torch.where(duration > 0, log_growth.detach(), 0.0)
    total = duration.sum(dim=0)
    partial = (growth - growth.sum(dim=0) / total * duration).cumsum(dim=0)
    # The sum before the first interval is zero, as that after the last.
    return (partial.amax(dim=0).clamp(min=0) - partial.amin(dim=0).clamp(max=0)) / total


def _autocovariance(residuals: Float[Tensor, "M k"]) -> Float[Tensor, "M k"]:
    # γ(s) = (1/M) Σ_m e_m e_{m+s} of all lags, as the inverse transform of the power spectrum
    # (Wiener–Khinchin): M log M operations instead of M². Zero padding to twice the length keeps
    # the circular convolution from wrapping around. Dividing by M, not by the M − s terms of a lag,
    # is biased at long lags but of far smaller variance there, and positive definite.
    count = len(residuals)
    spectrum = rfft(residuals, n=2 * count, dim=0)
    return irfft(spectrum.abs().square(), n=2 * count, dim=0)[:count] / count


def _autocorrelation_time(covariance: Float[Tensor, "M k"]) -> Float[Tensor, "k"]:
    count = len(covariance)
    # A constant series has ρ = 0/0: with any finite ρ its variance γ(0) = 0 decides.
    scale = torch.where(covariance[0] > 0, covariance[0], 1.0)
    # τ(W) = 1 + 2 Σ_{s=1}^W ρ(s) for all W at once; the sum that is taken here has ρ(0) = 1 in it.
    running = 2.0 * (covariance / scale).cumsum(dim=0) - 1.0
    lags = torch.arange(count, dtype=running.dtype).unsqueeze(-1)
    # Summed over all lags, τ would be zero: residuals sum to zero, and ρ(s) of long lags is noise.
    # So up to the first W ≥ 5 max(τ(W), 1). The 1 keeps the window open for anticorrelated series,
    # whose τ is below one, so that 5 τ would be no lag at all.
    enough = lags >= _WINDOW * running.clamp(min=1.0)
    enough[-1] = True
    # The first True of each column.
    window = enough.to(torch.int8).argmax(dim=0, keepdim=True)
    # Noise may leave a negative τ, which is no variance. The floor M γ(0) τ ≥ γ(0) is that of a
    # telescoping series e_m = x_m − x_{m−1}, whose sum varies like a single term.
    return running.gather(0, window).squeeze(0).clamp(min=1.0 / count)
