"""Measurements of untrained networks: run in parallel, and kept in a folder."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from flossing.errors import UnreadableFileError
from flossing.support.environment import environment
from flossing.support.strict_json import storable
from flossing_lab.runs.files import set_aside, write_whole
from flossing_lab.studies.study import Measurement, Study
from flossing_lab.sweeps.workers import opened

NOT_FINITE = ("inf", "-inf", "nan")
"""How JSON files hold numbers that JSON lacks; see `storable`."""


def measure_all(
    study: Study,
    settings: Sequence[Any],
    folder: Path,
    *,
    workers: int | None = None,
    dask: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Measurement]:
    """Measure every setting that the folder does not hold yet, and return all measurements.

    Args:
        study: its `measure` is called with each setting.
        settings: what to measure.
        folder: made if needed; a damaged file in it is renamed, with a `DamagedRunWarning`, and
            measured again.
        workers: number of processes; `None` for one per processor.
        dask: address of a Dask scheduler to use instead of processes.
        on_progress: called with the numbers of finished and of all measurements.

    Returns:
        The measurements in the order of their settings.
    """
    assert study.measure is not None
    report = on_progress or _ignore
    found = {setting: _finished(folder, study.name, setting) for setting in settings}
    missing = [setting for setting, each in found.items() if each is None]
    report(len(found) - len(missing), len(found))
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with opened(workers, dask) as place, place.executor(len(missing)) as pool:
            futures = {pool.submit(_measured, study.measure, each): each for each in missing}
            unfinished = set(futures)
            while unfinished:
                done, unfinished = wait(unfinished, return_when=FIRST_COMPLETED)
                for future in done:
                    setting, measurement = futures[future], future.result()
                    document = measurement_document(measurement)
                    sealed = {"sha256": _checksum(document), **document}
                    write_whole(_path(folder, study.name, setting), json.dumps(sealed).encode())
                    found[setting] = measurement
                report(len(found) - len(unfinished), len(found))
    return [each for setting in settings if (each := found[setting]) is not None]


def _ignore(done: int, total: int) -> None:
    del done, total


def finished_measurements(study: Study, settings: Sequence[Any], folder: Path) -> list[Measurement]:
    """Return the measurements that a folder holds already, in the order of their settings."""
    found = (_finished(folder, study.name, setting) for setting in settings)
    return [each for each in found if each is not None]


def measurement_from(document: dict[str, Any]) -> Measurement:
    """Return the measurement that `measurement_document` was called with."""
    return Measurement(
        setting=document["setting"],
        numbers=cast("dict[str, Any]", _decoded(document["numbers"])),
        seconds=document["seconds"],
        environment=document["environment"],
    )


def measurement_document(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement as strict JSON holds it.

    Example:
        >>> measurement = Measurement(setting={"k": 1}, numbers={"λ": [-float("inf")]}, seconds=1.0)
        >>> measurement_document(measurement)["numbers"]
        {'λ': ['-inf']}
        >>> measurement_from(measurement_document(measurement)) == measurement
        True
    """
    return json.loads(json.dumps(storable(asdict(measurement)), allow_nan=False))


def _decoded(value: object) -> object:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value)
        return {name: _decoded(item) for name, item in items.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in cast("list[object]", value)]
    return float(value) if isinstance(value, str) and value in NOT_FINITE else value


def _measured(measure: Callable[[Any], dict[str, Any]], setting: Any) -> Measurement:
    start = time.perf_counter()
    numbers = measure(setting)
    measurement = Measurement(
        setting=asdict(setting),
        numbers=numbers,
        seconds=float(f"{time.perf_counter() - start:.4g}"),
        environment=environment(),
    )
    # JSON turns tuples into lists: a fresh measurement must equal the one read from its file.
    return measurement_from(measurement_document(measurement))


def _path(folder: Path, name: str, setting: Any) -> Path:
    canonical = json.dumps([name, asdict(setting)], sort_keys=True, allow_nan=False)
    return folder / f"{name}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}.json"


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path, name: str, setting: Any) -> Measurement | None:
    path = _path(folder, name, setting)
    try:
        document = json.loads(path.read_bytes())
        if document.pop("sha256") != _checksum(document):
            raise ValueError("its content does not match its checksum")
        return measurement_from(document)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        set_aside(path, UnreadableFileError(f"{str(path)!r} is damaged ({error})"))
        return None
