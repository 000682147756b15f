"""Largest step sizes and sensitivities by delay, and the laws fitted to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flossing_lab.studies.study import Measurement, Results

Array: TypeAlias = npt.NDArray[np.float64]

LEARNED = 0.75
"""Accuracy from which a network has learned, halfway from guessing to perfect.

The bits are independent: whoever answers better than by chance uses the one asked for. How close to
perfect 500 steps of training come is another question.
"""

RESAMPLES = 2000
"""Number of bootstrap samples over seeds."""

LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Arm:
    """Networks that were flossed, or not, for D delays and L step sizes.

    Attributes:
        delays: (D,).
        step_sizes: (L,), ascending.
        accuracy: (seeds, D, L), after training.
        sensitivity: (seeds, D, L), after training.
        sensitivity_before: (seeds, D), before training.
    """

    delays: Array
    step_sizes: Array
    accuracy: Array
    sensitivity: Array
    sensitivity_before: Array

    @property
    def learned(self) -> npt.NDArray[np.bool_]:
        """Which networks learned, (seeds, D, L)."""
        return self.accuracy >= LEARNED

    @property
    def largest_steps(self) -> Array:
        """The largest step size that learned, (seeds, D); NaN where none did."""
        largest = np.where(self.learned, self.step_sizes, 0.0).max(axis=2)
        return np.where(largest > 0, largest, np.nan)

    @property
    def sensitivity_after(self) -> Array:
        """Geometric mean over the step sizes that learned, (seeds, D); NaN where none did."""
        logs = np.where(self.learned, np.log(self.sensitivity), 0.0).sum(axis=2)
        counts = self.learned.sum(axis=2)
        return np.where(counts > 0, np.exp(logs / np.maximum(counts, 1)), np.nan)


def arm_of(results: Results, *, flossed: bool) -> Arm:
    """Return one of the arms.

    Raises:
        ValueError: nothing of it was measured.
    """
    own = [each for each in results.measurements if each.setting["flossed"] is flossed]

    def stacked(name: str) -> Array:
        return np.array([each.numbers[name] for each in own], dtype=np.float64)

    first: Measurement = own[0]
    return Arm(
        delays=np.array(first.setting["delays"], dtype=np.float64),
        step_sizes=np.array(first.setting["step_sizes"]),
        accuracy=stacked("accuracy"),
        sensitivity=stacked("sensitivity"),
        sensitivity_before=stacked("sensitivity_before"),
    )


def mostly(values: Array) -> npt.NDArray[np.bool_]:
    """Return at which delays at least half of the seeds have a value."""
    return np.isfinite(values).mean(axis=0) >= 0.5


def geometric_mean(values: Array) -> Array:
    """Return the geometric mean over the seeds that have a value; NaN where none has."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    logs = np.where(known, np.log(np.where(known, values, 1.0)), 0.0).sum(axis=0)
    return np.where(counts > 0, np.exp(logs / np.maximum(counts, 1)), np.nan)


@dataclass(frozen=True)
class Law:
    """A power law of the delay, fitted to geometric means by least squares of logarithms.

    Attributes:
        exponent: of the delay.
        interval: of the exponent, 95 %, from resampled seeds.
        error: root mean square error of the logarithm.
        exponential_error: the same of an exponential fitted instead.
    """

    exponent: float
    interval: tuple[float, float]
    error: float
    exponential_error: float

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.exponent:.2f} [{low:.2f}, {high:.2f}]"


def law(delays: Array, values: Array) -> Law:
    """Fit the values of all seeds, (seeds, D), at the delays where at least half have one."""
    kept = mostly(values)
    logs = np.log(delays[kept])
    exponent, error = _line(logs, values[:, kept])
    return Law(
        exponent=exponent,
        interval=interval(lambda rows: _line(logs, values[rows][:, kept])[0], len(values)),
        error=error,
        exponential_error=_line(delays[kept], values[:, kept])[1],
    )


def _line(places: Array, values: Array) -> tuple[float, float]:
    """Return slope and root mean square error of the line through the log means."""
    heights = np.log(geometric_mean(values))
    known = np.isfinite(heights)
    if known.sum() < 2:
        return np.nan, np.nan
    slope, offset = np.polyfit(places[known], heights[known], 1)
    errors = heights[known] - slope * places[known] - offset
    return float(slope), float(np.sqrt((errors**2).mean()))


def step_ratio(plain: Arm, flossed: Arm) -> tuple[float, tuple[float, float]]:
    """Return how many times larger the steps of flossed networks may be, with its interval.

    The geometric mean over the delays that at least half of the seeds of both learn.
    """
    both = mostly(plain.largest_steps) & mostly(flossed.largest_steps)

    def ratio(rows: Sequence[int] | slice) -> float:
        steps = [geometric_mean(arm.largest_steps[rows][:, both]) for arm in (plain, flossed)]
        return float(geometric_mean(steps[1] / steps[0]))

    return ratio(slice(None)), interval(ratio, len(plain.accuracy))


def interval(statistic: Callable[[Sequence[int]], float], seeds: int) -> tuple[float, float]:
    """Return the 95 % interval of a statistic of seeds, by the percentile bootstrap."""
    generator = np.random.default_rng(0)
    samples = generator.integers(seeds, size=(RESAMPLES, seeds)).tolist()
    low, high = np.nanquantile([statistic(rows) for rows in samples], LEVELS)
    return float(low), float(high)
