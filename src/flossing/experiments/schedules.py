"""How networks are flossed, by name."""

from collections.abc import Callable

from flossing.experiments.configuration import Architecture, Flossing
from flossing.tasks import Task

TIME_STEPS = 55
SHARE = 75 / 80
"""Of the exponents, those that are flossed."""


def published(task: Task, architecture: Architecture) -> Flossing:
    """Return the schedule of the released code of Engelken (NeurIPS 2023).

    500 steps of Adam before training and 500 at each of the epochs 100 and 200, each on one fresh
    sequence of 55 time steps, of which 10 move the state and 6 align the frame; 75 exponents of a
    network of 80 units, the same share of another.

    Args:
        task: what is learned; one with shorter sequences is flossed over all of them.
        architecture: what learns it.

    Raises:
        InvalidOptionError: the task has fewer than 17 steps.

    Example:
        >>> from flossing.tasks import TemporalXor
        >>> flossing = published(TemporalXor(), Architecture(size=80))
        >>> flossing.k, flossing.time_steps, flossing.schedule["before"]
        (75, 55, 500)
    """
    return Flossing(
        k=max(1, round(SHARE * architecture.size)),
        time_steps=min(TIME_STEPS, task.steps),
        state_transient=10,
        frame_transient=6,
        schedule={"before": 500, "every": 100, "steps": 500, "times": 2, "lr": 1e-3},
    )


SCHEDULES: dict[str, Callable[[Task, Architecture], Flossing]] = {"published": published}
"""What a task and an architecture are flossed with, by the schedule's name."""
