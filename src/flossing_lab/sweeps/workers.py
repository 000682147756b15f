"""Where groups of runs are worked on: processes of this machine, or a Dask cluster."""

import contextlib
import signal
import warnings
from collections.abc import Generator
from concurrent.futures import Executor
from typing import Any, cast

import torch

from flossing.errors import LostRankWarning
from flossing.support.environment import available_processors


class Processes:
    """Worker processes of this machine, of one torch thread each.

    Args:
        count: how many; `None` for one a processor.

    Attributes:
        count: how many.

    Raises:
        ImportError: joblib is missing.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = available_processors() if count is None else count
        _require_joblib()

    @contextlib.contextmanager
    def executor(self, most: int) -> Generator[Executor]:
        """Start the processes; they are ended at once if anything is raised.

        Args:
            most: start no more than so many.
        """
        # loky, which joblib brings, runs what is defined in scripts without a main guard and in
        # notebooks, and tells of killed workers; of its futures the progress can be watched.
        from joblib.externals.loky import (  # pyright: ignore[reportMissingTypeStubs]
            ProcessPoolExecutor,
        )

        loky = cast(Any, ProcessPoolExecutor)
        pool = loky(max(1, min(self.count, most)), initializer=_begin_process)
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, kill_workers=True)
            raise
        pool.shutdown(wait=True)


class Cluster:
    """The workers of a Dask cluster, which see the folder of the runs under the same path.

    Args:
        address: of its scheduler, such as "tcp://localhost:8786".

    Attributes:
        count: how many groups its workers run at a time.

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
        """Use the workers; what has not begun is taken back if anything is raised.

        Args:
            most: not used: the scheduler shares out what there is.
        """
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
    """Return a Dask cluster where an address is given, else processes.

    Args:
        workers: how many processes; `None` for one a processor.
        dask: address of a Dask scheduler.
    """
    if dask is None:
        yield Processes(workers)
        return
    cluster = Cluster(dask)
    try:
        yield cluster
    finally:
        cluster.close()


def _require_joblib() -> None:
    try:
        import joblib  # noqa: F401  # pyright: ignore[reportUnusedImport, reportMissingTypeStubs]
    except ImportError as error:
        raise ImportError(
            "sweeps need joblib, which could not be imported; "
            'install it with: pip install "flossing[sweep]"'
        ) from error


def _begin_process() -> None:
    torch.set_num_threads(1)
    # The records say −∞ themselves.
    warnings.simplefilter("ignore", LostRankWarning)
    # The first optimizer of a process imports much of torch, seconds that no run should count.
    torch.optim.Adam([torch.zeros(1)])
    # Python's own handler would print a traceback per worker on Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
