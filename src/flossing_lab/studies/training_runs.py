"""Training runs of figures 3 to 6, in the set-up of the released code, and comparisons of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from flossing.tasks import AddingProblem, DelayedCopy, Digits, SpatialXor, Task, TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.differences import flossing_in_words
from flossing_lab.runs.outcomes import Arm
from flossing_lab.runs.schedules import before_only, default, published
from flossing_lab.studies.judging import Count, ExactTest, more_often
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

FULL_DELAYS = (70, 40, 100, 20, 10, 30, 50, 60, 80, 90)
"""Delays of the full size, in the order of what they decide."""

DECIDING_SEEDS = 10
"""Number of networks in the full size where a statement hangs on a single delay."""

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
        solved: see `Training`.
        steps: sequence length T; `None` for three times the delay, at least 60.
        network_size: number N of units.
        evaluate_every: epochs between evaluations.
    """

    delays: tuple[int, ...]
    seeds: int = 3
    epochs: int = 2000
    patience: int = 3
    solved: float = 0.995
    steps: int | None = None
    network_size: int = 80
    evaluate_every: int = 50


def full_size(*delays: int, seeds: int = 3) -> TrainingSize:
    """Return the paper's size; training ends when a network has solved its task.

    In the set-up of the released code the first answer that counts depends on an input that was
    not seen, so that no network exceeds 99.8 %: one that stays at 99 % has solved its task.

    Example:
        >>> full_size(40).epochs
        10000
    """
    return TrainingSize(
        delays=delays, seeds=seeds, epochs=10_000, solved=0.99, steps=300, evaluate_every=100
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
            training=Training(epochs=size.epochs, patience=size.patience, solved=size.solved),
            flossing=make(network.size),
            seed=seed,
            evaluate_every=size.evaluate_every,
            gradients=True,
        )
        for delay in size.delays
        for make in flossings
        for seed in range(size.seeds)
    ]


def each_once(configurations: Iterable[Configuration]) -> list[Configuration]:
    """Return the configurations without repetitions, in the order in which they first appear."""
    return list({each.digest: each for each in configurations}.values())


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


def solved_count(arm: Arm) -> Count:
    """Return how many networks of an arm solved their task."""
    return Count(arm.successes, len(arm.runs))


def solved_more(found: Sequence[Arm], others: Sequence[Arm]) -> ExactTest:
    """Return whether more networks solved their task, at the delays that both were trained on."""
    counts = {delay_of(arm): solved_count(arm) for arm in others}
    return more_often(
        [(solved_count(arm), counts[delay_of(arm)]) for arm in found if delay_of(arm) in counts]
    )


def solved_in_words(found: Sequence[Arm]) -> str:
    """Return the number of networks that solved each delay."""
    return ", ".join(
        f"d={delay_of(arm)}: {arm.successes} of {len(arm.runs)}"
        for arm in sorted(found, key=delay_of)
    )
