# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
"""How the loops are compiled, and the tile of a matrix product that this processor likes best."""

import hashlib
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, cast

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic
from torch import Tensor

from flossing.support.torch_typed import unflatten

_PARALLEL_WORK = 1 << 19
"""Multiplications in a step that are worth a second thread."""


def numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    """Return the dtype of a tensor's array."""
    return np.dtype(np.float32 if tensor.dtype == torch.float32 else np.float64)


def packed(matrix: Tensor) -> Any:
    """Return R in panels as wide as a tile: [number of panels, rows, columns of a tile]."""
    columns = matrix.shape[1]
    width = TILE.vectors * TILE.lanes(numpy_dtype(matrix))
    panels = -(-columns // width)
    whole = torch.nn.functional.pad(matrix.detach(), (0, panels * width - columns))
    return unflatten(whole, 1, (panels, width)).transpose(0, 1).contiguous().numpy()


def threads_for(rows: int, work: int) -> int:
    """Return how many threads share so many rows, in steps of so many multiplications."""
    if work < _PARALLEL_WORK:
        return 1
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
    """Return a tile that uses most of the registers: 24 of 32 accumulate, or 12 of 16."""
    features = cast(dict[str, bool], llvmlite.binding.get_host_cpu_features())  # pyright: ignore[reportUnknownMemberType]
    if features.get("avx512f"):
        return Tile(rows=8, vectors=3, vector_bytes=64)
    if features.get("avx"):
        return Tile(rows=4, vectors=3, vector_bytes=32)
    return Tile(rows=8, vectors=3, vector_bytes=16)


TILE = _preferred_tile()


def padded(count: int, dtype: np.dtype[Any]) -> int:
    """Return `count` rounded up to whole vector registers."""
    lanes = TILE.lanes(dtype)
    return -(-count // lanes) * lanes


def compiled(function: Callable[..., Any], *, parallel: bool = False) -> Any:
    """Compile a function at its first call, without the interpreter's lock, cached on disk."""
    return _with_cache(cast(Any, numba.njit), nogil=True, parallel=parallel)(function)  # pyright: ignore[reportUnknownMemberType]


def serial_and_parallel(function: Callable[..., Any]) -> tuple[Any, Any]:
    """Compile a function once with its `prange` loops as they are, and once spread over threads."""
    return compiled(function), compiled(_renamed(function, "parallel"), parallel=True)


def in_threads(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a compiled function, in so many threads if it is a parallel one."""
    if threads == 1:
        return function(*arguments)
    # Not every threading layer of Numba can be entered by two threads at once.
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


def part(function: Callable[..., Any]) -> Any:
    """Compile a function as a part of those that call it, not to be called from Python.

    It is compiled again into each of its callers, and into theirs: for small functions only.
    """
    return _part(function, **_OPTIONS)


def exact_part(function: Callable[..., Any]) -> Any:
    """Do what `part` does, with every rounding as it is written."""
    return _part(function, **(_OPTIONS | {"fastmath": False}))


def _part(function: Callable[..., Any], **options: Any) -> Any:
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(Any, numba.njit)(**wrappers, **options)(unchecked(function))  # pyright: ignore[reportUnknownMemberType]


def unchecked(function: Callable[..., Any]) -> Any:
    """Return a function without the checks of types that tests wrap around it."""
    return inspect.unwrap(function)


def linked(name: str, signature: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Any]:
    """Have a function compiled once for each floating point type, and called by symbol.

    For functions of numbers, arrays being given by their addresses; the last argument tells the
    floating point type by its own. What is decorated is for compiled code only, once `link` has
    been called.

    Args:
        name: of the symbol.
        signature: the signature for a floating point type; no booleans.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        for number in (types.float32, types.float64):
            pending = _Unit(f"flossing_{name}_{number}", function, signature(number))
            _PENDING[number.bitwidth // 8].append(pending)

        def call(typing_context: Any, *arguments: Any) -> Any:  # noqa: ARG001
            number = arguments[-1]
            return signature(number), _caller(f"flossing_{name}_{number}")

        call.__signature__ = _with_context(function)  # pyright: ignore[reportFunctionMemberAccess]
        return intrinsic(call)  # pyright: ignore[reportUnknownVariableType]

    return decorate


def link(dtype: np.dtype[Any]) -> None:
    """Compile, or load from the cache, all that is called by symbol, for one type of numbers."""
    pending = _PENDING[dtype.itemsize]
    while pending:
        unit = pending[0]
        pointer = _with_cache(cast(Any, numba.cfunc), unit.signature)(unit.function)  # pyright: ignore[reportUnknownMemberType]
        llvmlite.binding.add_symbol(unit.symbol, pointer.address)  # pyright: ignore[reportUnknownMemberType]
        _LINKED.append(pointer)
        pending.pop(0)


class _Unit(NamedTuple):
    symbol: str
    function: Callable[..., Any]
    signature: Any


# In order of definition, so that a unit comes after those that it calls.
_PENDING: dict[int, list[_Unit]] = {4: [], 8: []}
_LINKED: list[Any] = []


def _with_context(function: Callable[..., Any]) -> inspect.Signature:
    context = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([context, *inspect.signature(function).parameters.values()])


def _caller(symbol: str) -> Callable[..., Any]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = [context.get_value_type(kind) for kind in signature.args]
        nothing = signature.return_type == types.void
        returned = ir.VoidType() if nothing else context.get_value_type(signature.return_type)
        kind = ir.FunctionType(returned, given)
        result = builder.call(get_or_insert_function(builder.module, kind, symbol), arguments)
        return context.get_dummy_value() if nothing else result

    return generate


_OPTIONS = {
    "error_model": "numpy",
    # Sums may be split over vector lanes; NaN and infinity keep their meaning.
    "fastmath": {"contract", "reassoc", "nsz"},
}


def _with_cache(decorator: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return one of Numba's decorators, with a cache on disk where there is a place for one."""

    def decorate(function: Callable[..., Any]) -> Any:
        versioned = _renamed(unchecked(function), FINGERPRINT)
        try:
            return decorator(*arguments, cache=True, **_OPTIONS, **options)(versioned)
        except RuntimeError:
            return decorator(*arguments, **_OPTIONS, **options)(versioned)

    return decorate


def _renamed(function: Callable[..., Any], suffix: str) -> Callable[..., Any]:
    """Return a copy of a function with another name for the cache on disk."""
    plain = unchecked(function)
    copy = FunctionType(plain.__code__, plain.__globals__, plain.__name__)
    copy.__qualname__ = f"{plain.__qualname__}_{suffix}"
    return copy


def _fingerprint() -> str:
    """Return a digest of all that is compiled, and of the tile that it is compiled for.

    Numba's cache looks at the file of a function, not at those of the functions that it calls.
    """
    here = Path(__file__).parent
    sources = sorted([*here.glob("*.py"), here.parent / "scan" / "boundaries.py"])
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    digest.update(repr(TILE).encode())
    return digest.hexdigest()[:12]


FINGERPRINT = _fingerprint()
"""Distinguishes what is in the cache from all that other versions have left there."""
