"""Figure 5: the number of flossed exponents.

The quick size takes about 1000 s on one core, of which 150 s are shared with figure 4: for each
network 2000 epochs at each of three delays, 18 ms together, and 1500 flossing steps of 4 to 9 ms.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.tasks import TemporalXor
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm
from flossing_lab.runs.schedules import published
from flossing_lab.studies.drawing import draw_accuracy_by_delay, finish_accuracy, title
from flossing_lab.studies.judging import Count, more_often
from flossing_lab.studies.study import Finding, Results, Study, group_by
from flossing_lab.studies.training_runs import (
    FULL_DELAYS,
    SCHEDULES,
    TrainingSize,
    delay_of,
    full_size,
    solved_count,
    solved_in_words,
    solved_more,
    training_configurations,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "os^Dvpx"
LINES = ("-", "--", "-.", ":")
COLOR_RANGE = 0.88
"""Part of the colour map that is used; its end is too light on white."""


def configurations(k: Sequence[int], size: TrainingSize) -> list[Configuration]:
    """Return the runs on temporal XOR for all delays and `k`, 0 for no flossing."""
    flossings = [partial(published, k=each) if each else SCHEDULES["none"] for each in k]
    return training_configurations(TemporalXor, size, flossings)


def draw(results: Results) -> "Figure":
    """Draw accuracy against the delay and against k."""
    from matplotlib import colormaps

    figure = new_figure(11.0, 3.9)
    by_delay, by_k = figure.subplots(1, 2)
    groups = _by_k(results)
    for index, (k, found) in enumerate(groups.items()):
        draw_accuracy_by_delay(
            by_delay,
            found,
            shift=0.4 * index,
            label=_label(k),
            color=colormaps["viridis"](COLOR_RANGE * (1 - index / max(1, len(groups) - 1))),
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINES[index % len(LINES)],
        )
    title(by_delay, "By delay")
    arms = sorted(results.arms, key=lambda arm: (delay_of(arm), _k(arm)))
    for index, (delay, found) in enumerate(group_by(arms, delay_of).items()):
        by_k.plot(
            list(map(_k, found)),
            [arm.median_accuracy for arm in found],
            color=colormaps["plasma"](0.2 * index),
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINES[index % len(LINES)],
            label=f"d = {delay}",
        )
    finish_accuracy(by_k)
    by_k.set_xlabel("number k of flossed exponents")
    title(by_k, "By number of flossed exponents")
    for axes in (by_delay, by_k):
        # Next to the panel, because curves may be anywhere in it.
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def findings(results: Results) -> list[Finding]:
    """Compare the numbers of flossed exponents."""
    groups = _by_k(results)
    flossed = {k: found for k, found in groups.items() if k}
    fewest, most = min(flossed), max(flossed)
    solved = "; ".join(f"{_label(k)}, {solved_in_words(found)}" for k, found in groups.items())
    size = results.arms[0].configuration.architecture.size
    many, few = (
        by_delay(flossed[k] for k in flossed if (k > size / 2) is large) for large in (True, False)
    )
    ends = solved_more(flossed[most], flossed[fewest])
    halves = more_often([(many[delay], few[delay]) for delay in many if delay in few])
    return [
        Finding(
            claim="Longer delays are learned with many flossed exponents than with few.",
            found=f"Networks that solved it: {solved}. More with {_label(most)} than with "
            f"{_label(fewest)}: {ends}.",
            agrees=ends.agrees,
            source="recollection",
        ),
        Finding(
            claim="For the best result most of the exponents have to be flossed.",
            found=f"Solved with more than half of the {size} exponents: {_counts_in_words(many)}; "
            f"with fewer: {_counts_in_words(few)}. More with more than half: {halves}.",
            agrees=halves.agrees,
            source="recollection",
        ),
    ]


def by_delay(groups: Iterable[Sequence[Arm]]) -> dict[int, Count]:
    """Return, for each delay, how many networks of all groups together solved it."""
    arms = group_by((arm for group in groups for arm in group), delay_of)
    counts = {delay: list(map(solved_count, own)) for delay, own in sorted(arms.items())}
    return {
        delay: Count(sum(each.successes for each in own), sum(each.total for each in own))
        for delay, own in counts.items()
    }


def _counts_in_words(counts: dict[int, Count]) -> str:
    return ", ".join(f"d={delay}: {each}" for delay, each in counts.items())


def _by_k(results: Results) -> dict[int, list[Arm]]:
    return group_by(sorted(results.arms, key=lambda arm: (_k(arm), delay_of(arm))), _k)


def _k(arm: Arm) -> int:
    flossing = arm.configuration.flossing
    return 0 if flossing is None else flossing.k or arm.configuration.architecture.size


def _label(k: int) -> str:
    return f"k = {k}" if k else "not flossed"


STUDY = Study(
    name="fig5",
    title="Figure 5: the number of flossed exponents",
    statement="The more exponents are flossed, the longer the delays that are learned; to reach "
    "the longest, most of them have to be flossed (recollection).",
    caption="Temporal XOR, with k exponents flossed before and during training as published. Left: "
    "accuracy after training against the delay. Right: the same against k, 0 for no flossing. "
    "Medians over networks; on the left also a point for each.",
    configurations={
        "quick": configurations((0, 20, 40, 60, 75, 80), TrainingSize(delays=(20, 40, 70))),
        "full": configurations((75, 20, 0, 40, 60, 80, 1), full_size(*FULL_DELAYS)),
    },
    draw=draw,
    findings=findings,
    partial=True,
)
