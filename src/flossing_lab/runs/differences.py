"""Configurations in words: their settings, and the settings in which they differ."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.schedules import SCHEDULES, scheduled


def settings(configurations: Sequence[Configuration]) -> list[dict[str, str]]:
    """Return each configuration's task, flossing, and other settings in which they differ.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> task = DelayedCopy()
        >>> sizes = [Configuration(task=task, architecture=Architecture(size=n)) for n in (8, 16)]
        >>> settings(sizes)[1]
        {'task': 'delayed-copy:delay=40', 'size': '16', 'flossing': 'none'}
    """
    flat = [_flat(configuration) for configuration in configurations]
    varying = [
        name
        for name in (flat[0] if flat else {})
        if name in ("task", "flossing") or len({each[name] for each in flat}) > 1
    ]
    return [{name: each[name] for name in varying} for each in flat]


def task_in_words(configuration: Configuration) -> str:
    """Return the task as `task_named` reads it, with its delay and options not at their default.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import Digits
        >>> task_in_words(Configuration(task=Digits(rows=True), architecture=Architecture()))
        'digits:rows=true'
    """
    values = dict(configuration.document()["task"])
    name = values.pop("name")
    defaults = {each.name: each.default for each in fields(configuration.task)}  # pyright: ignore[reportArgumentType]
    options = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in values.items()
        if key == "delay" or value != defaults[key]
    ]
    return f"{name}:{','.join(options)}" if options else name


def run_in_words(configuration: Configuration) -> str:
    """Return what tells a run from others of a sweep, in a line.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> run_in_words(Configuration(task=DelayedCopy(), architecture=Architecture(), seed=3))
        'delayed-copy:delay=40, tanh, size 80, flossing none, seed 3'
    """
    architecture = configuration.architecture
    return (
        f"{task_in_words(configuration)}, {architecture.cell}, size {architecture.size}, "
        f"flossing {flossing_in_words(configuration)}, seed {configuration.seed}"
    )


def flossing_in_words(configuration: Configuration) -> str:
    """Return the name of the nearest schedule, and the options that differ from it.

    Example:
        >>> from dataclasses import replace
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> flossed = Configuration(
        ...     task=DelayedCopy(),
        ...     architecture=Architecture(),
        ...     flossing=SCHEDULES["published"](80),
        ... )
        >>> flossing_in_words(replace(flossed, flossing=replace(flossed.flossing, k=16)))
        'published, k=16'
    """
    if configuration.flossing is None:
        return "none"
    own = _flossing_settings(configuration.flossing)
    candidates: list[list[str]] = []
    for name in SCHEDULES:
        schedule = _flossing_settings(scheduled(name, configuration))
        different = [
            f"{key}={own.get(key, 'default')}"
            for key in schedule | own
            if own.get(key) != schedule.get(key)
        ]
        candidates.append([name, *different])
    return ", ".join(min(candidates, key=len))


def _flat(configuration: Configuration) -> dict[str, str]:
    top = _values(configuration)
    for name in ("task", "flossing", "seed"):
        top.pop(name)
    parts = (_values(top.pop("architecture")), _values(top.pop("training")), top)
    others = {name.replace("_", " "): str(value) for part in parts for name, value in part.items()}
    return {
        "task": task_in_words(configuration),
        **others,
        "flossing": flossing_in_words(configuration),
    }


def _flossing_settings(flossing: Flossing) -> dict[str, Any]:
    own = _values(flossing)
    return own | dict(own.pop("schedule"))


def _values(part: Architecture | Training | Flossing | Configuration) -> dict[str, Any]:
    return {each.name: getattr(part, each.name) for each in fields(part)}
