"""Figure 5: how many exponents to floss.

The quick size takes about 1000 s of one core, of which 150 are shared with figure 4: per network
2000 epochs at each of three delays, 18 ms together, and 1500 steps of flossing of 4 to 9 ms each.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.report.model import Table
from flossing.tasks import TemporalXor
from flossing_lab.runs.comparison import tables
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, arms
from flossing_lab.runs.schedules import published
from flossing_lab.studies.drawing import (
    draw_accuracy_by_delay,
    finish_accuracy,
    title,
)
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.studies.training_size import (
    MakeFlossing,
    TrainingSize,
    delay_of,
    full_size,
    mean_accuracy,
    no_flossing,
    reaches_further,
    solved_in_words,
    training_configurations,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATEMENT = (
    "The more exponents are flossed, the longer the delays that are learned; most of them have to "
    "be flossed to reach the longest (recalled)."
)
CAPTION = (
    "Temporal XOR, flossed before and during training as published, k of the exponents. Left: "
    "accuracy after training against the delay. Right: the same against k, 0 for no flossing. "
    "Medians over networks, and on the left a point for each."
)
MARKERS = "os^Dvpx"
LINES = ("-", "--", "-.", ":")
# Of Matplotlib's colour map the darker part, to be seen on white.
DARK_PART = 0.88


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        k: how many exponents are flossed; 0 for none.
        training: all else.
    """

    k: tuple[int, ...]
    training: TrainingSize


QUICK = Size(k=(0, 20, 40, 60, 75, 80), training=TrainingSize(delays=(20, 40, 70)))
FULL = Size(k=(0, 1, 10, 20, 30, 40, 50, 60, 70, 75, 80), training=full_size(*range(10, 71, 10)))


def configurations(size: Size) -> list[Configuration]:
    """Return the runs: every delay with every k.

    Example:
        >>> len(configurations(QUICK))
        54
    """
    return training_configurations(TemporalXor, size.training, list(map(_flossing, size.k)))


def draw(results: Results) -> "Figure":
    """Draw accuracy against the delay and against k.

    Args:
        results: the runs.
    """
    from matplotlib import colormaps

    groups = _by_k(arms(results.runs))
    figure = new_figure(11.0, 3.9)
    delays, sizes = figure.subplots(1, 2)
    for index, (k, found) in enumerate(groups.items()):
        color = colormaps["viridis"](DARK_PART * (1 - index / max(1, len(groups) - 1)))
        style = {
            "color": color,
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": LINES[index % len(LINES)],
        }
        draw_accuracy_by_delay(delays, found, label=_label(k), style=style, shift=0.4 * index)
    title(delays, "By delay")
    for index, delay in enumerate(sorted({delay_of(a) for each in groups.values() for a in each})):
        points = [
            (k, arm.median_accuracy)
            for k, found in groups.items()
            for arm in found
            if delay_of(arm) == delay
        ]
        sizes.plot(
            *zip(*points, strict=True),
            color=colormaps["plasma"](0.2 * index),
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINES[index % len(LINES)],
            label=f"d = {delay}",
        )
    finish_accuracy(sizes)
    sizes.set_xlabel("number k of flossed exponents")
    title(sizes, "By the number of flossed exponents")
    for axes in (delays, sizes):
        # Beside the panel, for lines may be anywhere in it.
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def findings(results: Results) -> list[Finding]:
    """Return what is claimed of k, beside what was found."""
    groups = _by_k(arms(results.runs))
    flossed = {k: found for k, found in groups.items() if k}
    fewest, most = min(flossed), max(flossed)
    solved = ". ".join(f"{_label(k)}, {solved_in_words(found)}" for k, found in groups.items())
    accuracy = ", ".join(
        f"{100 * mean_accuracy(found):.1f} % for {_label(k)}" for k, found in groups.items()
    )
    best = max(flossed, key=lambda k: mean_accuracy(flossed[k]))
    return [
        Finding(
            claim="Longer delays are learned with many exponents flossed than with few.",
            found=f"Networks that solved it. {solved}.",
            agrees=reaches_further(flossed[most], flossed[fewest]),
        ),
        Finding(
            claim="Most of the exponents have to be flossed for the best result.",
            found=f"Mean accuracy over the delays: {accuracy}; the best is {_label(best)}.",
            agrees=best > most / 2,
        ),
    ]


def result_tables(results: Results) -> tuple[Table, ...]:
    """Return a row for every delay and k."""
    return tables(results.runs)


def _flossing(k: int) -> MakeFlossing:
    return partial(published, k=k) if k else no_flossing


def _by_k(found: Sequence[Arm]) -> dict[int, list[Arm]]:
    groups: dict[int, list[Arm]] = {}
    for arm in sorted(found, key=lambda arm: (_k(arm), delay_of(arm))):
        groups.setdefault(_k(arm), []).append(arm)
    return groups


def _k(arm: Arm) -> int:
    flossing = arm.configuration.flossing
    return 0 if flossing is None else flossing.k or arm.configuration.architecture.size


def _label(k: int) -> str:
    return f"k = {k}" if k else "not flossed"


STUDY = Study(
    name="fig5",
    title="Figure 5: how many exponents to floss",
    statement=STATEMENT,
    caption=CAPTION,
    sizes={"quick": QUICK, "full": FULL},
    configurations=configurations,
    draw=draw,
    tables=result_tables,
    findings=findings,
)
