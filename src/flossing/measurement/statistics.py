"""Error bars of time averages of correlated series."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing.support.torch_typed import irfft, rfft

_WINDOW = 5.0
_PIECE_ELEMENTS = 1 << 22


def standard_error(log_growth: Float[Tensor, "M k"], steps: Int[Tensor, "M"]) -> Float[Tensor, "k"]:
    r"""Standard error of Σ log_growth / Σ steps, with the autocorrelation accounted for.

    The residuals e_m = log_growth_m − λ steps_m have mean zero whatever the lengths of the
    intervals; the variance of their sum is M times their long-run variance γ(0) τ. The integrated
    autocorrelation time τ = 1 + 2 Σ_s ρ(s) is summed up to the first lag W ≥ 5 max(τ(W), 1),
    after Sokal, "Monte Carlo Methods in Statistical Mechanics" (1997); the 1 keeps the window
    open for anticorrelated series, whose τ is small.

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
    growth = log_growth.detach().to("cpu", torch.float64)
    duration = steps.to("cpu", torch.float64).unsqueeze(-1)
    unknown = ~torch.isfinite(growth).all(dim=0)
    growth = growth.masked_fill(unknown, 0.0)
    residuals = growth - growth.sum(dim=0) / duration.sum() * duration
    covariance = _autocovariance(residuals)
    variance = covariance[0] * _autocorrelation_time(covariance)
    errors = (variance * count).sqrt() / duration.sum()
    return errors.masked_fill(unknown, torch.inf).to(log_growth)


def standard_errors(
    log_growth: Float[Tensor, "M B k"], steps: Int[Tensor, "M B"]
) -> Float[Tensor, "B k"]:
    """Standard errors as of `standard_error` for each trajectory, from the intervals it has.

    Args:
        log_growth: log growth of each interval, in nats; any value where there is none.
        steps: length of each interval; zero where a trajectory has none.
    """
    first = steps[:, 0]
    if bool((steps == first.unsqueeze(-1)).all() & (first > 0).all()):
        columns = log_growth.flatten(1)
        pieces = columns.chunk(columns.numel() // _PIECE_ELEMENTS + 1, dim=1)
        together = torch.cat([standard_error(piece, first) for piece in pieces])
        return together.reshape(log_growth.shape[1:])
    rows = zip(log_growth.unbind(1), steps.unbind(1), strict=True)
    return torch.stack([standard_error(row[own > 0], own[own > 0]) for row, own in rows])


def _autocovariance(residuals: Float[Tensor, "M k"]) -> Float[Tensor, "M k"]:
    count = len(residuals)
    # Zero padding to twice the length keeps the Fourier product from wrapping around.
    spectrum = rfft(residuals, n=2 * count, dim=0)
    return irfft(spectrum.abs().square(), n=2 * count, dim=0)[:count] / count


def _autocorrelation_time(covariance: Float[Tensor, "M k"]) -> Float[Tensor, "k"]:
    count = len(covariance)
    # A constant series has no correlation to speak of: its variance of zero decides.
    scale = torch.where(covariance[0] > 0, covariance[0], 1.0)
    running = 2.0 * (covariance / scale).cumsum(dim=0) - 1.0
    lags = torch.arange(count, dtype=running.dtype).unsqueeze(-1)
    enough = lags >= _WINDOW * running.clamp(min=1.0)
    enough[-1] = True
    window = enough.to(torch.int8).argmax(dim=0, keepdim=True)
    return running.gather(0, window).squeeze(0).clamp(min=1.0 / count)
