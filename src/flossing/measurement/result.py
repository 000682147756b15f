"""The result of a measurement."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing.errors import InvalidInputError, NumericalWarning
from flossing.measurement.statistics import standard_errors
from flossing.support.pytree import flatten, same_structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LyapunovSpectrum:
    """Lyapunov exponents of B trajectories, their error bars, and the ends of the run.

    Exponents are in nats per unit time (per step, unless `dt` was given), sorted for each
    trajectory in descending order; `standard_error` and `local` follow the same order.

    Attributes:
        exponents: (B, k), differentiable where gradients were enabled; −inf where the frame lost
            rank.
        local: (M, B, k), growth rate over each interval; NaN past the end of a shorter trajectory.
        interval_steps: (M, B), number of steps of each interval; zero past the end.
        log_growth: (B, k), total log growth in nats of each column of the frame, not sorted: the
            quantity that adds up when a run is continued.
        order: (B, k), the column of the frame to which each exponent belongs.
        first_state: the state where counting started, in the system's own convention.
        first_frame: (B, n, k), the orthonormal frame there.
        final_state: the state after the last step, in the system's own convention.
        final_frame: (B, n, k), the orthonormal frame after the last step. The rows of a stack of
            layers are layer after layer, those of an LSTM h before c.
        dt: duration of a step in the caller's unit of time.
    """

    exponents: Float[Tensor, "B k"]
    local: Float[Tensor, "M B k"]
    interval_steps: Int[Tensor, "M B"]
    log_growth: Float[Tensor, "B k"]
    order: Int[Tensor, "B k"]
    first_state: Any
    first_frame: Float[Tensor, "B n k"]
    final_state: Any
    final_frame: Float[Tensor, "B n k"]
    dt: float

    @classmethod
    def of_columns(
        cls,
        *,
        log_growth: Float[Tensor, "B k"],
        rates: Float[Tensor, "M B k"],
        interval_steps: Int[Tensor, "M B"],
        first_state: Any,
        first_frame: Float[Tensor, "B n k"],
        final_state: Any,
        final_frame: Float[Tensor, "B n k"],
        dt: float,
    ) -> "LyapunovSpectrum":
        """Sort growth and local rates, which come in the order of the frame's columns."""
        # λ_i = log growth / (counted steps · dt). Columns of a frame that has not aligned, or of a
        # short run, need not be in descending order. Sorted by values, so without a gradient; the
        # exponents themselves keep theirs.
        exponents = log_growth / (dt * interval_steps.sum(dim=0).unsqueeze(-1))
        order = exponents.detach().argsort(dim=-1, descending=True, stable=True)
        return cls(
            exponents=exponents.gather(-1, order),
            local=rates.gather(-1, order.expand_as(rates)),
            interval_steps=interval_steps,
            log_growth=log_growth,
            order=order,
            first_state=first_state,
            first_frame=first_frame,
            final_state=final_state,
            final_frame=final_frame,
            dt=dt,
        )

    def extended_by(self, later: "LyapunovSpectrum") -> "LyapunovSpectrum":
        """Join this result and that of the run that continued it, as if both were a single run.

        Log growth adds up, so the exponents are those of the whole trajectory, not an average of
        averages; local rates and standard errors are those of all intervals. To continue a run,
        start the later one from `state=result.final_state` and `frame=result.final_frame`, without
        transients. The joined result carries no gradients.

        Args:
            later: the result of the same system and options, started where this one ended.

        Returns:
            The result of both runs together.

        Raises:
            InvalidInputError: the later run did not start where this one ended, or has another
                `dt`.

        Example:
            >>> import torch, flossing
            >>> gru, inputs = torch.nn.GRU(2, 8), torch.randn(300, 1, 2)
            >>> first = flossing.lyapunov_spectrum(gru, inputs[:200], frame_transient=50)
            >>> later = flossing.lyapunov_spectrum(
            ...     gru, inputs[200:], first.final_state, frame=first.final_frame
            ... )
            >>> first.extended_by(later).counted_steps
            tensor([250])
        """
        self._require_continued_by(later)
        return LyapunovSpectrum.of_columns(
            log_growth=self.log_growth.detach() + later.log_growth.detach(),
            rates=torch.cat([self._rates_of_columns(), later._rates_of_columns()]),
            interval_steps=torch.cat([self.interval_steps, later.interval_steps]),
            first_state=self.first_state,
            first_frame=self.first_frame,
            final_state=later.final_state,
            final_frame=later.final_frame,
            dt=self.dt,
        )

    def _rates_of_columns(self) -> Float[Tensor, "M B k"]:
        # The inverse of the permutation `order`: back to the columns of the frame, which the later
        # run continues, whatever the order of its own exponents.
        local = self.local.detach()
        return local.gather(-1, self.order.argsort(dim=-1).expand_as(local))

    def _require_continued_by(self, later: "LyapunovSpectrum") -> None:
        problem = None
        if later.dt != self.dt:
            problem = f"its steps last dt={later.dt}, those of this result dt={self.dt}"
        elif not _equal(later.first_frame, self.final_frame):
            problem = (
                f"it counts growth from a frame {tuple(later.first_frame.shape)} that is not the "
                f"final one of this result, {tuple(self.final_frame.shape)}"
            )
        elif not _equal(later.first_state, self.final_state):
            problem = "it starts from another state than the final one of this result"
        if problem:
            raise InvalidInputError(
                f"the later result does not continue this one: {problem}; run it with "
                "state=result.final_state, frame=result.final_frame, the same k, dt and dtype, "
                "and no transients"
            )

    @cached_property
    def standard_error(self) -> Float[Tensor, "B k"]:
        """Standard errors of the exponents (B, k), from the autocorrelation of the local rates.

        The autocorrelation time is summed over a self-consistent window (Sokal 1997). Infinite
        where the error is unknown: a single interval, or an exponent of −inf.
        """
        # Computed on first access: flossing, which measures at every step, never reads it.
        growth = self.local.detach() * self.interval_steps.unsqueeze(-1)
        return standard_errors(growth, self.interval_steps)

    @property
    def counted_steps(self) -> Int[Tensor, "B"]:
        """Number of steps whose growth was counted, of each trajectory."""
        return self.interval_steps.sum(dim=0)

    @property
    def kaplan_yorke_dimension(self) -> Float[Tensor, "B"]:
        r"""Kaplan–Yorke dimension j + Σ_{i≤j} λ_i / |λ_{j+1}| of each trajectory (B,).

        j is the largest number of exponents whose sum is not negative (Kaplan & Yorke 1979). It
        is the state size if the sum of all n exponents is not negative, and NaN, with a
        `NumericalWarning`, if too few exponents were computed to tell.
        """
        exponents = self.exponents.detach()
        # D = j + (λ_1 + … + λ_j) / |λ_{j+1}| with j = `whole`, the number of leading sums that are
        # not negative: the product of zeros and ones turns zero at the first that is.
        sums = exponents.cumsum(dim=-1)
        whole = (sums >= 0).to(torch.long).cumprod(dim=-1).sum(dim=-1, keepdim=True)
        count = exponents.shape[-1]
        # The clamps only keep the indices inside: j = k is settled by `beyond`, j = 0 has no sum.
        inside = whole.clamp(max=count - 1)
        last_sum = torch.where(whole > 0, sums.gather(-1, (whole - 1).clamp(min=0)), 0.0)
        fraction = last_sum / exponents.gather(-1, inside).abs()
        size = self.final_frame.shape[-2]
        beyond = float(size) if count == size else torch.nan
        dimension = torch.where(whole < count, whole + fraction, beyond).squeeze(-1)
        if bool(dimension.isnan().any()):
            warnings.warn(
                f"the first {count} of {size} exponents sum to more than zero, so they do not "
                "determine the Kaplan–Yorke dimension: compute more exponents (larger k)",
                NumericalWarning,
                stacklevel=2,
            )
        return dimension

    @property
    def entropy_rate(self) -> Float[Tensor, "B"]:
        """Sum of the positive exponents of each trajectory (B,), in nats per unit time.

        By Pesin's formula the Kolmogorov–Sinai entropy rate of a system with a smooth invariant
        measure, and an upper bound otherwise (Ruelle's inequality). A `NumericalWarning` is issued
        if the last exponent computed is still positive, so that the sum is incomplete.
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
        # The `plot` methods of results are the only place where a lower layer reaches up to a
        # higher one: at call time only, so that measuring does not need matplotlib.
        from flossing.plots import plot_spectrum

        return plot_spectrum(self, ax=ax)


def _equal(first: Any, second: Any) -> bool:
    # To the last bit: a frame or state that went through another precision is another start.
    pairs = zip(flatten(first)[0], flatten(second)[0], strict=False)
    return same_structure(first, second) and all(
        one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs
    )
