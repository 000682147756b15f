# Numba is untyped.
# pyright: reportUnknownMemberType=false
"""Calls of every compiled function, which compile it for all types of arguments that it may meet.

They are the calls of a measurement with gradients, on the smallest tensors.
"""

from typing import Any

import torch
from torch import Tensor

from flossing.compiled import layer_interface, scan_interface
from flossing.compiled.backward import scan_backward, scan_backward_parallel
from flossing.compiled.cells import GruLayer, Layer, LstmLayer, ReluLayer, TanhLayer
from flossing.compiled.forward import scan_forward, scan_forward_parallel
from flossing.compiled.layer_scan import run, run_back, run_back_parallel, run_parallel
from flossing.compiled.tangents import Dense, Gated
from flossing.scan.boundaries import Limits, Pace

KINDS: tuple[type[Layer] | type[Dense], ...] = (TanhLayer, GruLayer, LstmLayer, ReluLayer, Dense)
"""The kinds of layers, which have gated tangent maps, and explicit Jacobians."""

_GATES: dict[type[Layer], int] = {TanhLayer: 1, ReluLayer: 1, GruLayer: 3, LstmLayer: 4}
_SCANS = ((scan_forward, scan_forward_parallel), (scan_backward, scan_backward_parallel))
_RUNS = ((run, run_parallel), (run_back, run_back_parallel))


def compile_serial(kind: type[Layer] | type[Dense], dtype: torch.dtype) -> None:
    """Compile, or load from the cache, what one thread needs for one kind of tangent map."""
    # On the CPU, whatever the default device is. Numba compiles for types, and neither sizes nor
    # values are part of a type: two units and one step will do. What is part of it is the layout
    # of an array, so all tensors must be as contiguous as those of a measurement.
    if issubclass(kind, Dense):
        _scan_dense(torch.eye(2, dtype=dtype, device="cpu").expand(1, 1, 2, 2))
    else:
        _run_layer(kind, dtype)
        _scan_gated(torch.eye(2, dtype=dtype, device="cpu"))


def compile_parallel(kind: type[Layer] | type[Dense], dtype: torch.dtype) -> None:
    """Compile, or load from the cache, what several threads need besides."""
    # Not by calls, for on tensors as small as these the interfaces choose the serial functions. The
    # parallel ones take the same types.
    compile_serial(kind, dtype)
    holders = [(_SCANS, Dense if kind is Dense else Gated), (_RUNS, kind)]
    for pairs, holder in holders:
        for serial, parallel in pairs:
            for signature in serial.signatures:
                if _is_of(signature, holder, dtype):
                    parallel.compile(signature)


def _is_of(signature: tuple[Any, ...], holder: type, dtype: torch.dtype) -> bool:
    """Whether the first argument is a named tuple of that class, and of arrays of that dtype."""
    first = signature[0]
    return first.instance_class is holder and f"torch.{first.types[0].dtype}" == str(dtype)


def _scan_gated(weight: Tensor) -> None:
    tangent = scan_interface.GatedTensors(weight, weight.new_ones(1, 1, 1, 1, 2), None)
    forward = _forward(tangent, weight)
    scan_interface.backward_gated(
        tangent, forward.kept, forward.log_growth, weight[None], of_coefficients=True
    )


def _scan_dense(jacobians: Tensor) -> None:
    forward = _forward(jacobians, jacobians[0, 0])
    scan_interface.backward_dense(jacobians, forward.kept, forward.log_growth, jacobians[0])


def _forward(
    tangent: scan_interface.GatedTensors | Tensor, frame: Tensor
) -> scan_interface.CompiledForward:
    pace = Pace(1, adaptive=True, limits=Limits.of(frame.dtype))
    return scan_interface.forward(tangent, frame[None], (1,), pace, keep=True)


def _run_layer(kind: type[Layer], dtype: torch.dtype) -> None:
    outputs, size = 2 * _GATES[kind], 4 if kind is LstmLayer else 2
    zeros = torch.zeros(0, dtype=dtype, device="cpu").new_zeros
    given = layer_interface.LayerInputs(
        zeros(1, 1, outputs), zeros(outputs, 2), zeros(outputs), zeros(1, size)
    )
    done = layer_interface.run_layer(kind, given)
    layer_interface.run_layer_back(kind, given, done, *done[:3], start=0, window=0)
