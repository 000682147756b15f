"""Measurements of networks that are not trained: side by side, into a folder, each done once."""

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flossing.errors import DamagedRunWarning
from flossing.support.environment import environment
from flossing.support.strict_json import storable
from flossing_lab.runs.files import write_whole
from flossing_lab.studies.study import Measurement, Study
from flossing_lab.sweeps.workers import opened


def measure_all(
    study: Study,
    settings: Sequence[Any],
    folder: Path,
    *,
    workers: int | None = None,
    dask: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Measurement]:
    """Measure what is not in the folder yet.

    Args:
        study: whose `measure` is called, once a setting.
        settings: what is measured.
        folder: where the measurements are kept, made if needed; a file that is not whole is set
            aside with a warning and measured again.
        workers: number of processes; `None` for one a processor.
        dask: address of a Dask scheduler whose workers are used instead.
        on_progress: called with how many are done, and how many there are.

    Returns:
        A measurement for each setting, in the same order.

    Raises:
        Exception: whatever `measure` raises.
    """
    report = on_progress or _no_report
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
                    _write(_path(folder, study.name, setting), measurement)
                    found[setting] = measurement
                report(len(found) - len(unfinished), len(found))
    return [each for setting in settings if (each := found[setting]) is not None]


def finished_measurements(study: Study, settings: Sequence[Any], folder: Path) -> list[Measurement]:
    """Return the measurements that are in a folder already, in the order of their settings.

    Args:
        study: that they belong to.
        settings: what may have been measured.
        folder: where the measurements are kept.
    """
    found = (_finished(folder, study.name, setting) for setting in settings)
    return [each for each in found if each is not None]


def measurement_from(document: dict[str, Any]) -> Measurement:
    """Return what `measurement_document` was taken of.

    Args:
        document: as read from JSON.
    """
    return Measurement(
        setting=document["setting"],
        numbers=document["numbers"],
        seconds=document["seconds"],
        environment=document["environment"],
    )


def measurement_document(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement as strict JSON has it.

    Args:
        measurement: any.

    Example:
        >>> measurement = Measurement(setting={"seed": 0}, numbers={"λ₁": -0.5}, seconds=1.0)
        >>> measurement_from(measurement_document(measurement)) == measurement
        True
    """
    return json.loads(json.dumps(storable(asdict(measurement)), allow_nan=False))


def _measured(measure: Callable[[Any], dict[str, Any]], setting: Any) -> Measurement:
    start = time.perf_counter()
    numbers = measure(setting)
    measurement = Measurement(
        setting=asdict(setting),
        numbers=numbers,
        seconds=float(f"{time.perf_counter() - start:.4g}"),
        environment=environment(),
    )
    # As it will be read, so that what is drawn does not depend on what was there before.
    return measurement_from(measurement_document(measurement))


def _path(folder: Path, name: str, setting: Any) -> Path:
    canonical = json.dumps([name, asdict(setting)], sort_keys=True, allow_nan=False)
    return folder / f"{name}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}.json"


def _write(path: Path, measurement: Measurement) -> None:
    document = measurement_document(measurement)
    write_whole(path, json.dumps({"sha256": _seal(document), **document}).encode())


def _seal(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path, name: str, setting: Any) -> Measurement | None:
    path = _path(folder, name, setting)
    try:
        document = json.loads(path.read_bytes())
        if document.pop("sha256") != _seal(document):
            raise ValueError("its content is not that of its checksum")
        return measurement_from(document)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        with contextlib.suppress(FileNotFoundError):
            path.replace(aside)
        warnings.warn(
            f"{str(path)!r} is damaged ({error}); it is set aside as {aside.name!r}",
            DamagedRunWarning,
            stacklevel=3,
        )
        return None


def _no_report(done: int, total: int) -> None:
    del done, total
