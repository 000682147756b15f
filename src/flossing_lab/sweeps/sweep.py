"""Many configurations to runs: side by side, into a folder, so that nothing is run twice."""

import contextlib
import json
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from flossing.errors import InvalidOptionError, UnreadableFileError
from flossing.support.checks import require_integer
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import Run
from flossing_lab.runs.store import Group, Store
from flossing_lab.sweeps.planning import MayRunTogether, plan
from flossing_lab.sweeps.workers import Cluster, Processes, opened
from flossing_lab.training import trainer

Phase: TypeAlias = Literal["waiting", "flossing", "training", "finished", "failed"]

RunTogether: TypeAlias = Callable[..., list[Run]]
"""Called with configurations, `checkpoint`, a path, and `report`, which takes the phase, the
epochs of it that are done, and how many there are."""

SECONDS_BETWEEN_LOOKS = 0.2
ROUNDS = 3
"""So often in a row may a worker process die before the groups are run one at a time."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a group has come.

    Attributes:
        configurations: the group.
        phase: what it is doing.
        done: epochs of the phase that are done.
        total: epochs of the phase.
    """

    configurations: tuple[Configuration, ...]
    phase: Phase
    done: int = 0
    total: int = 0


class WorkerTraceback(Exception):  # noqa: N818
    """Where in a worker process an error was raised."""


def sweep(
    configurations: Sequence[Configuration],
    folder: Path | None = None,
    *,
    workers: int | None = None,
    dask: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    run_together: RunTogether | None = None,
    may_run_together: MayRunTogether | None = None,
) -> list[Run]:
    """Run configurations side by side, those that differ little as one model.

    What is finished in the folder is not run again; what was interrupted goes on from its last
    checkpoint; a file that is not whole is set aside with a warning and run again. Sweeps that
    share a folder do not harm one another. Where a worker process dies, its runs are resumed.

    Args:
        configurations: what is run; the same one twice is run once.
        folder: where the runs are kept, made if needed; `None` to keep nothing.
        workers: number of processes, each of one torch thread; `None` for one a processor. With
            one worker all that may run together is one model.
        dask: address of a Dask scheduler whose workers are used instead; they must see the folder
            under the same path.
        on_progress: called in this process, now and then, for every group: first with the phase
            "waiting" for all that is run, last with "finished" or "failed".
        run_together: what runs a group; `None` for `flossing_lab.training.trainer.run_together`.
        may_run_together: what tells whether two configurations can be in one group; `None` for
            `flossing_lab.training.trainer.may_run_together`.

    Returns:
        A run for each configuration, in the same order.

    Raises:
        Exception: the first that a run raised, with a note on which run it was, once all other
            runs are finished and kept.
        InvalidOptionError: an option outside what it may be.
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
        failures: dict[str, Failure] = {}
        if missing:
            place = stack.enter_context(opened(workers, dask))
            together = may_run_together or trainer.may_run_together
            groups = plan(missing, store, workers=place.count, may_run_together=together)
            task = _Task(run_together or trainer.run_together)
            failures = _Round(place, task, on_progress or _no_report).run(groups)
            runs |= _finished(store, missing)
            store.tidy()
        _raise_first(failures, wanted)
        _require_all(runs, wanted, store)
        return [runs[each.digest] for each in configurations]


@dataclass(frozen=True)
class Failure:
    """What a run raised.

    Attributes:
        error: the error.
        where: its traceback.
    """

    error: Exception
    where: str


@dataclass(frozen=True)
class _Task:
    """What a worker does with a group; returns failures by the configuration's digest."""

    run_together: RunTogether

    def __call__(self, group: Group) -> dict[str, Failure]:
        with group.claimed():
            # Finished meanwhile by another sweep, or by a worker that died before it could tell.
            members = group.configurations
            missing = [each for each in members if group.store.finished(each) is None]
            try:
                if missing:
                    for run in self._run(group, missing):
                        group.store.write(run)
            except Exception as error:
                if len(missing) == 1:
                    return {missing[0].digest: _failure(error)}
            else:
                missing = []
            group.clear()
        # One that fails must not take along those that it was run with.
        failures: dict[str, Failure] = {}
        for configuration in missing:
            failures |= self(Group(group.store, (configuration,)))
        return failures

    def _run(self, group: Group, configurations: Sequence[Configuration]) -> list[Run]:
        return self.run_together(
            configurations, checkpoint=group.checkpoint, report=_Reporter(group.progress)
        )


@dataclass
class _Reporter:
    """Leaves word of the progress where the process that waits can read it."""

    path: Path
    last: float = field(default=0.0)

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LOOKS or done == total:
            self.last = now
            self.path.write_text(json.dumps([phase, done, total]), encoding="utf-8")


@dataclass(frozen=True)
class _Round:
    """Has groups worked on until all are finished or have failed."""

    place: Processes | Cluster
    task: _Task
    report: Callable[[Progress], None]

    def run(self, groups: Sequence[Group]) -> dict[str, Failure]:
        for group in groups:
            self.report(Progress(configurations=group.configurations, phase="waiting"))
        failures: dict[str, Failure] = {}
        remaining = list(groups)
        deaths = 0
        while remaining and deaths < ROUNDS:
            try:
                for group, failed in self._outcomes(remaining):
                    remaining.remove(group)
                    failures |= failed
                    deaths = 0
            except BrokenExecutor:
                deaths += 1
        # One at a time, it is known whose worker dies, and the others can finish.
        for group in list(remaining):
            try:
                for _, failed in self._outcomes([group]):
                    failures |= failed
            except BrokenExecutor as error:
                self._finish(group, failed=True)
                failures |= dict.fromkeys((e.digest for e in group.configurations), _failure(error))
        return failures

    def _outcomes(self, groups: Sequence[Group]) -> Iterator[tuple[Group, dict[str, Failure]]]:
        with self.place.executor(len(groups)) as pool:
            futures = {pool.submit(self.task, group): group for group in list(groups)}
            unfinished = set(futures)
            while unfinished:
                done, unfinished = wait(
                    unfinished, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED
                )
                self._report_progress([futures[future] for future in unfinished])
                for future in sorted(done, key=_is_broken):
                    failed = _outcome(future, futures[future])
                    self._finish(futures[future], failed=bool(failed))
                    yield futures[future], failed

    def _finish(self, group: Group, *, failed: bool) -> None:
        phase = "failed" if failed else "finished"
        self.report(Progress(configurations=group.configurations, phase=phase))

    def _report_progress(self, groups: Sequence[Group]) -> None:
        if not groups:
            return
        there = set(groups[0].store.unfinished.glob("*.progress"))
        for group in groups:
            if group.progress in there:
                with contextlib.suppress(OSError, ValueError):
                    phase, done, total = json.loads(group.progress.read_bytes())
                    members = group.configurations
                    self.report(
                        Progress(configurations=members, phase=phase, done=done, total=total)
                    )


def _is_broken(future: "Future[Any]") -> bool:
    return not future.cancelled() and isinstance(future.exception(), BrokenExecutor)


def _outcome(future: "Future[dict[str, Failure]]", group: Group) -> dict[str, Failure]:
    try:
        return future.result()
    except BrokenExecutor:
        raise
    except Exception as error:
        return dict.fromkeys((each.digest for each in group.configurations), _failure(error))


def _failure(error: Exception) -> Failure:
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    # Errors of other libraries can fail to be pickled, or read back, in any way.
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(error, where)


def _finished(store: Store, configurations: Any) -> dict[str, Run]:
    found = {each.digest: store.finished(each) for each in configurations}
    return {digest: run for digest, run in found.items() if run is not None}


def _raise_first(failures: dict[str, Failure], wanted: dict[str, Configuration]) -> None:
    for digest, failure in failures.items():
        document = json.dumps(wanted[digest].document())
        failure.error.add_note(f"This happened in the run with the configuration {document}.")
        if len(failures) > 1:
            failure.error.add_note(f"{len(failures)} runs have failed; the others are finished.")
        raise failure.error from WorkerTraceback(f"in a worker:\n{failure.where}")


def _require_all(runs: dict[str, Run], wanted: dict[str, Configuration], store: Store) -> None:
    for digest, configuration in wanted.items():
        if digest not in runs:
            raise UnreadableFileError(
                f"a worker has finished, but there is no {str(store.path(configuration))!r}: the "
                "workers write to a folder that is not seen here; choose one that all share"
            )


def _no_report(progress: Progress) -> None:
    del progress
