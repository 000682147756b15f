"""Flossing beside its rivals: what each has reached once flossing is done, and in the end."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from flossing.plots import GREY, new_figure
from flossing.report.model import Table
from flossing.support.formatting import number_in_words
from flossing.tasks import constant_loss
from flossing_lab.runs.comparison import NEVER, or_never
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, arm_of, last_within, seconds_of, solved
from flossing_lab.runs.records import AnyRun, CondensedRun, condensed
from flossing_lab.studies.baselines.arms import (
    CONTESTS,
    FLOSSED,
    FLOSSING,
    SEEDS,
    Contest,
    at_equal_seconds,
)
from flossing_lab.studies.drawing import STYLES, legend_above, title
from flossing_lab.studies.horizon.tasks import QUIET
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.training.member import LEARNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "What networks have reached after the seconds that the flossed ones took in all (filled: the "
    "median over networks, and a point for each), and after all epochs (hollow). The lines are at "
    "what flossing has reached. Gradients are clipped for all. Input weights of flossing, clipping "
    f"alone, orthogonal networks and the penalty are standard normal, small inputs {QUIET:g} times "
    "that. The default schedule of flossing was chosen on temporal XOR over 70 steps, and small "
    "inputs on held digits and temporal XOR over 200; nothing of the others was tuned."
)
COLUMNS = 3
EQUAL = 0.01
"""A smaller difference of accuracies decides nothing."""

EQUAL_ERRORS = 1.1
"""A smaller ratio of errors decides nothing."""

GUESSES = 256
"""Sequences on which the error of a constant answer is measured."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        contests: which tasks.
        seeds: how many networks of each kind.
    """

    contests: tuple[Contest, ...] = CONTESTS
    seeds: int = SEEDS


def configurations(size: Size) -> list[Configuration]:
    """Return the runs: every rival in every contest.

    Example:
        >>> len(configurations(Size())) == 5 * 11 * 5
        True
    """
    return [
        each
        for contest in size.contests
        for rival in contest.configurations(seeds=size.seeds).values()
        for each in rival
    ]


def draw(results: Results) -> "Figure":
    """Draw a panel for each contest, a line for each rival in it.

    Args:
        results: of any of the contests.
    """
    contests = _contests(results)
    columns = min(COLUMNS, len(contests))
    lines = math.ceil(len(contests) / columns)
    figure = new_figure(0.9 + 3.7 * columns, 0.4 + 3.1 * lines)
    for place, (contest, found) in enumerate(contests):
        axes = figure.add_subplot(lines, columns, place + 1)
        _draw_contest(axes, contest, found)
        if place % columns:
            axes.set_yticklabels([])
        title(axes, contest.name)
    legend_above(figure, figure.axes[0])
    return figure


def findings(results: Results) -> list[Finding]:
    """Judge in each contest whether flossing does as well as the best of the others.

    Undecided is what was not run in full, and where no network has learned anything by then.
    """
    return [
        _finding(contest, found, name)
        for contest, found in _contests(results)
        for name in FLOSSED
        if name in found
    ]


def tables(results: Results) -> tuple[Table, ...]:
    """Return the table of the rivals that were run.

    Args:
        results: of any of the contests.
    """
    return (rivals_table(CONTESTS, _by_digest(results), seeds=SEEDS),)


def _by_digest(results: Results) -> dict[str, CondensedRun]:
    return {each.configuration.digest: each for each in results.runs}


def _contests(results: Results) -> list[tuple[Contest, dict[str, Arm]]]:
    """The contests in which flossing was run, each with all rivals that were."""
    runs = _by_digest(results)
    contests: list[tuple[Contest, dict[str, Arm]]] = []
    for contest in CONTESTS:
        rivals = contest.configurations(seeds=SEEDS)
        found = {name: arm for name, each in rivals.items() if (arm := arm_of(each, runs))}
        if FLOSSING in found:
            contests.append((contest, found))
    return contests


def _draw_contest(axes: "Axes", contest: Contest, found: Mapping[str, Arm]) -> None:
    names = list(reversed(contest.rivals()))
    allowed = found[FLOSSING].seconds
    axes.axvline(_reached(found[FLOSSING], allowed), color=GREY, linewidth=0.8, zorder=0)
    for place, name in enumerate(names):
        if name in found:
            _draw_rival(axes, place, found[name], allowed, name)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", linewidth=0.3)
    if found[FLOSSING].regression:
        axes.set_xscale("log")
        axes.set_xlabel("mean squared error (less is better)")
    else:
        axes.set_xlabel("accuracy")


def _draw_rival(axes: "Axes", place: int, arm: Arm, allowed: float, name: str) -> None:
    color = STYLES["default" if name in FLOSSED else "none"]["color"]
    shown: dict[str, Any] = {"color": color, "linestyle": "none"}
    points = [_value(run, allowed) for run in arm.runs]
    axes.plot(points, [place] * len(points), marker=".", alpha=0.5, markeredgewidth=0, **shown)
    for value, label, marker in (
        (_in_the_end(arm), "after all epochs", {"fillstyle": "none", "markersize": 9}),
        (_reached(arm, allowed), "at equal wall-clock", {"markersize": 5}),
    ):
        named = label if name == FLOSSING else None
        axes.plot(value, place, marker="o", label=named, **marker, **shown)


def _finding(contest: Contest, found: Mapping[str, Arm], name: str) -> Finding:
    flossed, seconds = found[name], found[FLOSSING].seconds
    others = {other: arm for other, arm in found.items() if other not in FLOSSED}
    claim = f"{contest.name}: at equal wall-clock {name} does at least as well as every other."
    whole = len(found) == len(contest.rivals())
    if not whole or any(len(arm.runs) < SEEDS for arm in found.values()):
        return Finding(claim, "Not all of what decides it was run.", None)
    own = _reached(flossed, seconds)
    reached = {other: _reached(arm, seconds) for other, arm in others.items()}
    ends = {other: _in_the_end(arm) for other, arm in others.items()}
    take_best = min if flossed.regression else max
    best, finest = (take_best(values, key=lambda each: values[each]) for values in (reached, ends))
    return Finding(
        claim,
        f"After {seconds:.0f} s {name} has {_in_words(flossed, own)}, and of the others the best "
        f"is {best} with {_in_words(flossed, reached[best])}. After all epochs {name} has "
        f"{_in_words(flossed, _in_the_end(flossed))}, and the best of the others is {finest} with "
        f"{_in_words(flossed, ends[finest])}.",
        _holds(contest, flossed, own, reached[best]),
    )


def _holds(contest: Contest, flossed: Arm, own: float, best: float) -> bool | None:
    """Whether flossing does as well as the best; `None` where both errors are those of guessing."""
    if not flossed.regression:
        return own >= best - EQUAL
    batch = contest.task.sample(GUESSES, generator=torch.Generator().manual_seed(0))
    if min(own, best) > LEARNED * constant_loss(contest.task, batch):
        return None
    return own <= EQUAL_ERRORS * best


def _reached(arm: Arm, seconds: float) -> float:
    """The median accuracy, or error, after so much flossing and training."""
    accuracy, loss = at_equal_seconds(arm.runs, seconds)
    return loss if arm.regression or accuracy is None else accuracy


def _value(run: AnyRun, seconds: float) -> float:
    reached = last_within(run, seconds)
    return reached.loss if reached.accuracy is None else reached.accuracy


def _in_the_end(arm: Arm) -> float:
    return arm.median_loss if arm.regression else arm.median_accuracy


def _in_words(arm: Arm, value: float) -> str:
    return number_in_words(value, 2) if arm.regression else f"{100 * value:.1f} %"


STUDY = Study(
    name="rivals",
    title="Flossing beside its rivals",
    caption=CAPTION,
    sizes={"quick": Size(contests=CONTESTS[:2]), "full": Size()},
    extents={"quick": "temporal XOR and delayed copy", "full": "all tasks"},
    configurations=configurations,
    draw=draw,
    tables=tables,
    findings=findings,
    in_parts=True,
)


def rivals_table(contests: Sequence[Contest], runs: Mapping[str, AnyRun], *, seeds: int) -> Table:
    """Return a line for every rival in every contest.

    Args:
        contests: the tasks.
        runs: what was run, by the digest of its configuration; others are left out.
        seeds: how many of each.
    """
    lines: list[tuple[str, ...]] = []
    for contest in contests:
        arms = {
            name: arm_of(configurations, runs)
            for name, configurations in contest.configurations(seeds=seeds).items()
        }
        flossed = arms[FLOSSING]
        allowed = flossed.seconds if flossed else None
        lines += [
            (contest.name, name, *_standing(arm, allowed))
            for name, arm in arms.items()
            if arm is not None
        ]
    return Table(
        "Solved, epochs and seconds to 95 %, accuracy (adding: mean squared error): medians over "
        f"seeds, where one that never gets there counts as infinite ({NEVER}). At equal "
        "wall-clock: after the seconds that the flossed networks took in all. Seconds: of flossing "
        "and training, without evaluations, for one of the networks that are trained together.",
        (
            "task",
            "network",
            "solved",
            "epochs to 95 %",
            "seconds to 95 %",
            "at the end",
            "at equal wall-clock",
            "seconds an epoch",
        ),
        tuple(lines),
    )


def _standing(arm: Arm, allowed: float | None) -> tuple[str, ...]:
    if arm.regression:
        last, successes = number_in_words(arm.median_loss), NEVER
    else:
        last, successes = f"{100 * arm.median_accuracy:.1f} %", solved(arm)
    equal = NEVER
    if allowed is not None:
        accuracy, loss = at_equal_seconds(arm.runs, allowed)
        equal = number_in_words(loss) if accuracy is None else f"{100 * accuracy:.1f} %"
    return (
        successes,
        or_never(arm.median_epochs, "{:.0f}"),
        or_never(arm.median_seconds, "{:.0f}"),
        last,
        equal,
        f"{median(map(_seconds_an_epoch, arm.runs)):.3f}",
    )


def _seconds_an_epoch(run: AnyRun) -> float:
    return seconds_of(run) / max(1, condensed(run).epochs)
