"""Runs in worker processes of one torch thread each, with live progress and fast failure."""

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from queue import Empty
from typing import cast

import torch
from torch import nn

from flossing.backends import compile_ahead
from flossing.experiments.environment import available_processors
from flossing.experiments.training import Configuration, Phase, Record, run

REPORT_EVERY = 5
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come.

    Attributes:
        index: Which of the runs.
        phase: What it is doing.
        done: Steps of the phase that are done.
        total: Steps of the phase.
    """

    index: int
    phase: Phase
    done: int
    total: int


class StoppedError(RuntimeError):
    """A run was given up because another one failed."""


@dataclass(frozen=True)
class _Channel:
    progress: "Queue[Progress]"
    stop: Event


_channel: _Channel | None = None


def run_all(
    configurations: Sequence[Configuration],
    seed: int,
    *,
    workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """Run configurations side by side, as many at a time as there are processors.

    Args:
        configurations: What to run, begun in this order: the longest first wastes least time.
        seed: The seed of every run.
        workers: Number of processes; `None` for one a processor.
        on_progress: Called in this process, now and then.

    Returns:
        Their records, in the same order.

    Raises:
        Exception: The first exception of a run, with a note on which run it was; the others are
            given up.
    """
    compile_for_workers()
    context = multiprocessing.get_context("spawn")
    channel = _Channel(context.Queue(), context.Event())
    count = min(workers or available_processors(), len(configurations))
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin_worker, initargs=(channel,)
    ) as pool:
        futures = [
            pool.submit(_run_in_worker, index, configuration, seed)
            for index, configuration in enumerate(configurations)
        ]
        try:
            _watch(futures, channel, on_progress)
        finally:
            channel.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            channel.progress.close()
    _raise_first_failure(futures, configurations)
    return [cast(Record, pickle.loads(future.result())) for future in futures]


def compile_for_workers() -> None:
    """Have compiled code ready, so that no result depends on when that was done."""
    compile_ahead(nn.RNN(1, 1, device="meta"), dtype=torch.float32, threads=1)


def _begin_worker(channel: _Channel) -> None:
    global _channel
    _channel = channel
    torch.set_num_threads(1)
    # The first optimizer of a process imports much of torch, seconds that no run should count.
    torch.optim.Adam([torch.zeros(1)])
    # Python's own handler would print a traceback per worker on Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Progress that nobody reads any more must not keep a worker from ending.
    channel.progress.cancel_join_thread()


def _run_in_worker(index: int, configuration: Configuration, seed: int) -> bytes:
    channel = _channel
    if channel is None:
        raise RuntimeError("the worker process was not initialised")

    def report(phase: Phase, done: int, total: int) -> None:
        if done % REPORT_EVERY == 0 or done == total:
            channel.progress.put(Progress(index=index, phase=phase, done=done, total=total))
            if channel.stop.is_set():
                raise StoppedError("given up because another run failed")

    # Pickled here, for torch would hand tensors over in shared memory of a process that ends.
    return pickle.dumps(run(configuration, seed, report))


def _watch(
    futures: Sequence[Future[bytes]],
    channel: _Channel,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Pass progress on until all runs are done or one has failed."""
    unfinished: set[Future[bytes]] = set(futures)
    while unfinished and not any(_has_failed(future) for future in futures):
        finished = wait(futures, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_EXCEPTION)
        unfinished = finished.not_done
        for progress in _waiting(channel.progress):
            if on_progress is not None:
                on_progress(progress)


def _waiting(queue: "Queue[Progress]") -> list[Progress]:
    """What lies in the queue."""
    found: list[Progress] = []
    while True:
        try:
            found.append(queue.get_nowait())
        except Empty:
            return found


def _has_failed(future: Future[bytes]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None


def _raise_first_failure(
    futures: Sequence[Future[bytes]], configurations: Sequence[Configuration]
) -> None:
    for future, configuration in zip(futures, configurations, strict=True):
        if not _has_failed(future):
            continue
        failure = future.exception()
        if failure is not None and not isinstance(failure, StoppedError):
            failure.add_note(f"This happened in the run {configuration.label!r}.")
            raise failure
