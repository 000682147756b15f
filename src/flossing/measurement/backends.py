"""The backends by name, and the choice of "auto": compiled code as soon as it is ready."""

from typing import Any

import torch

from flossing.compiled.ahead_of_time import Code, compile_here, is_ready
from flossing.compiled.cells import Layer
from flossing.compiled.compiler import JIT_DISABLED, available_threads, threads_for
from flossing.compiled.disk_cache import warn_once
from flossing.compiled.tangents import Dense
from flossing.compiled.warm_up import KINDS
from flossing.errors import InvalidOptionError
from flossing.measurement.compiled_growth import compiled_growth
from flossing.measurement.growth import Backend, reference_growth, torch_growth
from flossing.systems.arguments import check_dtype_option
from flossing.systems.recurrence import DrivenMap, Recurrence, System, computing_dtype
from flossing.systems.stock import StockRecurrence, is_stock, stock_recurrence
from flossing.systems.wrapped import unwrapped

BACKENDS: dict[str, Backend] = {
    "compiled": compiled_growth,
    "torch": torch_growth,
    "reference": reference_growth,
}


def chosen_backend(backend: str | Backend, problem: DrivenMap, exponents: int) -> Backend:
    """Return a backend by name, or the callable itself.

    "auto" is "compiled" where its code is ready. Where it is not, a process in the background
    compiles it, and "auto" is "torch" until that is done.

    Raises:
        InvalidOptionError: no backend has that name; the message lists the names.
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
    if backend == "compiled" and JIT_DISABLED:
        warn_once(
            "backend='compiled' uses PyTorch operations, for NUMBA_DISABLE_JIT is set and nothing "
            "can be compiled; unset it, or choose backend='torch'"
        )
        return torch_growth
    return BACKENDS[backend]


def compile_ahead(
    system: System | None = None,
    *,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
) -> None:
    """Compile the loops that measuring a system on a CPU needs, unless they are on disk already.

    Compiling takes about half a minute once, and as long again for the loops that several threads
    share. Without this function a process in the background compiles, and measurements with
    `backend="auto"` use PyTorch operations until it is done: more slowly, and with different
    rounding. With it, all measurements of a program use compiled loops from the first one on.
    If another process is compiling, this one waits for it. If Numba finds no place for its cache,
    every process compiles anew.

    Args:
        system: the module or callable to measure; `None` for every kind of system.
        dtype: the precision to compute in; `None` for the system's own, or without a system for
            PyTorch's default.
        threads: 1 to compile only what a single thread needs; `None` for
            `torch.get_num_threads()`.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidOptionError: `dtype` is neither float32 nor float64.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(3, 32)
        >>> flossing.compile_ahead(rnn, threads=1)
        >>> history = flossing.floss(rnn, lambda: torch.randn(50, 1, 3), k=4, steps=2)
    """
    check_dtype_option(dtype)
    if dtype is None:
        dtype = torch.get_default_dtype() if system is None else computing_dtype(system, None, None)
    kinds = KINDS if system is None else (_kind_of_system(unwrapped(system), dtype),)
    parallel = min(threads or torch.get_num_threads(), available_threads()) > 1
    for kind in kinds:
        compile_here(Code(kind, dtype, parallel))


def _automatic_backend(problem: DrivenMap, exponents: int) -> Backend:
    if problem.state.device.type != "cpu":
        return torch_growth
    kind = _kind(problem.recurrence)
    # One row for each tangent vector. Serial and parallel loops are compiled apart, so ask for
    # those that this problem will use: that depends on the work of a step.
    rows = len(problem.state) * exponents
    parallel = threads_for(rows, rows * _weights(problem)) > 1
    code = Code(kind, problem.state.dtype, parallel)
    return compiled_growth if is_ready(code) else torch_growth


def _kind_of_system(system: Any, dtype: torch.dtype) -> type[Layer] | type[Dense]:
    return _kind(stock_recurrence(system, None, dtype)) if is_stock(system) else Dense


def _kind(recurrence: Recurrence) -> type[Layer] | type[Dense]:
    # A projected LSTM has a state of two sizes, which the loops for layers do not know. Like cells
    # and stacks of Jacobians, it is scanned as dense matrices.
    if isinstance(recurrence, StockRecurrence) and not recurrence.projected:
        return recurrence.kind.compiled
    return Dense


def _weights(problem: DrivenMap) -> int:
    """Return the number of weights in the matrix of a compiled product: of W, or of J_t."""
    recurrence = problem.recurrence
    if isinstance(recurrence, StockRecurrence) and not recurrence.projected:
        return max(layer.weight_hh.numel() for layer in recurrence.layers)
    return problem.tangent_size**2
