"""The training runs of the figures: the set-up of the released code, in two sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TypeAlias

from flossing.tasks import AddingProblem, DelayedCopy, Digits, SpatialXor, Task, TemporalXor
from flossing_lab.runs.configuration import (
    Architecture,
    Configuration,
    Flossing,
    Training,
)
from flossing_lab.runs.differences import flossing_in_words
from flossing_lab.runs.outcomes import Arm
from flossing_lab.runs.schedules import before_only, default, published

TaskKind: TypeAlias = type[DelayedCopy] | type[TemporalXor] | type[SpatialXor]
MakeFlossing: TypeAlias = Callable[[int], Flossing | None]

NOTABLE = 0.02
"""A smaller difference of mean accuracies decides nothing."""

SHORTEST = 60
STEPS_PER_DELAY = 3
TITLES: Mapping[type, str] = {
    DelayedCopy: "Delayed copy",
    TemporalXor: "Temporal XOR",
    SpatialXor: "Spatial XOR",
}
SCHEDULE_TITLES = {
    "none": "not flossed",
    "before": "flossed before training",
    "published": "before and during (published)",
    "default": "before and during (our default)",
}


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """How much is run.

    Attributes:
        delays: largest lags of the task.
        seeds: networks of each kind.
        epochs: gradient steps, at most.
        patience: see `Training`.
        steps: length T of the sequences; `None` for three times the delay, at least 60.
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

    def length(self, delay: int) -> int:
        """Length T of the sequences for a delay."""
        return self.steps or max(SHORTEST, STEPS_PER_DELAY * delay)


def full_size(*delays: int) -> TrainingSize:
    """The paper's own size.

    Args:
        *delays: largest lags of the task.

    Example:
        >>> full_size(40).epochs
        10000
    """
    return TrainingSize(
        delays=delays, seeds=10, epochs=10_000, patience=0, steps=300, evaluate_every=100
    )


def no_flossing(size: int) -> Flossing | None:
    """What is done to networks that are not flossed.

    Args:
        size: number N of units.
    """
    del size


SCHEDULES: Mapping[str, MakeFlossing] = {
    "none": no_flossing,
    "before": before_only,
    "published": published,
    "default": default,
}


def training_configurations(
    kind: TaskKind,
    size: TrainingSize,
    flossings: Sequence[MakeFlossing],
    architecture: Architecture | None = None,
) -> list[Configuration]:
    """Return the runs of a task: every delay, with every flossing, from every seed.

    Args:
        kind: of the task.
        size: how much is run.
        flossings: what the networks are flossed with, by their number of units.
        architecture: `None` for that of the released code, of the size's number of units.
    """
    network = architecture or Architecture(size=size.network_size, form="rate")
    return [
        Configuration(
            task=kind(delay=delay, steps=size.length(delay)),
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
    """Return the largest lag of an arm's task, or what counts as one: see `delay_of_task`."""
    return delay_of_task(arm.configuration.task)


def delay_of_task(task: Task) -> int:
    """Return a task's largest lag, for how many steps a digit is held, or over how many is added.

    Args:
        task: one that has such a number.

    Raises:
        TypeError: it has none.
    """
    if isinstance(task, DelayedCopy | TemporalXor | SpatialXor):
        return task.delay
    if isinstance(task, Digits):
        return task.hold
    if isinstance(task, AddingProblem):
        return task.steps
    raise TypeError(f"a {type(task).__name__} has no delay")


def schedule_of(arm: Arm) -> str:
    """Return the name of the schedule that an arm's networks were flossed by, or "none"."""
    return flossing_in_words(arm.configuration).partition(",")[0]


def by_task(found: Sequence[Arm]) -> dict[type[Task], list[Arm]]:
    """Return arms by the kind of their task."""
    kinds: dict[type[Task], list[Arm]] = {}
    for arm in found:
        kinds.setdefault(type(arm.configuration.task), []).append(arm)
    return kinds


def by_schedule(found: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Return arms by the name of their schedule, each by delay."""
    schedules: dict[str, list[Arm]] = {}
    for arm in sorted(found, key=delay_of):
        schedules.setdefault(schedule_of(arm), []).append(arm)
    return {name: schedules[name] for name in SCHEDULES if name in schedules}


def longest_solved(found: Sequence[Arm]) -> int:
    """Return the largest delay that at least half the networks solve; 0 if there is none.

    Args:
        found: arms that differ in the delay.
    """
    return max((delay_of(arm) for arm in found if arm.success_rate >= 0.5), default=0)


def reaches_further(found: Sequence[Arm], others: Sequence[Arm]) -> bool | None:
    """Return whether longer delays are solved, or as long ones with better accuracy.

    Args:
        found: arms that differ in the delay.
        others: arms that they are compared with.

    Returns:
        `None` if neither reaches further: as long, and hardly a difference in mean accuracy.
    """
    own, other = longest_solved(found), longest_solved(others)
    if own != other:
        return own > other
    difference = mean_accuracy(found) - mean_accuracy(others)
    return None if abs(difference) < NOTABLE else difference > 0


def mean_accuracy(found: Sequence[Arm]) -> float:
    """Return the mean over delays of the median accuracy after training.

    Args:
        found: arms that differ in the delay.
    """
    return mean(arm.median_accuracy for arm in found)


def solved_in_words(found: Sequence[Arm]) -> str:
    """Return how many networks solved each delay, and the mean of the median accuracies.

    Args:
        found: arms that differ in the delay.
    """
    solved = ", ".join(
        f"d={delay_of(arm)}: {round(arm.success_rate * len(arm.runs))} of {len(arm.runs)}"
        for arm in sorted(found, key=delay_of)
    )
    return f"{solved} (mean accuracy {100 * mean_accuracy(found):.0f} %)"
