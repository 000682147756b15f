"""Exact tests over networks, by which the statements of the figures are judged."""

# SciPy leaves its arguments untyped, so its functions are partially unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Largest probability, by chance alone, of results that count as showing a statement.

Three networks against three can just reach it: one of the 20 ways to choose three of six.
"""

ROUNDING = 1e-9
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Count:
    """How many of a number of networks did something.

    Attributes:
        successes: number of networks that did.
        total: number of networks, at least 1.
    """

    successes: int
    total: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.successes} of {self.total} ({100 * low:.0f} to {100 * high:.0f} %)"

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % confidence interval of the share (Clopper–Pearson)."""
        test = stats.binomtest(self.successes, self.total)
        interval = test.proportion_ci(CONFIDENCE, method="exact")
        return float(interval.low), float(interval.high)

    @property
    def most(self) -> "ExactTest":
        """Whether most networks do it: the exact binomial test against one half."""
        more, less = (
            float(stats.binomtest(self.successes, self.total, 0.5, alternative).pvalue)
            for alternative in ("greater", "less")
        )
        return ExactTest(more, less)


@dataclass(frozen=True)
class ExactTest:
    """The result of a test in both directions.

    Attributes:
        more: probability, by chance alone, of a result at least as much in favour.
        less: probability, by chance alone, of a result at least as much against.
    """

    more: float
    less: float

    @property
    def agrees(self) -> bool | None:
        """Whether the result shows the statement or its contrary; `None` for neither."""
        level = LEVEL * (1 + ROUNDING)
        if self.more <= level:
            return True
        return False if self.less <= level else None

    def __str__(self) -> str:
        return f"p = {min(1.0, self.more):.2g}"


def more_often(pairs: Sequence[tuple[Count, Count]]) -> ExactTest:
    """Return whether the first counts are larger than the second: an exact test by strata.

    With one pair this is Fisher's test; with several, of which each has its own difficulty, the
    exact test of Cochran, Mantel and Haenszel: given the sum of each pair, the sum of the first
    counts is compared with all ways in which the successes could have fallen.

    Example:
        >>> test = more_often([(Count(3, 3), Count(0, 3))])
        >>> round(test.more, 6), test.agrees
        (0.05, True)
    """
    by_chance = np.ones(1)
    for first, second in pairs:
        possible = np.arange(first.total + 1)
        both, networks = first.successes + second.successes, first.total + second.total
        ways = cast(Any, stats.hypergeom.pmf(possible, networks, both, first.total))
        by_chance = np.convolve(by_chance, ways)
    found = sum(first.successes for first, _ in pairs)
    return ExactTest(float(by_chance[found:].sum()), float(by_chance[: found + 1].sum()))


def larger(values: Sequence[float], others: Sequence[float]) -> ExactTest:
    """Return whether values tend to be larger than others: the exact test of Mann and Whitney.

    Example:
        >>> larger([2.0, 3.0, 4.0], [0.1, 0.2, 0.3]).agrees
        True
    """
    more, less = (
        float(stats.mannwhitneyu(values, others, alternative=each, method="exact").pvalue)
        for each in ("greater", "less")
    )
    return ExactTest(more, less)
