"""Training runs of figures 3 to 6, in the set-up of the released code, and comparisons of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TypeAlias

from flossing.tasks import AddingProblem, DelayedCopy, Digits, SpatialXor, Task, TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.differences import flossing_in_words
from flossing_lab.runs.outcomes import Arm
from flossing_lab.runs.schedules import before_only, default, published
from flossing_lab.studies.study import group_by

TaskKind: TypeAlias = type[DelayedCopy] | type[TemporalXor] | type[SpatialXor]
MakeFlossing: TypeAlias = Callable[[int], Flossing | None]

SCHEDULES: Mapping[str, MakeFlossing] = {
    "none": lambda _: None,
    "before": before_only,
    "published": published,
    "default": default,
}
"""Schedules as functions of the number N of units, in the order in which they are shown."""

SCHEDULE_TITLES = {
    "none": "not flossed",
    "before": "flossed before training",
    "published": "before and during (published)",
    "default": "before and during (our default)",
}
TASK_TITLES: Mapping[type, str] = {
    DelayedCopy: "Delayed copy",
    TemporalXor: "Temporal XOR",
    SpatialXor: "Spatial XOR",
}

NOTABLE_DIFFERENCE = 0.02
"""Mean accuracies that differ by less than this are considered equal."""

SHORTEST_SEQUENCE = 60
STEPS_PER_DELAY = 3


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """The amount of training in a figure; the defaults are those of the quick size.

    Attributes:
        delays: largest lags of the task.
        seeds: number of networks of each kind.
        epochs: largest number of gradient steps.
        patience: see `Training`.
        steps: sequence length T; `None` for three times the delay, at least 60.
        network_size: number N of units.
        evaluate_every: epochs between evaluations.
    """

    delays: tuple[int, ...]
    seeds: int = 3
    epochs: int = 2000
    patience: int = 3
    steps: int | None = None
    network_size: int = 80
    evaluate_every: int = 50


def full_size(*delays: int) -> TrainingSize:
    """Return the size used in the paper.

    Example:
        >>> full_size(40).epochs
        10000
    """
    return TrainingSize(
        delays=delays, seeds=10, epochs=10_000, patience=0, steps=300, evaluate_every=100
    )


def training_configurations(
    kind: TaskKind,
    size: TrainingSize,
    flossings: Sequence[MakeFlossing],
    architecture: Architecture | None = None,
) -> list[Configuration]:
    """Return the runs of a task for all delays, schedules and seeds.

    The default architecture is that of the released code, with the number of units of the size.
    """
    network = architecture or Architecture(size=size.network_size, form="rate")
    return [
        Configuration(
            task=kind(
                delay=delay, steps=size.steps or max(SHORTEST_SEQUENCE, STEPS_PER_DELAY * delay)
            ),
            architecture=network,
            training=Training(epochs=size.epochs, patience=size.patience),
            flossing=make(network.size),
            seed=seed,
            evaluate_every=size.evaluate_every,
            gradients=True,
        )
        for delay in size.delays
        for make in flossings
        for seed in range(size.seeds)
    ]


def delay_of(arm: Arm) -> int:
    """Return the delay of an arm's task; see `delay_of_task`."""
    return delay_of_task(arm.configuration.task)


def delay_of_task(task: Task) -> int:
    """Return the largest lag of a task, the hold of digits, or the length of an adding problem."""
    if isinstance(task, DelayedCopy | TemporalXor | SpatialXor):
        return task.delay
    if isinstance(task, Digits):
        return task.hold
    if isinstance(task, AddingProblem):
        return task.steps
    raise TypeError(f"a {type(task).__name__} has no delay")


def by_task(found: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Group arms by the title of their task."""
    return group_by(found, lambda arm: TASK_TITLES[type(arm.configuration.task)])


def by_schedule(found: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Group arms by the name of their schedule, each group sorted by delay."""
    groups = group_by(
        sorted(found, key=delay_of),
        lambda arm: flossing_in_words(arm.configuration).partition(",")[0],
    )
    return {name: groups[name] for name in SCHEDULES if name in groups}


def reaches_further(found: Sequence[Arm], others: Sequence[Arm]) -> bool | None:
    """Return whether longer delays are solved, or equally long ones with higher mean accuracy.

    A delay is solved if at least half of the networks solve it. `None` if the longest solved
    delays are equal and the mean accuracies differ by less than `NOTABLE_DIFFERENCE`.
    """
    own, other = (
        max((delay_of(arm) for arm in each if arm.success_rate >= 0.5), default=0)
        for each in (found, others)
    )
    if own != other:
        return own > other
    difference = mean_accuracy(found) - mean_accuracy(others)
    return None if abs(difference) < NOTABLE_DIFFERENCE else difference > 0


def mean_accuracy(found: Sequence[Arm]) -> float:
    """Return the mean over delays of the median accuracy after training."""
    return mean(arm.median_accuracy for arm in found)


def solved_in_words(found: Sequence[Arm]) -> str:
    """Return the number of networks that solved each delay, and the mean accuracy."""
    solved = ", ".join(
        f"d={delay_of(arm)}: {arm.successes} of {len(arm.runs)}"
        for arm in sorted(found, key=delay_of)
    )
    return f"{solved} (mean accuracy {100 * mean_accuracy(found):.0f} %)"
