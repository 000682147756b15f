# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
"""How functions are compiled, cached and run in threads, and the tile of this processor.

See docs/mathematics.md, Products over register tiles.
"""

import hashlib
import inspect
import pkgutil
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, cast

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.cgutils import get_or_insert_function
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic
from torch import Tensor

from flossing.compiled.disk_cache import DiskCache
from flossing.support.torch_typed import unflatten

PARALLEL_WORK = 1 << 19
"""Multiplications per step from which on several threads share it; tests may set it to zero."""
# One core takes some 10 µs for as many, at 50 per nanosecond in single precision. To start and join
# threads takes some 3 µs, more where they have to wake up first, and at every boundary.

# Python hears an interrupt only between calls: this bounds what one call does to a few tenths of a
# second on one core. Calls are so few that they cost nothing.
_WORK_PER_CALL = 1 << 31
# What a step costs besides its multiplications, as if it were some more.
_WORK_OF_A_STEP = 1 << 10


def numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    """Return the dtype of a tensor's array."""
    return np.dtype(np.float32 if tensor.dtype == torch.float32 else np.float64)


def packed(matrix: Tensor) -> Any:
    """Return R in panels as wide as a tile: [number of panels, rows, columns of a tile]."""
    columns = matrix.shape[1]
    width = TILE.vectors * TILE.lanes(numpy_dtype(matrix))
    panels = -(-columns // width)
    # A tile walks down the rows of R within its own columns. In a panel these lie one after the
    # other, one stream that the processor prefetches; in R itself each would be a row length
    # apart, and row lengths that are powers of two share few sets of the cache. Packing costs one
    # pass over R, once a scan, and every step profits.
    whole = torch.nn.functional.pad(matrix.detach(), (0, panels * width - columns))
    return unflatten(whole, 1, (panels, width)).transpose(0, 1).contiguous().numpy()


def steps_per_call(work: int) -> int:
    """Return how many steps of some multiplications each a call of a compiled loop may take."""
    return max(1, _WORK_PER_CALL // (work + _WORK_OF_A_STEP))


def windows(steps: int, work: int) -> list[tuple[int, int]]:
    """Return the first step, and the one after the last, of each call that a loop takes."""
    length = steps_per_call(work)
    return [(first, min(first + length, steps)) for first in range(0, steps, length)]


def threads_for(rows: int, work: int) -> int:
    """Return how many threads share a step of `rows` rows and `work` multiplications."""
    if work < PARALLEL_WORK:
        return 1
    # A thread with fewer rows than a tile would reload the weights for less than a tile of work.
    return min(max(1, rows // TILE.rows), torch.get_num_threads(), available_threads())


class Tile(NamedTuple):
    """The block of a product that is kept in vector registers.

    Attributes:
        rows: rows of the block, a power of two.
        vectors: columns of the block, in vector registers.
        vector_bytes: bytes of a vector register.
    """

    rows: int
    vectors: int
    vector_bytes: int

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Return how many numbers a vector register holds."""
        return self.vector_bytes // dtype.itemsize


def _preferred_tile() -> Tile:
    # A step l of a tile's sum loads v registers of a row of R and r single numbers of L, for r·v
    # multiply-adds. A core issues as many loads as multiply-adds in a cycle, usually two, so rv
    # is to exceed r + v, the more the better; and r·v sums must be independent to hide the
    # latency of a multiply-add, four or five cycles times two units. What limits both is the
    # number of registers: r·v sums, v of R, and one for the number of L in all lanes, where the
    # instruction cannot take it from memory.
    #   AVX-512: 32 registers of 64 bytes; 8·3 + 3 + 1 = 28, and 24 multiply-adds for 11 loads
    #   AVX:     16 registers of 32 bytes; 4·3 + 3 + 1 = 16, and 12 multiply-adds for 7 loads
    #   NEON:    32 registers of 16 bytes; as AVX-512. SSE has only 16 of these and spills.
    # Rows are a power of two, for then the rest of any number of rows splits into smaller ones.
    features = cast(dict[str, bool], llvmlite.binding.get_host_cpu_features())  # pyright: ignore[reportUnknownMemberType]
    if features.get("avx512f"):
        return Tile(rows=8, vectors=3, vector_bytes=64)
    if features.get("avx"):
        return Tile(rows=4, vectors=3, vector_bytes=32)
    return Tile(rows=8, vectors=3, vector_bytes=16)


TILE = _preferred_tile()

JIT_DISABLED = bool(cast(Any, numba).config.DISABLE_JIT)
"""Whether `NUMBA_DISABLE_JIT` is set: Numba leaves plain Python then, which cannot run tiles."""


def padded(count: int, dtype: np.dtype[Any]) -> int:
    """Return `count` rounded up to whole vector registers."""
    lanes = TILE.lanes(dtype)
    return -(-count // lanes) * lanes


def compiled(function: Callable[..., Any], *, parallel: bool = False) -> Any:
    """Compile a function at its first call, to run without the GIL, and cache it on disk."""
    versioned = _renamed(unchecked(function), FINGERPRINT)
    dispatcher = cast(Any, numba.njit)(nogil=True, parallel=parallel, **_OPTIONS)(versioned)  # pyright: ignore[reportUnknownMemberType]
    if not JIT_DISABLED:
        dispatcher._cache = DiskCache(versioned)
    return dispatcher


def serial_and_parallel(function: Callable[..., Any]) -> tuple[Any, Any]:
    """Compile a function twice: with its `prange` loops serial, and with them in threads."""
    # Two, for the parallel one takes as long again to compile and pays for a barrier at every
    # loop, and most measurements are too small for it. They need different names: Numba's cache
    # keeps one index for each name, and would confuse them.
    return compiled(function), compiled(_renamed(function, "parallel"), parallel=True)


def in_threads(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a compiled function, a parallel one unless `threads` is 1."""
    if threads == 1:
        return function(*arguments)
    # Not every threading layer of Numba may be entered by two threads at once ("workqueue", the
    # one that is always there, aborts the process).
    with _ONE_AT_A_TIME:
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            return function(*arguments)
        finally:
            numba.set_num_threads(before)


_ONE_AT_A_TIME = threading.Lock()


def available_threads() -> int:
    """Return how many threads Numba has."""
    return numba.config.NUMBA_NUM_THREADS  # pyright: ignore


# How all loops are compiled.
_OPTIONS = {
    # Division by zero gives infinity or NaN. The other choice raises, which puts a branch into
    # every loop with a division and keeps it out of vector registers.
    "error_model": "numpy",
    # Of LLVM's fastmath flags only:
    #   reassoc   sums may be reordered, so split over the lanes of registers; every result changes
    #             by roundings only, those of the sum in another order
    #   contract  x·y + z may be rounded once instead of twice (a fused multiply-add)
    #   nsz       the sign of a zero means nothing
    # Not `nnan` and `ninf`: NaN and infinity are how a diverged frame and lost rank are seen. Not
    # `arcp` and `afn`: a division stays a division unless a reciprocal is written.
    "fastmath": {"contract", "reassoc", "nsz"},
}


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into those that call it; it cannot be called from Python.

    It is compiled again with each of its callers, and with theirs: for small functions only.
    """
    return _inlined(function, **_OPTIONS)


def inlined_exactly(function: Callable[..., Any]) -> Any:
    """Do what `inlined` does, with every operation rounded as it is written."""
    # Said, not left out: without the option it would inherit its caller's liberties.
    return _inlined(function, **(_OPTIONS | {"fastmath": False}))


def _inlined(function: Callable[..., Any], **options: Any) -> Any:
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(Any, numba.njit)(**wrappers, **options)(unchecked(function))  # pyright: ignore[reportUnknownMemberType]


def unchecked(function: Callable[..., Any]) -> Any:
    """Return a function without the run-time type checks that tests wrap around it."""
    return inspect.unwrap(function)


# Functions that are compiled on their own, as a linker's units.
#
# What `inlined` decorates becomes part of every caller's code, and is compiled anew in each. For
# the products, a dozen tiles of unrolled vector instructions, that would take minutes. So these few
# are compiled once for each floating point type, as C functions, and their callers refer to them by
# the name of a symbol, which LLVM resolves when it loads the caller. C functions take numbers only:
# an array is handed over by its address and strides.


def linked(name: str, signature: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Any]:
    """Have a function compiled once for each floating point type, and called by symbol.

    What is decorated is for compiled code only, once `link` has been called.

    Args:
        name: of the symbol.
        signature: the signature for a floating point type: numbers only, arrays by their
            addresses. The last argument is of that type, by which a call chooses the symbol. No
            booleans, which are one bit in a call and eight in a C function.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        for number in (types.float32, types.float64):
            pending = _Unit(f"flossing_{name}_{number}", function, signature(number))
            _PENDING[number.bitwidth // 8].append(pending)

        def call(typing_context: Any, *arguments: Any) -> Any:  # noqa: ARG001
            number = arguments[-1]
            return signature(number), _caller(f"flossing_{name}_{number}")

        # An intrinsic must have the parameters that it is called with, after its context.
        context = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(function).parameters.values()
        call.__signature__ = inspect.Signature([context, *parameters])  # pyright: ignore[reportFunctionMemberAccess]
        call.__wrapped__ = function  # pyright: ignore[reportFunctionMemberAccess]
        return intrinsic(call)  # pyright: ignore[reportUnknownVariableType]

    return decorate


def link(dtype: np.dtype[Any]) -> None:
    """Compile, or load from the cache, all that is called by symbol, for one dtype."""
    pending = _PENDING[dtype.itemsize]
    # Of several threads that measure for the first time at once, one does it and the others wait.
    with _LINKING:
        while pending:
            unit = pending[0]
            # As `numba.cfunc` does it, with another cache.
            versioned = _renamed(unchecked(unit.function), FINGERPRINT)
            pointer = cast(Any, CFunc)(versioned, normalize_signature(unit.signature), {}, _OPTIONS)
            pointer._cache = DiskCache(versioned)
            pointer.compile()
            llvmlite.binding.add_symbol(unit.symbol, pointer.address)  # pyright: ignore[reportUnknownMemberType]
            # The machine code is freed with the object that holds it.
            _LINKED.append(pointer)
            pending.pop(0)


class _Unit(NamedTuple):
    symbol: str
    function: Callable[..., Any]
    signature: Any


# By bytes of a number, in order of definition: a unit comes after those that it calls, for its
# symbols must be known when it is compiled.
_PENDING: dict[int, list[_Unit]] = {4: [], 8: []}
_LINKED: list[Any] = []
_LINKING = threading.Lock()


def _caller(symbol: str) -> Callable[..., Any]:
    """Return what writes LLVM's call of a C function that is known by its symbol."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = [context.get_value_type(kind) for kind in signature.args]
        nothing = signature.return_type == types.void
        returned = ir.VoidType() if nothing else context.get_value_type(signature.return_type)
        kind = ir.FunctionType(returned, given)
        result = builder.call(get_or_insert_function(builder.module, kind, symbol), arguments)
        return context.get_dummy_value() if nothing else result

    return generate


def _renamed(function: Callable[..., Any], suffix: str) -> Callable[..., Any]:
    """Return a copy of a function with another name for the cache on disk."""
    plain = unchecked(function)
    copy = FunctionType(plain.__code__, plain.__globals__, plain.__name__)
    copy.__qualname__ = f"{plain.__qualname__}_{suffix}"
    return copy


def fingerprinted_sources() -> list[Path]:
    """Return the files that the fingerprint covers: compiled code may use no others.

    In an archive, a file's path goes on behind that of the archive; where there are no sources,
    the files are those of their byte code.
    """
    return sorted(Path(cast(str, spec.origin)) for spec in _fingerprinted_modules())


def _fingerprinted_modules() -> list[ModuleSpec]:
    # Found as Python finds them, for the package may be in an archive, or without its sources.
    package = __name__.rpartition(".")[0]
    folder = sys.modules[package].__path__
    names = [f"{package}.{module.name}" for module in pkgutil.iter_modules(folder)]
    specs = map(find_spec, [package, "flossing.scan.boundaries", *names])
    return [spec for spec in specs if spec is not None and spec.origin is not None]


def _fingerprint() -> str:
    """Return a digest of all sources that are compiled, and of the tile they are compiled for."""
    # Numba's cache compares the date and size of the file that a function stands in, and knows
    # nothing of the files of the functions that it calls: a change of `tile.py` would leave the
    # scans as they were. So the digest is part of every cached function's name. What other
    # versions left in the cache stays there and is not found.
    digest = hashlib.sha256()
    for spec in sorted(_fingerprinted_modules(), key=lambda spec: spec.name):
        digest.update(cast(Any, spec.loader).get_data(spec.origin))
    # A folder may be shared by machines with other registers; the tile is a constant to Numba.
    digest.update(repr(TILE).encode())
    return digest.hexdigest()[:12]


FINGERPRINT = _fingerprint()
"""Distinguishes what this version has in the cache from what other versions left there."""
