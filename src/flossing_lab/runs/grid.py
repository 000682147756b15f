"""Configurations from settings that are fixed or crossed, as a sweep's file tells them."""

import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from flossing.errors import InvalidOptionError, UnreadableFileError
from flossing.support.tensor_files import require_file
from flossing.tasks.named import task_named
from flossing_lab.runs.configuration import (
    SCHEDULE_OPTIONS,
    Architecture,
    Configuration,
    Flossing,
    Training,
)
from flossing_lab.runs.schedules import SCHEDULES, scheduled

NONE = "none"

_EVALUATION = (
    "evaluate_every",
    "evaluation_batch_size",
    "final_batch_size",
    "measured_exponents",
    "gradients",
)


def read_grid(path: Path) -> list[Configuration]:
    """Return the configurations that a TOML file tells; see `grid`.

    Args:
        path: of the file.

    Raises:
        UnreadableFileError: there is no such file, or it is not TOML.
        InvalidOptionError: see `grid`.
    """
    require_file(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnreadableFileError(
            f'{str(path)!r} is not TOML ({error}): write lines such as task = "temporal-xor"'
        ) from error
    return grid(document)


def grid(document: Mapping[str, Any]) -> list[Configuration]:
    """Return all combinations of the values told, each once, those of an arm after one another.

    Args:
        document: `task`, as `task_named` reads it; optionally `seeds`, a number of them or a list;
            `floss`, "none" or a name of `SCHEDULES`; fields of `Configuration`; and tables
            `architecture` and `training` with fields of these, and `flossing` with fields and
            options of the schedule that replace its own. Any value but that of `seeds` may be a
            list: these are crossed.

    Raises:
        InvalidOptionError: a name is unknown, or a value is not what it may be; the message names
            it.

    Example:
        >>> configurations = grid(
        ...     {
        ...         "task": "delayed-copy:delay=5,steps=20",
        ...         "floss": ["none", "published"],
        ...         "seeds": 3,
        ...         "architecture": {"size": [16, 32]},
        ...     }
        ... )
        >>> len(configurations), [each.seed for each in configurations[:3]]
        (12, [0, 1, 2])
    """
    # Told from what is known before anything is combined, so that a message names one key.
    axes = dict(_axes(document))
    if "task" not in axes:
        raise InvalidOptionError(
            'task is missing: write, for example, task = ["temporal-xor:delay=40"]'
        )
    seeds = _seeds(document.get("seeds", 1))
    found: dict[str, Configuration] = {}
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        for seed in seeds:
            configuration = _configuration(cell, seed)
            found.setdefault(configuration.digest, configuration)
    return list(found.values())


def flossing_named(
    name: str, configuration: Configuration, settings: Mapping[str, Any]
) -> Flossing | None:
    """Return what a configuration is flossed with.

    Args:
        name: "none" or a name of `SCHEDULES`.
        configuration: whose size the schedule suits.
        settings: fields of `Flossing` and options of the schedule that replace its own.

    Raises:
        InvalidOptionError: the name is unknown, or a value is not what it may be.
    """
    if name == NONE:
        return None
    if name not in SCHEDULES:
        raise InvalidOptionError(
            f"floss is {name!r}; expected one of {', '.join((NONE, *SCHEDULES))}"
        )
    own = {each.name for each in fields(Flossing)}
    flossing = scheduled(name, configuration)
    changed = {key: value for key, value in settings.items() if key not in own}
    return replace(
        flossing,
        **{key: value for key, value in settings.items() if key in own},
        schedule={**flossing.schedule, **changed},
    )


def _axes(document: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    tables: dict[str, dict[str, Callable[[str, Any], Any]]] = {
        "architecture": _readers(Architecture),
        "training": _readers(Training),
        "flossing": _readers(Flossing, leave_out=("schedule",))
        | {name: _reader(kind) for name, kind in SCHEDULE_OPTIONS.items()},
    }
    top = {name: _readers(Configuration)[name] for name in _EVALUATION}
    top |= {"task": _task, "floss": _reader(str)}
    _require_known(document, [*top, "seeds", *tables], "")
    for name, value in document.items():
        if name in top:
            yield name, _values(name, value, top[name])
        elif name in tables:
            if not isinstance(value, Mapping):
                raise InvalidOptionError(f"{name} is {value!r}: write a table, [{name}]")
            table = cast("Mapping[str, Any]", value)
            _require_known(table, list(tables[name]), f"{name}.")
            for key, each in table.items():
                yield f"{name}.{key}", _values(f"{name}.{key}", each, tables[name][key])


def _require_known(given: Mapping[str, Any], known: list[str], prefix: str) -> None:
    for name in given:
        if name not in known:
            raise InvalidOptionError(
                f"{prefix}{name} is no setting of a sweep; expected one of "
                f"{', '.join(prefix + each for each in known)}"
            )


def _values(name: str, value: Any, read: Callable[[str, Any], Any]) -> list[Any]:
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not values:
        raise InvalidOptionError(f"{name} is an empty list: give at least one value")
    return [read(name, each) for each in values]


def _readers(kind: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Callable[[str, Any], Any]]:
    hints = get_type_hints(kind)
    names = [each.name for each in fields(kind) if each.name not in leave_out]
    return {name: _reader(_type_of(hints[name])) for name in names}


def _type_of(hint: Any) -> type:
    """The type of a field's values that can be told: without `None`, and text for a choice."""
    if get_origin(hint) is Literal:
        return str
    (kind,) = (each for each in get_args(hint) or (hint,) if each is not NoneType)
    return kind


def _reader(kind: type) -> Callable[[str, Any], Any]:
    def read(name: str, value: Any) -> Any:
        # 1 and 1.0 are the same to a reader, and so must be to a digest.
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            shown = {"str": "text", "int": "a whole number", "float": "a number"}
            expected = shown.get(kind.__name__, "true or false")
            raise InvalidOptionError(
                f"{name} is {value!r} ({type(value).__name__}); expected {expected}"
            )
        return value

    return read


def _task(name: str, value: Any) -> Any:
    try:
        return task_named(_reader(str)(name, value))
    except (InvalidOptionError, TypeError) as error:
        raise InvalidOptionError(f"{name} is {value!r}: {error}") from error


def _seeds(value: Any) -> list[int]:
    if type(value) is int and value >= 1:
        return list(range(value))
    if isinstance(value, list) and value:
        seeds = cast("list[Any]", value)
        if all(type(each) is int and each >= 0 for each in seeds):
            return seeds
    raise InvalidOptionError(
        f"seeds is {value!r}; expected how many, at least 1, or a list of whole numbers from 0"
    )


def _configuration(cell: Mapping[str, Any], seed: int) -> Configuration:
    def table(name: str) -> dict[str, Any]:
        start = f"{name}."
        return {
            key.removeprefix(start): value for key, value in cell.items() if key.startswith(start)
        }

    configuration = Configuration(
        task=cell["task"],
        architecture=Architecture(**table("architecture")),
        training=Training(**table("training")),
        seed=seed,
        **{name: cell[name] for name in _EVALUATION if name in cell},
    )
    flossing = flossing_named(cell.get("floss", NONE), configuration, table("flossing"))
    return replace(configuration, flossing=flossing)
