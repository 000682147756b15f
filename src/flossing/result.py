"""What a measurement returns."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing.errors import NumericalWarning
from flossing.statistics import standard_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LyapunovSpectrum:
    """Lyapunov exponents of B trajectories, with what is needed to judge and to continue them.

    Exponents are in nats per unit time (per step, unless `dt` was given), sorted for each
    trajectory in descending order; `standard_error` and `local` follow the same order.

    Attributes:
        exponents: (B, k), differentiable where gradients were enabled; −inf where the frame lost
            rank.
        local: (M, B, k), growth rate over each interval; NaN past the end of a shorter trajectory.
        interval_steps: (M, B), number of steps of each interval; zero past the end.
        log_growth: (B, k), total log growth in nats of each column of the frame, not sorted: what
            adds up when a run is continued.
        order: (B, k), the column of the frame that each exponent belongs to.
        final_state: the state after the last step, in the system's own convention.
        final_frame: (B, n, k), the orthonormal frame after the last step. For a stack of layers
            its rows are layer after layer, for an LSTM h before c.
        dt: duration of a step in the caller's unit of time.
    """

    exponents: Float[Tensor, "B k"]
    local: Float[Tensor, "M B k"]
    interval_steps: Int[Tensor, "M B"]
    log_growth: Float[Tensor, "B k"]
    order: Int[Tensor, "B k"]
    final_state: Any
    final_frame: Float[Tensor, "B n k"]
    dt: float

    @cached_property
    def standard_error(self) -> Float[Tensor, "B k"]:
        """Standard errors of the exponents, from the autocorrelation of the local rates.

        Infinite where nothing is known of the error: a single interval, or an exponent of −inf.
        Computed when first asked for, since flossing does not ask.
        """
        rows: list[Tensor] = []
        for rates, steps in zip(
            self.local.detach().unbind(1), self.interval_steps.unbind(1), strict=True
        ):
            own = steps > 0
            rows.append(standard_error(rates[own] * steps[own].unsqueeze(-1), steps[own]))
        return torch.stack(rows)

    @property
    def counted_steps(self) -> Int[Tensor, "B"]:
        """Number of steps whose growth was counted, of each trajectory."""
        return self.interval_steps.sum(dim=0)

    @property
    def kaplan_yorke_dimension(self) -> Float[Tensor, "B"]:
        r"""Kaplan–Yorke dimension j + Σ_{i≤j} λ_i / |λ_{j+1}|, of each trajectory.

        j is the largest number of exponents whose sum is not negative (Kaplan & Yorke 1979). It
        is the state size if the sum of all n exponents is not negative, and NaN, with a
        `NumericalWarning`, if too few exponents were computed to tell.
        """
        exponents = self.exponents.detach()
        sums = exponents.cumsum(dim=-1)
        whole = (sums >= 0).to(torch.long).cumprod(dim=-1).sum(dim=-1, keepdim=True)
        count = exponents.shape[-1]
        inside = whole.clamp(max=count - 1)
        last_sum = torch.where(whole > 0, sums.gather(-1, (whole - 1).clamp(min=0)), 0.0)
        fraction = last_sum / exponents.gather(-1, inside).abs()
        size = self.final_frame.shape[-2]
        beyond = float(size) if count == size else torch.nan
        dimension = torch.where(whole < count, whole + fraction, beyond).squeeze(-1)
        if bool(dimension.isnan().any()):
            warnings.warn(
                f"the first {count} of {size} exponents sum to more than zero, so the Kaplan–Yorke "
                "dimension is larger than can be told: compute more exponents (larger k)",
                NumericalWarning,
                stacklevel=2,
            )
        return dimension

    @property
    def entropy_rate(self) -> Float[Tensor, "B"]:
        """Sum of the positive exponents, of each trajectory, in nats per unit time.

        By Pesin's formula the Kolmogorov–Sinai entropy rate of a system with a smooth invariant
        measure, and an upper bound otherwise (Ruelle's inequality). A `NumericalWarning` says if
        the last exponent computed is still positive, so that the sum is incomplete.
        """
        exponents = self.exponents.detach()
        count, size = exponents.shape[-1], self.final_frame.shape[-2]
        if count < size and bool((exponents[:, -1] > 0).any()):
            warnings.warn(
                f"all of the first {count} of {size} exponents are positive in some trajectory, so "
                "the entropy rate is a lower bound: compute more exponents (larger k)",
                NumericalWarning,
                stacklevel=2,
            )
        return exponents.clamp(min=0).sum(dim=-1)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the exponents against their index, with error bars; see `plot_spectrum`."""
        from flossing.plots import plot_spectrum

        return plot_spectrum(self, ax=ax)
