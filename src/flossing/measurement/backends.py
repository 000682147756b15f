"""The backends by name, and what "auto" is: compiled code as soon as there is some."""

from typing import Any

import torch

from flossing.compiled.ahead_of_time import Code, compile_here, is_ready
from flossing.compiled.cells import Layer
from flossing.compiled.compiler import available_threads, threads_for
from flossing.compiled.tangents import Dense
from flossing.compiled.warm_up import KINDS
from flossing.errors import InvalidOptionError
from flossing.measurement.compiled_growth import compiled_growth
from flossing.measurement.growth import Backend, reference_growth, torch_growth
from flossing.systems.recurrence import (
    DrivenMap,
    Recurrence,
    System,
    check_dtype_option,
    computing_dtype,
)
from flossing.systems.stock import StockRecurrence, is_stock, stock_recurrence

BACKENDS: dict[str, Backend] = {
    "compiled": compiled_growth,
    "torch": torch_growth,
    "reference": reference_growth,
}


def chosen_backend(backend: str | Backend, problem: DrivenMap, exponents: int) -> Backend:
    """Return a backend by name, or the callable itself.

    "auto" is the compiled one where its code is ready. Where it is not, another process compiles
    it, and until that is done "auto" is the one of PyTorch operations.

    Args:
        backend: the name or callable.
        problem: what it is for.
        exponents: how many exponents are measured.

    Raises:
        InvalidOptionError: no backend has that name; the message lists those there are.
    """
    if callable(backend):
        return backend
    if backend == "auto":
        return _automatic_backend(problem, exponents)
    if backend not in BACKENDS:
        raise InvalidOptionError(
            f"backend must be one of {', '.join(map(repr, ('auto', *BACKENDS)))} or a callable "
            f"like flossing.measurement.growth.torch_growth, not {backend!r}"
        )
    return BACKENDS[backend]


def compile_ahead(
    system: System | None = None,
    *,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
) -> None:
    """Compile what measuring a system on a CPU needs, unless it is on disk already.

    Compiling takes about half a minute once, and as long again for what several threads share.
    Without this function a process in the background does it, and measurements with
    `backend="auto"` are made by PyTorch operations until it is done: more slowly, and with
    other roundings. With it all measurements of a program are compiled, from the first one on.
    Where another process is compiling, this one waits for it. Where Numba finds no place for its
    cache, every process compiles anew.

    Args:
        system: the module or callable that is to be measured; `None` for whatever there is.
        dtype: the precision to compute in; `None` for the system's own, and without a system for
            PyTorch's default.
        threads: with 1, only what a single thread needs; `None` for `torch.get_num_threads()`.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidOptionError: exponents cannot be computed in that precision.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(3, 32)
        >>> flossing.compile_ahead(rnn, threads=1)
        >>> history = flossing.floss(rnn, lambda: torch.randn(50, 1, 3), k=4, steps=2)
    """
    check_dtype_option(dtype)
    if dtype is None:
        dtype = torch.get_default_dtype() if system is None else computing_dtype(system, None, None)
    kinds = KINDS if system is None else (_kind_of_system(system, dtype),)
    parallel = min(threads or torch.get_num_threads(), available_threads()) > 1
    for kind in kinds:
        compile_here(Code(kind, dtype, parallel))


def _automatic_backend(problem: DrivenMap, exponents: int) -> Backend:
    if problem.state.device.type != "cpu":
        return torch_growth
    kind = _kind(problem.recurrence)
    rows = len(problem.state) * exponents
    parallel = threads_for(rows, rows * _weights(problem)) > 1
    code = Code(kind, problem.state.dtype, parallel)
    return compiled_growth if is_ready(code) else torch_growth


def _kind_of_system(system: Any, dtype: torch.dtype) -> type[Layer] | type[Dense]:
    return _kind(stock_recurrence(system, None, dtype)) if is_stock(system) else Dense


def _kind(recurrence: Recurrence) -> type[Layer] | type[Dense]:
    if isinstance(recurrence, StockRecurrence) and not recurrence.projected:
        return recurrence.kind.compiled
    return Dense


def _weights(problem: DrivenMap) -> int:
    """Return how many weights a product of the compiled scans has."""
    recurrence = problem.recurrence
    if isinstance(recurrence, StockRecurrence) and not recurrence.projected:
        return max(layer.weight_hh.numel() for layer in recurrence.layers)
    return problem.tangent_size**2
