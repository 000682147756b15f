"""Tasks from a line of text: a name and options."""

from dataclasses import fields
from typing import Any

from flossing.errors import InvalidOptionError
from flossing.tasks.adding import AddingProblem
from flossing.tasks.base import Task
from flossing.tasks.copy_memory import CopyMemory
from flossing.tasks.delayed_copy import DelayedCopy
from flossing.tasks.digits import Digits
from flossing.tasks.xor import SpatialXor, TemporalXor

TASKS: dict[str, type[Task]] = {
    "adding-problem": AddingProblem,
    "copy-memory": CopyMemory,
    "delayed-copy": DelayedCopy,
    "digits": Digits,
    "spatial-xor": SpatialXor,
    "temporal-xor": TemporalXor,
}


def task_named(text: str) -> Task:
    """Return the task described by a line such as "delayed-copy:delay=20,steps=200".

    Args:
        text: The name of a task, optionally followed by a colon and comma-separated values of its
            fields.

    Returns:
        The task.

    Raises:
        InvalidOptionError: There is no such task or field, or a value is invalid.

    Example:
        >>> task_named("temporal-xor:delay=20,steps=100")
        TemporalXor(delay=20, steps=100, depth=1)
        >>> task_named("digits:rows=true").input_size
        8
    """
    name, _, settings = text.partition(":")
    if name not in TASKS:
        raise InvalidOptionError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    kind = TASKS[name]
    known = [field.name for field in fields(kind) if field.init]  # pyright: ignore[reportArgumentType]
    values: dict[str, Any] = {}
    for setting in settings.split(",") if settings else []:
        field, _, value = setting.partition("=")
        if field.strip() not in known or not value:
            raise InvalidOptionError(
                f"{setting!r} is no setting of the task {name!r}; write field=value, with the "
                f"fields {', '.join(known)}"
            )
        values[field.strip()] = _value(value.strip())
    return kind(**values)


def _value(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
