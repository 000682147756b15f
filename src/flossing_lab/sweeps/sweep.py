"""Runs of many configurations side by side, kept in a folder so that nothing is run twice."""

import contextlib
import json
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from flossing.errors import InvalidOptionError, UnreadableFileError
from flossing.support.checks import require_integer
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.differences import run_in_words
from flossing_lab.runs.records import Run
from flossing_lab.runs.store import Group, Store
from flossing_lab.sweeps.planning import MayRunTogether, plan
from flossing_lab.sweeps.workers import Cluster, Processes, opened
from flossing_lab.training import trainer

Phase: TypeAlias = Literal["waiting", "flossing", "training", "finished", "failed"]

RunTogether: TypeAlias = Callable[..., list[Run]]
"""Called with configurations, `checkpoint`, a path, and `report`, a function of the phase, the
steps of it that are done, and their number."""

PROGRESS_INTERVAL = 0.2
"""Seconds between two reports of a worker, and between two readings of them."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a group.

    Attributes:
        configurations: of the group.
        phase: of the group.
        done: steps of the phase that are done.
        total: steps of the phase.
    """

    configurations: tuple[Configuration, ...]
    phase: Phase
    done: int = 0
    total: int = 0


class WorkerTraceback(Exception):  # noqa: N818
    """Traceback of an error in a worker."""


def sweep(
    configurations: Sequence[Configuration],
    folder: Path | None = None,
    *,
    workers: int | None = None,
    dask: str | None = None,
    place: Processes | Cluster | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    run_together: RunTogether | None = None,
    may_run_together: MayRunTogether | None = None,
) -> list[Run]:
    """Run configurations side by side.

    Runs that are finished in the folder are not run again; interrupted ones resume from their last
    checkpoint; a damaged file is set aside with a warning and its configuration run again. Sweeps
    may share a folder. A group whose worker dies is resumed.

    Args:
        configurations: to run; the same one twice is run once.
        folder: where the runs are kept, created if needed; `None` to keep nothing.
        workers: number of processes, each of one torch thread; `None` for one a processor.
        dask: address of a Dask scheduler whose workers are used instead; they must see the folder
            under the same path.
        place: where the groups run, instead of `workers` and `dask`.
        on_progress: called in this process, periodically, for every group: first with the phase
            "waiting", last with "finished" or "failed".
        run_together: runs a group; `None` for `flossing_lab.training.trainer.run_together`.
        may_run_together: whether two configurations can be in one group; `None` for
            `flossing_lab.training.trainer.may_run_together`.

    Returns:
        A run for each configuration, in the same order.

    Raises:
        Exception: the first error of a run, with a note that names the run, once all other runs
            are finished and kept.
        InvalidOptionError: an invalid option value.
        ImportError: joblib is missing, or distributed with `dask`.
    """
    if workers is not None:
        require_integer("workers", workers, at_least=1)
        if dask is not None:
            raise InvalidOptionError(
                f"workers is {workers} and dask is {dask!r}: the cluster has its own workers; "
                "pass one of the two"
            )
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # Workers of a cluster may have another current folder.
        store = Store(folder.resolve())
        wanted = {each.digest: each for each in configurations}
        runs = _finished(store, wanted.values())
        missing = [each for digest, each in wanted.items() if digest not in runs]
        failures: dict[str, _Failure] = {}
        if missing:
            place = place or stack.enter_context(opened(workers, dask))
            together = may_run_together or trainer.may_run_together
            groups = plan(missing, store, workers=place.count, may_run_together=together)
            task = _Task(run_together or trainer.run_together)
            failures = _run_all(groups, task, place, on_progress or _no_report)
            runs |= _finished(store, missing)
            store.tidy()
        _raise_first(failures, wanted)
        for digest, configuration in wanted.items():
            if digest not in runs:
                raise UnreadableFileError(
                    f"a worker has finished, but there is no {str(store.path(configuration))!r}: "
                    "the workers write to a folder that is not seen here; choose one that all share"
                )
        return [runs[each.digest] for each in configurations]


class _Failure(NamedTuple):
    error: Exception
    traceback: str


@dataclass(frozen=True)
class _Task:
    """Runs a group in a worker; returns failures by the configuration's digest."""

    run_together: RunTogether

    def __call__(self, group: Group) -> dict[str, _Failure]:
        with group.claimed():
            # Another sweep may have finished some, or a worker that died before it could return.
            missing = [each for each in group.configurations if not group.store.finished(each)]
            failure = self._run(group, missing) if missing else None
            if failure and len(missing) == 1:
                return {missing[0].digest: failure}
            group.clear()
        failures: dict[str, _Failure] = {}
        if failure:
            # Alone, all but the one that fails can finish.
            for configuration in missing:
                failures |= self(Group(group.store, (configuration,)))
        return failures

    def _run(self, group: Group, missing: Sequence[Configuration]) -> _Failure | None:
        report = _Reporter(group.progress)
        try:
            for run in self.run_together(missing, checkpoint=group.checkpoint, report=report):
                group.store.write(run)
        except Exception as error:
            return _failure(error)
        return None


@dataclass
class _Reporter:
    """Writes the progress of a group to a file, periodically."""

    path: Path
    last: float = field(default=0.0)

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last >= PROGRESS_INTERVAL or done == total:
            self.last = now
            self.path.write_text(json.dumps([phase, done, total]), encoding="utf-8")


def _run_all(
    groups: Sequence[Group],
    task: _Task,
    place: Processes | Cluster,
    report: Callable[[Progress], None],
) -> dict[str, _Failure]:
    for group in groups:
        report(Progress(configurations=group.configurations, phase="waiting"))
    failures: dict[str, _Failure] = {}
    with place.executor(len(groups)) as pool:
        running = {pool.submit(task, group): group for group in groups}
        while running:
            done, _ = wait(running, timeout=PROGRESS_INTERVAL, return_when=FIRST_COMPLETED)
            for future in done:
                group = running.pop(future)
                failed = _failures(future, group)
                failures |= failed
                phase = "failed" if failed else "finished"
                report(Progress(configurations=group.configurations, phase=phase))
            for group in running.values():
                # Missing before the first report, cut off while the worker writes it.
                with contextlib.suppress(OSError, ValueError):
                    phase, steps, total = json.loads(group.progress.read_bytes())
                    report(
                        Progress(
                            configurations=group.configurations,
                            phase=phase,
                            done=steps,
                            total=total,
                        )
                    )
    return failures


def _failures(future: "Future[dict[str, _Failure]]", group: Group) -> dict[str, _Failure]:
    try:
        return future.result()
    # The worker died, or could not be reached.
    except Exception as error:
        return dict.fromkeys((each.digest for each in group.configurations), _failure(error))


def _failure(error: Exception) -> _Failure:
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    # Errors of other libraries may not survive pickling.
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _Failure(error, where)


def _finished(store: Store, configurations: Iterable[Configuration]) -> dict[str, Run]:
    found = {each.digest: store.finished(each) for each in configurations}
    return {digest: run for digest, run in found.items() if run is not None}


def _raise_first(failures: dict[str, _Failure], wanted: dict[str, Configuration]) -> None:
    for digest, failure in failures.items():
        configuration = wanted[digest]
        failure.error.add_note(f"This happened in the run {run_in_words(configuration)}.")
        if len(failures) > 1:
            failure.error.add_note(f"{len(failures)} runs have failed; the others are finished.")
        raise failure.error from WorkerTraceback(
            f"in a worker, in the run {json.dumps(configuration.document())}:\n{failure.traceback}"
        )


def _no_report(progress: Progress) -> None:
    del progress
