"""The result of a measurement."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flossing.errors import InvalidInputError, NumericalWarning
from flossing.measurement.statistics import fluctuation, standard_errors
from flossing.scan.boundaries import DEFAULT_ROUNDING_TOLERANCE
from flossing.support.printing import Printed
from flossing.support.pytree import flatten, same_structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class LyapunovSpectrum(Printed):
    """Lyapunov exponents of B trajectories, their error bars, and the ends of the run.

    Of a trajectory that diverged, with `on_divergence="nan"`, they are NaN.

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

    _shown = "exponents", "standard_error", "local", "counted_steps", "dt"

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
        return standard_errors(*self._growth)

    @property
    def diverged(self) -> Bool[Tensor, "B"]:
        """Whether each trajectory diverged, and has no counted steps and no exponents."""
        return self.counted_steps == 0

    @property
    def _growth(self) -> tuple[Float[Tensor, "M B k"], Int[Tensor, "M B"]]:
        """Growth over each interval, in the units of the exponents, and its steps."""
        return self.local.detach() * self.interval_steps.unsqueeze(-1), self.interval_steps

    @property
    def counted_steps(self) -> Int[Tensor, "B"]:
        """Number of steps whose growth was counted, of each trajectory."""
        return self.interval_steps.sum(dim=0)

    @property
    def kaplan_yorke_dimension(self) -> Float[Tensor, "B"]:
        r"""Kaplan–Yorke dimension j + Σ_{i≤j} λ_i / |λ_{j+1}| of each trajectory (B,).

        j is the largest number of exponents whose sum is not negative (Kaplan & Yorke 1979). It
        is the state size if the sum of all n exponents is not negative, and NaN, with a
        `NumericalWarning`, if too few exponents were computed to tell. An exponent that is zero
        within two standard errors, within rounding, or within the range over which growth goes
        up and down, counts as zero: of a limit cycle or a rotation, its sign would be an
        accident, and the dimension with it.
        """
        exponents = self._exponents_or_zero
        whole, last_sum, next_exponent = self._kaplan_yorke_terms
        count, size = exponents.shape[-1], self.final_frame.shape[-2]
        beyond = float(size) if count == size else torch.nan
        dimension = torch.where(whole < count, whole + last_sum / next_exponent.abs(), beyond)
        if count < size and bool((whole == count).any()):
            warnings.warn(
                f"the first {count} of {size} exponents sum to more than zero, so they do not "
                "determine the Kaplan–Yorke dimension: compute more exponents (larger k)",
                NumericalWarning,
                stacklevel=2,
            )
        return dimension.squeeze(-1)

    @property
    def kaplan_yorke_dimension_error(self) -> Float[Tensor, "B"]:
        r"""Standard error of the Kaplan–Yorke dimension of each trajectory (B,).

        By the delta method, from the autocorrelation of the growth that enters it, so that the
        correlation of exponents counts, those that count as zero included. Zero where the
        dimension is that of the state space or zero, or ends at −inf; NaN where the dimension is,
        and infinite where the errors of exponents are unknown.
        """
        exponents = self._exponents_or_zero
        whole, last_sum, next_exponent = self._kaplan_yorke_terms
        count = exponents.shape[-1]
        # With D = j + S / |λ_{j+1}|, S = λ_1 + … + λ_j and λ_{j+1} < 0,
        #     dD = dS / |λ_{j+1}| + S dλ_{j+1} / λ_{j+1}²,
        # a weighted sum of exponents, so the error is that of the same sum of their growth. An
        # exponent that counts as zero is no better known than others: it has its weight in dS.
        place = torch.arange(count, device=exponents.device).expand_as(exponents)
        weights = torch.where(
            place < whole,
            next_exponent.abs().reciprocal(),
            torch.where(place == whole, last_sum / next_exponent.square(), 0.0),
        )
        # A dimension that fills the space, or ends at −inf, changes with none of them.
        error = self._error_of_sum(
            torch.where((whole < count) & next_exponent.isfinite(), weights, 0.0)
        )
        too_few = (whole == count) & (count < self.final_frame.shape[-2])
        return torch.where(too_few.squeeze(-1) | self.diverged, torch.nan, error)

    @property
    def entropy_rate(self) -> Float[Tensor, "B"]:
        """Sum of the positive exponents of each trajectory (B,), in nats per unit time.

        By Pesin's formula the Kolmogorov–Sinai entropy rate of a system with a smooth invariant
        measure, and an upper bound otherwise (Ruelle's inequality). An exponent that counts as
        zero, see `kaplan_yorke_dimension`, is not positive. A `NumericalWarning` is issued if
        the last exponent computed is still positive, so that the sum is incomplete.
        """
        exponents = self._exponents_or_zero
        count, size = exponents.shape[-1], self.final_frame.shape[-2]
        if count < size and bool((exponents[:, -1] > 0).any()):
            warnings.warn(
                f"all of the first {count} of {size} exponents are positive in some trajectory, so "
                "the entropy rate is a lower bound: compute more exponents (larger k)",
                NumericalWarning,
                stacklevel=2,
            )
        return exponents.clamp(min=0).sum(dim=-1)

    @property
    def entropy_rate_error(self) -> Float[Tensor, "B"]:
        """Standard error of the entropy rate of each trajectory (B,), in nats per unit time.

        An exponent that counts as zero contributes its error: it may be positive.
        """
        error = self._error_of_sum((self._exponents_or_zero >= 0).to(self.exponents.dtype))
        return error.masked_fill(self.diverged, torch.nan)

    @property
    def _exponents_or_zero(self) -> Float[Tensor, "B k"]:
        exponents = self.exponents.detach()
        # Per step a factorisation keeps the default tolerance at least, whatever the interval.
        rounding = DEFAULT_ROUNDING_TOLERANCE[exponents.dtype] / self.dt
        # Standard errors are those of random fluctuations. Along a limit cycle growth goes up and
        # down without a trend, and leaves up to its whole range at the end of a run.
        error = torch.maximum(2 * self.standard_error, fluctuation(*self._growth))
        uncertainty = rounding + torch.where(error.isfinite(), error, 0.0)
        return torch.where(exponents.abs() <= uncertainty, 0.0, exponents)

    @property
    def _kaplan_yorke_terms(
        self,
    ) -> tuple[Int[Tensor, "B 1"], Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
        """j, the sum of the first j exponents, and the exponent after them."""
        exponents = self._exponents_or_zero
        sums = exponents.cumsum(dim=-1)
        # The number of leading sums that are not negative: the product of zeros and ones turns
        # zero at the first that is.
        whole = (sums >= 0).to(torch.long).cumprod(dim=-1).sum(dim=-1, keepdim=True)
        # The clamps only keep the indices inside: j = k has no next exponent, j = 0 no sum.
        last_sum = torch.where(whole > 0, sums.gather(-1, (whole - 1).clamp(min=0)), 0.0)
        return whole, last_sum, exponents.gather(-1, whole.clamp(max=exponents.shape[-1] - 1))

    def _error_of_sum(self, weights: Float[Tensor, "B k"]) -> Float[Tensor, "B"]:
        """Return the standard error of Σ weights · exponents, of correlated exponents."""
        growth, steps = self._growth
        # A weight of zero leaves out growth of −inf as well.
        summed = torch.where(weights == 0, 0.0, weights * growth).sum(dim=-1, keepdim=True)
        error = standard_errors(summed, steps).squeeze(-1)
        # A single interval tells nothing, not even that an exponent is zero.
        unknown = (steps > 0).sum(dim=0) < 2
        return torch.where((weights == 0).all(dim=-1) & ~unknown, 0.0, error).masked_fill(
            unknown, torch.inf
        )

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
