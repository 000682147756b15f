"""A comparison of runs: tables of their outcomes, and their learning curves, as a report."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flossing.plots import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    plot_learning_curve,
)
from flossing.report.model import Fact, Figure, Report, Section, Table
from flossing.report.pictures import HEIGHT, figure_from, new_axes
from flossing.support.environment import environment
from flossing.support.formatting import format_number, format_share, plural
from flossing_lab.runs.differences import settings, task_in_words
from flossing_lab.runs.outcomes import Arm, arms
from flossing_lab.runs.records import AnyRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEVER = "–"
LEGEND_LINE = 0.2
"""Height of a line of the legend, in inches."""

# Line styles differ too, for print in grey.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": VERMILLION, "linestyle": "--"},
    {"color": BLUE, "linestyle": "-"},
    {"color": GREEN, "linestyle": "-."},
    {"color": PURPLE, "linestyle": ":"},
    {"color": ORANGE, "linestyle": (0, (5, 1))},
    {"color": SKY, "linestyle": (0, (3, 1, 1, 1, 1, 1))},
)


def comparison(runs: Sequence[AnyRun], *, title: str, refused: Sequence[str] = ()) -> Report:
    """Return a report on runs: tables by arm, and learning curves by task.

    Args:
        runs: at least one.
        title: of the report.
        refused: messages about files that could not be trusted.

    Raises:
        ImportError: Matplotlib is missing.
    """
    all_arms = arms(runs)
    results = Section(
        "Results",
        tables=tables(runs),
        notes=tuple(f"Not counted: {each}." for each in refused),
        numbers={"arms": [_numbers(arm) for arm in all_arms]},
    )
    tasks: dict[str, list[Arm]] = {}
    for arm in all_arms:
        tasks.setdefault(task_in_words(arm.configuration), []).append(arm)
    curves = [_curves(task, own) for task, own in tasks.items()]
    facts = (
        Fact("Runs", len(runs)),
        Fact("Arms", f"{len(all_arms)}, which differ in more than the seed"),
        Fact("Files not trusted", len(refused)),
    )
    return Report(title, facts, (), (results, *curves))


def numbers_document(runs: Sequence[AnyRun], refused: Sequence[str] = ()) -> dict[str, Any]:
    """Return the numbers behind the tables, for JSON.

    Args:
        runs: in any order.
        refused: messages about files that could not be trusted.
    """
    return {
        "environment": environment(),
        "arms": [_numbers(arm) for arm in arms(runs)],
        "not_trusted": list(refused),
    }


def tables(runs: Sequence[AnyRun]) -> tuple[Table, ...]:
    """Return a table of the arms with an accuracy and one of the regressions, each if any."""
    found = arms(runs)
    accurate = [arm for arm in found if not arm.regression]
    regressions = [arm for arm in found if arm.regression]
    made = (_accuracy_table(accurate), _error_table(regressions))
    return tuple(table for table in made if table.rows)


def or_never(value: float, form: str) -> str:
    """Return a number in a form of `str.format`, or a dash if it is infinite.

    Example:
        >>> or_never(12.0, "{:.0f}"), or_never(float("inf"), "{:.0f}")
        ('12', '–')
    """
    return form.format(value) if math.isfinite(value) else NEVER


def _accuracy_table(found: Sequence[Arm]) -> Table:
    threshold = format_share(found[0].accuracy) if found else ""
    return _table(
        f"Success: share of the seeds with an accuracy of at least {threshold} after training, on "
        "data that is not trained on. All else: medians over seeds, where one that never gets "
        f"there counts as infinite ({NEVER}). Seconds: of flossing and training, without "
        "evaluations, for one network.",
        ("success", "accuracy"),
        (f"epochs to {threshold}", f"seconds to {threshold}"),
        found,
        lambda arm: (format_share(arm.success_rate), f"{100 * arm.median_accuracy:.1f} %"),
        lambda arm: (
            or_never(arm.median_epochs, "{:.0f}"),
            or_never(arm.median_seconds, "{:.1f} s"),
        ),
    )


def _error_table(found: Sequence[Arm]) -> Table:
    return _table(
        "Mean squared error after training, on data that is not trained on; medians over seeds. "
        "Seconds without evaluations, for one network.",
        ("mean squared error",),
        (),
        found,
        lambda arm: (format_number(arm.median_loss),),
        lambda _: (),
    )


def _table(
    caption: str,
    outcome: tuple[str, ...],
    course: tuple[str, ...],
    found: Sequence[Arm],
    outcome_of: Callable[[Arm], tuple[str, ...]],
    course_of: Callable[[Arm], tuple[str, ...]],
) -> Table:
    """Return a table with the outcomes first, for a narrow terminal or page shows no more."""
    shown = settings([arm.configuration for arm in found])
    return Table(
        caption,
        (*(shown[0] if shown else {}), *outcome, "seeds", *course, "flossing", "training"),
        tuple(
            (
                *each.values(),
                *outcome_of(arm),
                len(arm.runs),
                *course_of(arm),
                f"{arm.flossing_seconds:.1f} s" if arm.configuration.flossing else NEVER,
                f"{arm.training_seconds:.1f} s",
            )
            for each, arm in zip(shown, found, strict=True)
        ),
    )


def _curves(task: str, found: Sequence[Arm]) -> Section:
    names = [_name(each) for each in settings([arm.configuration for arm in found])]
    pairs = list(zip(names, found, strict=True))
    # As many arms in a figure as there are styles.
    starts = range(0, len(pairs), len(_STYLES))
    figures = (_figure(task, pairs[start : start + len(_STYLES)]) for start in starts)
    return Section(f"Learning: {task}", figures=tuple(figures))


def _name(each: Mapping[str, str]) -> str:
    flossing = {"none": "without flossing", "published": "published flossing"}
    words = [
        value if name == "cell" else f"{name} {value}"
        for name, value in each.items()
        if name not in ("task", "flossing")
    ]
    return ", ".join([*words, flossing.get(each["flossing"], f"flossed: {each['flossing']}")])


def _figure(task: str, pairs: Sequence[tuple[str, Arm]]) -> Figure:
    axes = new_axes(HEIGHT + LEGEND_LINE * len(pairs))
    for (name, arm), style in zip(pairs, _STYLES, strict=False):
        for index, run in enumerate(arm.runs):
            _draw(axes, run, label=name if index == 0 else None, style=style)
    axes.set_xlabel("epoch")
    axes.get_figure(root=True).legend(loc="outside lower left", fontsize="small", frameon=False)  # pyright: ignore[reportOptionalMemberAccess]
    regression = pairs[0][1].regression
    best = [
        f"{name}: {_final(arm)} in the median of {plural(len(arm.runs), 'seed')}"
        for name, arm in pairs
    ]
    return figure_from(
        axes,
        caption=f"{'Error' if regression else 'Accuracy'} on data that is not trained on; a line "
        "for every seed.",
        description=f"Learning curves of {task}. After training, {'; '.join(best)}.",
    )


def _draw(axes: "Axes", run: AnyRun, *, label: str | None, style: dict[str, Any]) -> None:
    epochs = [each.epoch for each in run.evaluations]
    style = {**style, "alpha": 0.8, "linewidth": 1.2}
    if run.configuration.task.kind == "regression":
        heights = [each.loss if each.loss > 0 else math.nan for each in run.evaluations]
        axes.plot(epochs, heights, label=label, **style)
        axes.set_yscale("log")
        axes.set_ylabel("mean squared error")
        return
    accuracies = [math.nan if each.accuracy is None else each.accuracy for each in run.evaluations]
    plot_learning_curve(epochs, accuracies, axes, label=label, **style)


def _final(arm: Arm) -> str:
    if arm.regression:
        return f"an error of {format_number(arm.median_loss)}"
    return f"{100 * arm.median_accuracy:.1f} %"


def _numbers(arm: Arm) -> dict[str, Any]:
    return {
        "configuration": arm.configuration.document(),
        "seeds": [run.configuration.seed for run in arm.runs],
        "success_rate": arm.success_rate,
        "median_epochs": arm.median_epochs,
        "median_seconds": arm.median_seconds,
        "median_accuracy": arm.median_accuracy,
        "median_loss": arm.median_loss,
        "flossing_seconds": arm.flossing_seconds,
        "training_seconds": arm.training_seconds,
    }
