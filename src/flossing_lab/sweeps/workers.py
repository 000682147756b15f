"""Where the groups of a sweep run: processes of this machine, or a Dask cluster."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any, cast

import torch

from flossing.errors import LostRankWarning
from flossing.support.environment import available_processors


class Processes:
    """Worker processes of this machine, of one torch thread each.

    Args:
        count: number of processes; `None` for one a processor.
        attempts: number of times a call is begun whose process dies.

    Attributes:
        count: number of processes.

    Raises:
        ImportError: joblib is missing.
    """

    def __init__(self, count: int | None = None, *, attempts: int = 3) -> None:
        try:
            import joblib  # noqa: F401  # pyright: ignore[reportUnusedImport, reportMissingTypeStubs]
        except ImportError as error:
            raise ImportError(
                "sweeps need joblib, which could not be imported; "
                'install it with: pip install "flossing[sweep]"'
            ) from error
        self.count = available_processors() if count is None else count
        self._attempts = attempts

    @contextlib.contextmanager
    def executor(self, most: int) -> Generator[Executor]:
        """Start processes, at most a number of them; kill them if anything is raised."""
        pool = _IsolatedProcesses(max(1, min(self.count, most)), self._attempts)
        try:
            yield pool
        except BaseException:
            pool.kill()
            raise
        pool.shutdown()


class Cluster:
    """The workers of a Dask cluster, which see the folder of the runs under the same path.

    The scheduler itself runs a group again whose worker dies; see its option `allowed-failures`.

    Args:
        address: of its scheduler, such as "tcp://localhost:8786".

    Attributes:
        count: number of groups that its workers run at a time.

    Raises:
        ImportError: distributed is missing.
        OSError: there is no scheduler at this address.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise ImportError(
                "a Dask cluster needs dask.distributed, which could not be imported; "
                'install it with: pip install "flossing[dask]"'
            ) from error
        self._client: Any = cast(Any, Client)(address)
        self.count = max(1, sum(self._client.nthreads().values()))

    @contextlib.contextmanager
    def executor(self, most: int) -> Generator[Executor]:
        """Use the workers; cancel what has not begun if anything is raised."""
        del most
        pool = self._client.get_executor(pure=False)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()


@contextlib.contextmanager
def opened(workers: int | None, dask: str | None) -> "Generator[Processes | Cluster]":
    """Return the Dask cluster at an address, or without an address a number of processes."""
    if dask is None:
        yield Processes(workers)
        return
    with contextlib.closing(Cluster(dask)) as cluster:
        yield cluster


class _IsolatedProcesses(ThreadPoolExecutor):
    """Threads, each with a process of its own in which it makes its calls.

    A process that dies breaks its pool: with `joblib.Parallel`, or one pool for all, the calls of
    the other processes would be lost too, and it would be unknown whose process died.
    """

    def __init__(self, count: int, attempts: int) -> None:
        super().__init__(count)
        self._attempts = attempts
        self._own = threading.local()
        self._pools: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return super().submit(self._call, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait=wait)

    def kill(self) -> None:
        super().shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.shutdown(wait=True, kill_workers=True)

    def _call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        attempts = self._attempts
        while True:
            if not hasattr(self._own, "pool"):
                self._own.pool = self._new_pool()
            try:
                return self._own.pool.submit(fn, *args, **kwargs).result()
            except BrokenExecutor:
                del self._own.pool
                attempts -= 1
                if not attempts:
                    raise

    def _new_pool(self) -> Any:
        # loky, which is part of joblib, also runs functions of notebooks and of scripts without a
        # main guard.
        from joblib.externals.loky import (  # pyright: ignore[reportMissingTypeStubs]
            ProcessPoolExecutor,
        )

        self._pools.append(cast(Any, ProcessPoolExecutor)(1, initializer=_begin_process))
        return self._pools[-1]


def _begin_process() -> None:
    torch.set_num_threads(1)
    # Exponents of −∞ are in the records.
    warnings.simplefilter("ignore", LostRankWarning)
    # The first optimizer of a process imports much of torch, seconds that no run should count.
    torch.optim.Adam([torch.zeros(1)])
    # On Ctrl-C the process that waits kills this one, which could otherwise be taken for crashed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
