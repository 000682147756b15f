"""The flossing schedules that the experiments compare, by name."""

import inspect
from collections.abc import Callable
from dataclasses import replace

from flossing.flosser import Flosser
from flossing_lab.runs.configuration import SCHEDULE_OPTIONS, Configuration, Flossing

TIME_STEPS = 55
"""Length of the flossing sequences; the exponents of the first 10 + 6 steps are not counted."""

PUBLISHED = {
    "before": 500,
    "every": 100,
    "steps": 500,
    "times": 2,
    "lr": 1e-3,
    "training_lr": 1e-3,
    "tolerance": None,
    "drift": None,
    "max_gradient_norm": None,
}

DEFAULT = {
    name: parameter.default
    for name, parameter in inspect.signature(Flosser).parameters.items()
    if name in SCHEDULE_OPTIONS
}
"""Written out, so that a configuration stays the same if the defaults change."""


def published(size: int, *, k: int | None = None, time_steps: int = TIME_STEPS) -> Flossing:
    """Return the schedule of the released code of Engelken (NeurIPS 2023).

    Args:
        size: number N of hidden units.
        k: number of exponents; `None` for 15/16 of N, as there 75 of 80.
        time_steps: length of the sequences.

    Example:
        >>> published(80).k
        75
    """
    return Flossing(k=k or max(1, size * 15 // 16), time_steps=time_steps, schedule=PUBLISHED)


def before_only(size: int, *, k: int | None = None, time_steps: int = TIME_STEPS) -> Flossing:
    """Return the published schedule without its episodes during training.

    Example:
        >>> before_only(80).schedule["times"]
        0
    """
    flossing = published(size, k=k, time_steps=time_steps)
    return replace(flossing, schedule=PUBLISHED | {"times": 0})


def default(size: int, *, k: int | None = None, time_steps: int = TIME_STEPS) -> Flossing:
    """Return the default schedule of `flossing.Flosser`, over all exponents.

    Example:
        >>> default(80).k
        80
    """
    return Flossing(k=k or size, time_steps=time_steps, schedule=DEFAULT)


SCHEDULES: dict[str, Callable[..., Flossing]] = {
    "published": published,
    "before": before_only,
    "default": default,
}


def scheduled(name: str, configuration: Configuration) -> Flossing:
    """Return a schedule of `SCHEDULES` for a configuration's network, sequences and step size.

    The default schedule flosses during training with the step size of training, and uses random
    windows of the sequences where the statistics of the inputs change along them.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture, Training
        >>> from flossing.tasks import DelayedCopy
        >>> short = Configuration(
        ...     task=DelayedCopy(delay=5, steps=30),
        ...     architecture=Architecture(),
        ...     training=Training(learning_rate=2e-4),
        ... )
        >>> flossing = scheduled("default", short)
        >>> flossing.time_steps, flossing.schedule["training_lr"], flossing.anywhere
        (30, 0.0002, False)
    """
    flossing = scheduled_of_full_length(name, configuration)
    return replace(flossing, time_steps=min(TIME_STEPS, configuration.task.steps))


def scheduled_of_full_length(name: str, configuration: Configuration) -> Flossing:
    """Return what `scheduled` does, but for sequences of any length, to be changed later."""
    flossing = SCHEDULES[name](configuration.architecture.size)
    if name != "default":
        return flossing
    own = {"training_lr": configuration.training.learning_rate}
    anywhere = not configuration.task.stationary
    return replace(flossing, anywhere=anywhere, schedule={**flossing.schedule, **own})
