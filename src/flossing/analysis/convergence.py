"""`convergence`: running exponents and their error bars, as more and more steps are counted."""

from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flossing.errors import InvalidOptionError
from flossing.measurement.result import LyapunovSpectrum
from flossing.measurement.statistics import standard_errors
from flossing.support.checks import require_integer
from flossing.support.printing import Printed


@dataclass(frozen=True, repr=False)
class Convergence(Printed):
    """Running exponents and their error bars at M points of a run.

    Attributes:
        steps: (M, B), steps counted up to each point.
        exponents: (M, B, k), in nats per unit time, those of a run that ends at the point; in the
            order of the final exponents. NaN past the end of a shorter trajectory.
        standard_error: (M, B, k), of the exponents; infinite where it is unknown: after a single
            interval, or for an exponent of −inf. NaN past the end of a trajectory.
        level: probability that the confidence band contains the true exponent.
        dt: duration of a step in the caller's unit of time.
    """

    steps: Int[Tensor, "M B"]
    exponents: Float[Tensor, "M B k"]
    standard_error: Float[Tensor, "M B k"]
    level: float
    dt: float

    @property
    def lower(self) -> Float[Tensor, "M B k"]:
        """Lower end of the confidence bands, assuming normally distributed errors."""
        return torch.where(self._width.isinf(), -torch.inf, self.exponents - self._width)

    @property
    def upper(self) -> Float[Tensor, "M B k"]:
        """Upper end of the confidence bands, assuming normally distributed errors."""
        return torch.where(self._width.isinf(), torch.inf, self.exponents + self._width)

    @property
    def _width(self) -> Float[Tensor, "M B k"]:
        return NormalDist().inv_cdf((1.0 + self.level) / 2) * self.standard_error


def convergence(result: LyapunovSpectrum, *, points: int = 100, level: float = 0.95) -> Convergence:
    r"""Compute running exponents with confidence bands, to judge whether a run was long enough.

    At each point: the mean growth rate of all intervals up to it, and its standard error from
    the autocorrelation of their rates (Sokal 1997; see `flossing.LyapunovSpectrum`),

    .. math:: \lambda(t) \pm z \, \mathrm{SE}(t), \qquad z = \Phi^{-1}((1 + \text{level}) / 2).

    Nested bands that shrink like 1/√t indicate convergence; an exponent that drifts out of its
    earlier bands indicates a transient, or correlations longer than the run.

    Args:
        result: a result of `flossing.lyapunov_spectrum`. Points lie at the ends of its intervals;
            `reorthonormalize=1` makes these single steps.
        points: largest number of points, evenly spaced on a logarithmic scale; the ends of all
            trajectories are among them.
        level: confidence level, between 0 and 1.

    Returns:
        Exponents at M points and their standard errors, (M, B, k), in float64.

    Raises:
        InvalidOptionError: an option has an invalid value.

    Example:
        >>> import torch, flossing
        >>> spectrum = flossing.lyapunov_spectrum(
        ...     lambda x: 4 * x * (1 - x), state=torch.tensor([0.3]), steps=4000,
        ...     dtype=torch.float64, frame_transient=100, reorthonormalize=1,
        ... )
        >>> course = flossing.convergence(spectrum, points=20)
        >>> course.steps[[0, -1], 0]
        tensor([   1, 3900])
        >>> bool((course.lower[-1] < torch.tensor(2.0).log()).all())
        True
    """
    points = require_integer("points", points, at_least=1)
    if not 0.0 < level < 1.0:
        raise InvalidOptionError(
            f"level is the confidence level, between 0 and 1, not {level!r}: pass, for example, "
            "level=0.95"
        )
    steps = result.interval_steps
    there = (steps > 0).unsqueeze(-1)
    growth = result.local.detach().double() * steps.unsqueeze(-1)
    # Past the end of a trajectory intervals have no steps and local rates are NaN.
    growth = torch.where(there, growth, 0.0)
    counted = steps.cumsum(dim=0)
    running = growth.cumsum(dim=0) / counted.unsqueeze(-1)
    lasts = torch.where(steps > 0, torch.arange(len(steps), device=steps.device).unsqueeze(-1), 0)
    last = lasts.amax(dim=0)
    at = _points(points, [int(end) for end in last])
    errors = torch.stack([standard_errors(growth[: end + 1], steps[: end + 1]) for end in at])
    past = (torch.tensor(at, device=last.device).unsqueeze(-1) > last).unsqueeze(-1)
    return Convergence(
        steps=counted[at],
        exponents=running[at].masked_fill(past, torch.nan),
        standard_error=errors.masked_fill(past, torch.nan),
        level=level,
        dt=result.dt,
    )


def _points(points: int, lasts: list[int]) -> list[int]:
    """Return increasing indices of intervals, spaced geometrically, with all the last ones."""
    count = max(lasts) + 1
    spaced = [round(count ** (index / max(1, points - 1))) - 1 for index in range(points)]
    return sorted({*spaced, *lasts})
