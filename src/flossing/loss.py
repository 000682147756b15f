"""The flossing loss: the squared deviation of Lyapunov exponents from a target."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidOptionError
from flossing.measurement.result import LyapunovSpectrum
from flossing.spectrum import lyapunov_spectrum
from flossing.support.checks import require_positive
from flossing.systems.recurrence import System
from flossing.systems.wrapped import unwrapped

Reduction = str | Callable[[Tensor], Tensor]

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda deviations: deviations,
}


def flossing_loss(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    k: int | None,
    target: float | Sequence[float] | Tensor = 0.0,
    horizon: float | None = None,
    reduction: Reduction = "mean",
    **spectrum_options: Any,
) -> Tensor:
    r"""Compute the squared deviation of the first k Lyapunov exponents from a target.

    .. math:: L = \frac{1}{k} \sum_{i=1}^{k} (\lambda_i - \text{target}_i)^2,

    averaged over trajectories and, in a stack of stock layers, over the layers, of which each has
    its own exponents (Engelken, "Gradient flossing", NeurIPS 2023).

    With a horizon T the exponents have a dead band around the target:

    .. math:: L = \frac{1}{k} \sum_{i=1}^{k}
              \max\left(|\lambda_i - \text{target}_i| - \frac{1}{T}, 0\right)^2.

    Over T steps a gradient along the i-th direction changes by :math:`e^{\lambda_i T}`. With a
    target of zero, nothing is asked of directions along which it changes by at most a factor e:
    there it neither vanishes nor explodes within the horizon, and a memory whose time constant
    :math:`-1 / \lambda_i` is at least the horizon is left as it is. The loss and its gradient are
    continuous, and zero within the band.

    Args:
        system: see `lyapunov_spectrum`.
        inputs: see `lyapunov_spectrum`.
        state: see `lyapunov_spectrum`.
        k: number of exponents, from the largest; `None` for all.
        target: target of the exponents, in nats per unit time: a number, one number for each of
            the k exponents from the largest on, or (B, k).
        horizon: the time T over which gradients have to last, in units of the exponents' time
            (steps, or those of `dt`); `None` for no dead band. Half of it makes the band twice as
            wide.
        reduction: "mean", "sum", "none" for the squared deviations (B, k), beyond the dead band if
            there is one, or (L, B, k) for a stack of L layers, or a function of these.
        **spectrum_options: further options of `lyapunov_spectrum`.

    Returns:
        The loss, differentiable. An exponent of −inf makes it infinite, but contributes nothing
        to the gradient.

    Raises:
        InvalidOptionError: the target is not finite or has the wrong shape, the horizon is not
            positive, or the reduction is unknown; also whatever `lyapunov_spectrum` raises.

    Example:
        >>> import torch, flossing
        >>> gru = torch.nn.GRU(2, 16)
        >>> loss = flossing.flossing_loss(gru, torch.randn(50, 3, 2), k=8)
        >>> loss.backward()
        >>> gru.weight_hh_l0.grad.abs().sum() > 0
        tensor(True)
    """
    reduce, band = reduction_named(reduction), dead_band(horizon)
    spectra = layer_spectra(system, inputs, state, k=k, **spectrum_options)
    return reduce(squared_deviations(spectra, target, band))


def layer_spectra(
    system: System,
    inputs: Tensor | PackedSequence | None,
    state: Any,
    *,
    layer: int | None = None,
    on_divergence: str = "raise",
    **spectrum_options: Any,
) -> list[LyapunovSpectrum]:
    """Return the spectrum of each layer of a stack of stock layers, or of the whole system."""
    system = unwrapped(system)
    if on_divergence != "raise":
        raise InvalidOptionError(
            f"on_divergence={on_divergence!r} is for lyapunov_spectrum: a loss with the exponents "
            "of trajectories that diverged would be NaN; leave it out, and catch NonFiniteError, "
            "whose `diverged` names the rows to leave out"
        )
    layers: Sequence[int | None] = [layer]
    if layer is None and isinstance(system, nn.RNNBase) and system.num_layers > 1:
        layers = range(system.num_layers)
    return [
        lyapunov_spectrum(system, inputs, state, layer=each, **spectrum_options) for each in layers
    ]


def squared_deviations(
    spectra: list[LyapunovSpectrum], target: float | Sequence[float] | Tensor, band: float
) -> Tensor:
    """Return max(|λ − target| − band, 0)², (B, k), or (L, B, k) for several layers."""
    exponents = torch.stack([spectrum.exponents for spectrum in spectra])
    deviations = exponents - _checked_target(target, exponents)
    squares = (deviations - deviations.clamp(-band, band)).square()
    return squares.squeeze(0) if len(spectra) == 1 else squares


def dead_band(horizon: float | None) -> float:
    """Return the half-width of the dead band of a horizon; zero without one.

    Raises:
        InvalidOptionError: the horizon is not a positive number.
    """
    return 0.0 if horizon is None else 1 / require_positive("horizon", horizon)


def reduction_named(reduction: Reduction) -> Callable[[Tensor], Tensor]:
    """Return a reduction by name, or the callable itself.

    Raises:
        InvalidOptionError: no reduction has that name; the message lists the names.
    """
    if callable(reduction):
        return reduction
    if reduction not in REDUCTIONS:
        raise InvalidOptionError(
            f"reduction must be one of {', '.join(map(repr, REDUCTIONS))} or a function of a "
            f"tensor, not {reduction!r}"
        )
    return REDUCTIONS[reduction]


def _checked_target(target: float | Sequence[float] | Tensor, exponents: Tensor) -> Tensor:
    try:
        tensor = torch.as_tensor(target, dtype=exponents.dtype, device=exponents.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidOptionError(
            f"target must be a number, a list of numbers or a tensor, not {target!r}: {error}"
        ) from error
    shapes = ((), exponents.shape[-1:], exponents.shape[-2:])
    if tensor.shape not in shapes:
        raise InvalidOptionError(
            f"target must be a number, or have the shape (k,) = {tuple(shapes[1])} or (B, k) = "
            f"{tuple(shapes[2])}, not {tuple(tensor.shape)}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidOptionError("target must be finite: an exponent cannot be pushed to infinity")
    return tensor
