# Numba is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""What is compiled on disk already, and compiling the rest: here, or in the background.

Beside Numba's cache lies an empty file, the marker, for everything that is complete in it. Whoever
compiles holds a lock of the operating system, which ends with its process.
"""

import functools
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from multiprocessing import spawn
from pathlib import Path
from typing import NamedTuple, cast

import numba
import torch
from filelock import FileLock, Timeout

from flossing.compiled.cells import Layer
from flossing.compiled.compiler import FINGERPRINT
from flossing.compiled.forward import scan_forward
from flossing.compiled.tangents import Dense
from flossing.compiled.warm_up import KINDS, compile_parallel, compile_serial

_SCRIPT = (
    "import sys; from flossing.compiled.ahead_of_time import compile_named; "
    "compile_named(*sys.argv[1:])"
)


class Code(NamedTuple):
    """The compiled code that a measurement needs.

    Attributes:
        kind: of the layers, or `Dense` for explicit Jacobians.
        dtype: `torch.float32` or `torch.float64`.
        parallel: whether it is spread over threads, which needs the serial code besides.
    """

    kind: type[Layer] | type[Dense]
    dtype: torch.dtype
    parallel: bool


def is_ready(code: Code) -> bool:
    """Whether to use compiled code now; if not, another process is compiling it.

    It is ready once it is complete on disk, and also where nothing but this process can compile
    it: there is no place for a cache, or no interpreter to start, or the one that was started has
    failed. Only one process at a time compiles for a dtype, and each process starts one only once.
    """
    if code not in _READY:
        if not _is_at_hand(code):
            return False
        _READY.add(code)
    return True


def compile_here(code: Code) -> None:
    """Compile what is not complete on disk in this process, after any other that is at it."""
    folder = _folder()
    if folder is None:
        compile_serial(code.kind, code.dtype)
        if code.parallel:
            compile_parallel(code.kind, code.dtype)
    else:
        with _alone(folder, code):
            for stage, marker in zip(_STAGES, _markers(folder, code), strict=False):
                if not marker.exists():
                    stage(code.kind, code.dtype)
                    marker.touch()
    _READY.add(code)


def compile_named(kind: str, dtype: str, parallel: str) -> None:
    """Compile code that is named by strings: what a process in the background does.

    Args:
        kind: the name of one of `KINDS`.
        dtype: "float32" or "float64".
        parallel: "True" or "False".
    """
    kinds = {each.__name__: each for each in KINDS}
    torch.set_num_threads(1)
    compile_here(Code(kinds[kind], getattr(torch, dtype), parallel == "True"))


_STAGES = (compile_serial, compile_parallel)
_READY: set[Code] = set()
_ATTEMPTS: dict[Code, threading.Thread] = {}


def _is_at_hand(code: Code) -> bool:
    folder = _folder()
    if folder is None or _is_complete(folder, code):
        return True
    if code not in _ATTEMPTS:
        return not _is_being_compiled(folder, code) and not _has_started(code)
    attempt = _ATTEMPTS[code]
    if attempt.ident is None or attempt.is_alive():
        return False
    # What failed here may be at work in another process.
    return not _is_being_compiled(folder, code) or _is_complete(folder, code)


def _has_started(code: Code) -> bool:
    """Start a process that compiles; whether there was an interpreter for it."""
    interpreter = _interpreter()
    if interpreter is None:
        return False
    # A thread that waits for the process, and does not keep this one from ending.
    attempt = threading.Thread(target=_compile_elsewhere, args=(interpreter, code), daemon=True)
    # Of several threads that come here at once, one starts.
    if _ATTEMPTS.setdefault(code, attempt) is attempt:
        attempt.start()
    return True


def _compile_elsewhere(interpreter: str, code: Code) -> None:
    dtype = str(code.dtype).removeprefix("torch.")
    names = [code.kind.__name__, dtype, str(code.parallel)]
    with suppress(OSError):
        subprocess.run(
            [interpreter, "-P", "-c", _SCRIPT, *names],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            # Ctrl-C is for this process; the other one ends by itself, with its work done.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )


def _environment() -> dict[str, str]:
    """Return an environment with the same modules and the same cache."""
    folders = [str(folder) for folder in sys.path if folder]
    cache = cast(str, numba.config.CACHE_DIR)  # pyright: ignore
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        **({"NUMBA_CACHE_DIR": cache} if cache else {}),
    }


def _interpreter() -> str | None:
    """Return the path of Python; `None` in an application that is its own interpreter."""
    if getattr(sys, "frozen", False):
        return None
    # As for processes of `multiprocessing`, where an application may have named one.
    executable = os.fsdecode(spawn.get_executable() or "")
    return executable if Path(executable).is_file() else None


def _is_being_compiled(folder: Path, code: Code) -> bool:
    lock = FileLock(_lock(folder, code))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


@contextmanager
def _alone(folder: Path, code: Code) -> Generator[None]:
    lock = FileLock(_lock(folder, code))
    # Two at once, where files cannot be locked, do the same work, and no harm.
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_complete(folder: Path, code: Code) -> bool:
    return all(marker.exists() for marker in _markers(folder, code))


def _markers(folder: Path, code: Code) -> list[Path]:
    stages = ("serial", "parallel") if code.parallel else ("serial",)
    return [
        folder / f"{code.kind.__name__}_{code.dtype}_{stage}-{_machine()}.complete"
        for stage in stages
    ]


def _lock(folder: Path, code: Code) -> Path:
    # Kinds share the larger part of their code.
    return folder / f"{code.dtype}-{_machine()}.lock"


def _folder() -> Path | None:
    """Return where Numba keeps what it compiles; `None` if there is no such place."""
    path = scan_forward.stats.cache_path
    return None if path is None else Path(path)


@functools.cache
def _machine() -> str:
    """Return a digest of all that Numba's cache is particular to."""
    processor = scan_forward.targetctx.codegen().magic_tuple()
    particulars = (FINGERPRINT, numba.__version__, sys.implementation.cache_tag, processor)
    return hashlib.sha256(repr(particulars).encode()).hexdigest()[:12]
