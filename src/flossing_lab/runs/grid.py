"""Configurations from the settings of a sweep's file, whose lists are crossed."""

import itertools
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from flossing_lab.runs.cost import require_affordable, require_few
from flossing_lab.runs.schedules import SCHEDULES, scheduled_of_full_length
from flossing_lab.runs.setups import SETUPS, SetupName, released_flossing

NONE = "none"

_TABLES = {"architecture": Architecture, "training": Training, "flossing": Flossing}

_TOP = (
    "evaluate_every",
    "evaluation_batch_size",
    "final_batch_size",
    "measured_exponents",
    "gradients",
    "divide_inputs",
    "unseen_input",
)


def read_grid(path: Path, *, setup: str | None = None) -> list[Configuration]:
    """Return the configurations of a TOML file; see `grid`.

    Args:
        path: of the file.
        setup: of a file that does not name one.

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
    return grid(document if setup is None else {"setup": setup, **document})


def grid(document: Mapping[str, Any]) -> list[Configuration]:
    """Return all combinations of the given values, each once; seeds vary fastest.

    Args:
        document: `task`, as `task_named` reads it; optionally `seeds`, a number of them, a list or
            a range; `floss`, "none" or a name of `SCHEDULES`; `setup`, a name of `SETUPS`, whose
            values hold where none are given; fields of `Configuration`; and tables
            `architecture` and `training` with fields of these, and `flossing` with fields and
            schedule options that replace those of the schedule. Any value but those of `seeds` and
            `setup` may be a list: lists are crossed.

    Raises:
        InvalidOptionError: an unknown name or invalid value, which the message names; or more runs,
            or larger ones, than any machine can do.

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
    # Each value is checked before any are combined, so that a message names its key.
    setup = _setup(document)
    axes = dict(_axes(_completed(document, setup)))
    if "task" not in axes:
        raise InvalidOptionError(
            'task is missing: write, for example, task = ["temporal-xor:delay=40"]'
        )
    seeds = _seeds(document.get("seeds", 1))
    require_few(len(seeds) * math.prod(len(values) for values in axes.values()))
    found: dict[str, Configuration] = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        for seed in seeds:
            configuration = _configuration(settings, seed, setup)
            found.setdefault(configuration.digest, configuration)
    require_affordable(found.values())
    return list(found.values())


def _setup(document: Mapping[str, Any]) -> SetupName:
    name = document.get("setup", "default")
    if name not in SETUPS:
        raise InvalidOptionError(f"setup is {name!r}; expected one of {', '.join(SETUPS)}")
    return name


def _completed(document: Mapping[str, Any], setup: SetupName) -> dict[str, Any]:
    """Return the document with the values of a set-up where it has none of its own."""
    values = SETUPS[setup]
    tables = {
        name: {**values.get(name, {}), **document[name]}
        for name in _TABLES
        if isinstance(document.get(name), Mapping)
    }
    return {**values, **document, **tables}


def _axes(document: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Return the values of every setting, those of a table under the name "table.setting"."""
    readers = _readers(Configuration, _TOP) | {"task": _task, "floss": _reader(str)}
    for table, kind in _TABLES.items():
        readers |= {f"{table}.{name}": read for name, read in _readers(kind).items()}
    del readers["flossing.schedule"]
    readers |= {f"flossing.{name}": _reader(kind) for name, kind in SCHEDULE_OPTIONS.items()}
    for name, value in _flat(document):
        if name not in readers:
            raise InvalidOptionError(
                f"{name} is no setting of a sweep; expected one of seeds, {', '.join(readers)}"
            )
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not values:
            raise InvalidOptionError(f"{name} is an empty list: give at least one value")
        yield name, [readers[name](name, each) for each in values]


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name in _TABLES:
            if not isinstance(value, Mapping):
                raise InvalidOptionError(f"{name} is {value!r}: write a table, [{name}]")
            table = cast("Mapping[str, Any]", value)
            yield from ((f"{name}.{key}", each) for key, each in table.items())
        elif name not in ("seeds", "setup"):
            yield name, value


def _readers(kind: Any, names: Sequence[str] | None = None) -> dict[str, Callable[[str, Any], Any]]:
    """Return functions that check the values of a dataclass's fields, by default of all."""
    hints = get_type_hints(kind)
    names = [each.name for each in fields(kind)] if names is None else names
    return {name: _reader(_type_of(hints[name])) for name in names}


def _type_of(hint: Any) -> type:
    """Return the type of a field's values in a file: without `None`, and `str` for a choice."""
    if get_origin(hint) is Literal:
        return str
    return next(each for each in get_args(hint) or (hint,) if each is not NoneType)


def _reader(kind: type) -> Callable[[str, Any], Any]:
    def read(name: str, value: Any) -> Any:
        # 1 and 1.0 must have the same digest.
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


def _seeds(value: Any) -> Sequence[int]:
    if isinstance(value, range):
        return value
    if type(value) is int and value >= 1:
        return range(value)
    if isinstance(value, list) and value:
        seeds = cast("list[Any]", value)
        if all(type(each) is int and each >= 0 for each in seeds):
            return seeds
    raise InvalidOptionError(
        f"seeds is {value!r}; expected how many, at least 1, or a list of whole numbers from 0"
    )


def _configuration(settings: Mapping[str, Any], seed: int, setup: SetupName) -> Configuration:
    def table(name: str) -> dict[str, Any]:
        return {
            key.removeprefix(f"{name}."): value
            for key, value in settings.items()
            if key.startswith(f"{name}.")
        }

    configuration = Configuration(
        task=settings["task"],
        architecture=Architecture(**table("architecture")),
        training=Training(**table("training")),
        seed=seed,
        **{name: settings[name] for name in _TOP if name in settings},
    )
    flossing = _flossing(settings.get("floss", NONE), configuration, table("flossing"), setup)
    return replace(configuration, flossing=flossing)


def _flossing(
    name: str, configuration: Configuration, settings: Mapping[str, Any], setup: SetupName
) -> Flossing | None:
    """Return a schedule for a configuration, with the settings in place of its own."""
    if name == NONE:
        return None
    if name not in SCHEDULES:
        raise InvalidOptionError(
            f"floss is {name!r}; expected one of {', '.join((NONE, *SCHEDULES))}"
        )
    own = {each.name for each in fields(Flossing)}
    flossing = scheduled_of_full_length(name, configuration)
    if setup == "released":
        flossing = released_flossing(flossing, configuration.architecture)
    # All changes at once: short sequences may do with shorter transients only.
    settings = {"time_steps": min(flossing.time_steps, configuration.task.steps), **settings}
    changed = {key: value for key, value in settings.items() if key not in own}
    return replace(
        flossing,
        **{key: value for key, value in settings.items() if key in own},
        schedule={**flossing.schedule, **changed},
    )
