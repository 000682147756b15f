# Numba is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Which compiled code is complete on disk, and compiling the rest, here or in the background.

Besides Numba's own files, its cache folder holds an empty file, a marker, for each code that is
complete, and a lock file for each floating point type, held by the process that compiles for it.
"""

import functools
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from multiprocessing import spawn
from pathlib import Path
from typing import NamedTuple, cast

import numba
import torch
from filelock import FileLock, Timeout

from flossing.compiled.cells import Layer
from flossing.compiled.compiler import FINGERPRINT, JIT_DISABLED
from flossing.compiled.forward import scan_forward
from flossing.compiled.tangents import Dense
from flossing.compiled.warm_up import KINDS, compile_parallel, compile_serial

Kind = type[Layer] | type[Dense]


class Code(NamedTuple):
    """The compiled code that a measurement needs.

    Attributes:
        kind: of the layers, or `Dense` for explicit Jacobians.
        dtype: `torch.float32` or `torch.float64`.
        parallel: whether it is spread over threads, which needs the serial code besides.
    """

    kind: Kind
    dtype: torch.dtype
    parallel: bool

    def names(self) -> tuple[str, str, str]:
        """Return strings that name the code to another process."""
        return self.kind.__name__, str(self.dtype).removeprefix("torch."), str(self.parallel)

    @classmethod
    def from_names(cls, kind: str, dtype: str, parallel: str) -> "Code":
        """Return the code that `names` names."""
        kinds = {each.__name__: each for each in KINDS}
        return cls(kinds[kind], getattr(torch, dtype), parallel == "True")


# One thread, for this happens behind the back of a program that is using the others.
_PROGRAM = """
import sys, torch
from flossing.compiled.ahead_of_time import Code, compile_here
torch.set_num_threads(1)
compile_here(Code.from_names(*sys.argv[1:]))
"""

_STAGES = (compile_serial, compile_parallel)


def python_executable() -> str | None:
    """Return the path of Python; `None` in an application that is its own interpreter."""
    if getattr(sys, "frozen", False):
        return None
    # As `multiprocessing` starts its processes, for which an application may have named one.
    executable = os.fsdecode(spawn.get_executable() or "")
    return executable if Path(executable).is_file() else None


class CodeCache:
    """The compiled code in a folder on disk, and this process's attempts to complete it.

    Attributes:
        folder: where Numba keeps what it compiles; `None` where it found no place for a cache.
        program: source of the Python program that compiles the code named by its arguments.
        stages: functions that compile for a kind and dtype: what one thread needs, and what
            several need besides.
        interpreter: returns the path of Python, or `None` where there is none to start.
        attempts: the threads that wait for a process in the background, by what it compiles.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        program: str = _PROGRAM,
        stages: tuple[Callable[[Kind, torch.dtype], None], ...] = _STAGES,
        interpreter: Callable[[], str | None] = python_executable,
    ) -> None:
        self.folder = folder
        self.program = program
        self.stages = stages
        self.interpreter = interpreter
        self.attempts: dict[Code, threading.Thread] = {}
        self._ready: set[Code] = set()

    def is_ready(self, code: Code) -> bool:
        """Whether to use compiled code now; if not, another process is compiling it.

        It is ready once it is complete on disk, and also where only this process can compile it,
        at the first call: there is no place for a cache, or no interpreter to start, or the one
        that was started has failed. Only one process at a time compiles for a dtype, and each
        process starts one only once.
        """
        # Remembered, so that what was ready once remains so: the choice of a backend changes
        # roundings, and must not change back when somebody empties the cache.
        if code not in self._ready and self._is_available(code):
            self._ready.add(code)
        return code in self._ready

    def compile_here(self, code: Code) -> None:
        """Compile what is not complete on disk in this process, waiting for others at work."""
        stages = self.stages[: 1 + code.parallel]
        if self.folder is None:
            for stage in stages:
                stage(code.kind, code.dtype)
        else:
            with _alone(lock_file(self.folder, code)):
                for stage, marker in zip(stages, markers(self.folder, code), strict=True):
                    if not marker.exists():
                        stage(code.kind, code.dtype)
                        # Last, so that what an interrupted process leaves is not complete.
                        marker.touch()
        self._ready.add(code)

    def _is_available(self, code: Code) -> bool:
        if self.folder is None or _is_complete(self.folder, code):
            return True
        lock = lock_file(self.folder, code)
        attempt = self.attempts.get(code)
        if attempt is None:
            return not _is_locked(lock) and not self._start(code)
        # A thread without identity is about to be started by another thread.
        if attempt.ident is None or attempt.is_alive():
            return False
        # The attempt has failed, or found the lock taken and is no longer needed: in the second
        # case another process is at work, or has just finished.
        return not _is_locked(lock) or _is_complete(self.folder, code)

    def _start(self, code: Code) -> bool:
        """Start a process that compiles; whether there was an interpreter for it."""
        interpreter = self.interpreter()
        if interpreter is None:
            return False
        # A thread waits for the process, so that it does not remain as a zombie; a daemon, so
        # that it does not keep this process from ending.
        attempt = threading.Thread(target=self._run, args=(interpreter, code), daemon=True)
        # Of several threads that come here at once, the one whose entry is kept starts its own.
        if self.attempts.setdefault(code, attempt) is attempt:
            attempt.start()
        return True

    def _run(self, interpreter: str, code: Code) -> None:
        # The same modules, also those that this program finds by changing `sys.path`; and the
        # same cache, also where the program set Numba's configuration and not its environment.
        modules = os.pathsep.join(str(folder) for folder in sys.path if folder)
        cache = cast(str, numba.config.CACHE_DIR)  # pyright: ignore
        with suppress(OSError):
            subprocess.run(
                # -P: not the working directory, where a file may be named like a module.
                [interpreter, "-P", "-c", self.program, *code.names()],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ
                | {"PYTHONPATH": modules}
                | ({"NUMBA_CACHE_DIR": cache} if cache else {}),
                # Ctrl-C is for this process; the other one ends by itself, with its work done.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )


def markers(folder: Path, code: Code) -> list[Path]:
    """Return the files that exist once the stages of a code are complete."""
    stages = ("serial", "parallel") if code.parallel else ("serial",)
    return [
        folder / f"{code.kind.__name__}_{code.dtype}_{stage}-{_machine()}.complete"
        for stage in stages
    ]


def lock_file(folder: Path, code: Code) -> Path:
    """Return the file that a process locks while it compiles a code."""
    # One for all kinds, which share the larger part of their code: two processes would compile
    # that twice. The lock is one of the operating system and ends with its process, so that no
    # crash leaves it behind.
    return folder / f"{code.dtype}-{_machine()}.lock"


def _is_complete(folder: Path, code: Code) -> bool:
    return all(marker.exists() for marker in markers(folder, code))


def _is_locked(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        # This file system knows no locks.
        return False
    lock.release()
    return False


@contextmanager
def _alone(path: Path) -> Generator[None]:
    lock = FileLock(path)
    # Where files cannot be locked, two processes at once do the same work, and no harm: Numba
    # replaces the files of its cache in one operation.
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@functools.cache
def _machine() -> str:
    """Return a digest of all that Numba's cache is particular to."""
    # A folder in a network may serve other processors and other versions. What they compiled is
    # of no use here, so their markers and locks must have other names.
    processor = scan_forward.targetctx.codegen().magic_tuple()
    particulars = (FINGERPRINT, numba.__version__, sys.implementation.cache_tag, processor)
    return hashlib.sha256(repr(particulars).encode()).hexdigest()[:12]


def _numba_folder() -> Path | None:
    path = scan_forward.stats.cache_path
    return None if path is None else Path(path)


@functools.cache
def _of_this_process() -> CodeCache:
    # Not at import: to find a folder, Numba tries which ones it can write to.
    return CodeCache(_numba_folder())


def is_ready(code: Code) -> bool:
    """Whether to use compiled code now: see `CodeCache.is_ready`. Never without Numba."""
    return not JIT_DISABLED and _of_this_process().is_ready(code)


def compile_here(code: Code) -> None:
    """Compile what is not complete on disk: see `CodeCache.compile_here`."""
    if not JIT_DISABLED:
        _of_this_process().compile_here(code)
