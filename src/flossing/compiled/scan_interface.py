"""The compiled scans with tensors as arguments and results."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.compiled.backward import (
    DenseGradient,
    GatedGradient,
    scan_backward,
    scan_backward_parallel,
)
from flossing.compiled.compiler import (
    TILE,
    in_threads,
    link,
    numpy_dtype,
    packed,
    padded,
    steps_per_call,
    threads_for,
)
from flossing.compiled.forward import Frames, Progress, scan_forward, scan_forward_parallel
from flossing.compiled.orthonormal import Space, row_length
from flossing.compiled.tangents import Dense, Gated
from flossing.errors import NonFiniteError
from flossing.scan.boundaries import Pace
from flossing.scan.pytorch import NOT_FINITE
from flossing.support.torch_typed import unflatten

# Rows that are collected for the gradient of W, at least, before they are multiplied. Each product
# reads and writes the m·N·N entries of that gradient once; with 64 multiplications for each entry
# this memory traffic no longer counts, and the collected rows are still in a core's own cache.
_COLLECTED_ROWS = 64


class GatedTensors(NamedTuple):
    """J_t = A_t + C_t W as tensors, see `flossing.systems.tangent.GatedTangent`."""

    weight: Float[Tensor, "mN N"]
    coefficients: Float[Tensor, "T B s m N"]
    diagonal: Float[Tensor, "T B s s N"] | None


class Kept(NamedTuple):
    """What the backward scan needs of the forward scan, in the layout of the compiled scans."""

    ends: list[int]
    rows: Tensor
    triangles: Tensor
    diagonals: Tensor
    currents: Tensor

    def without(self, excluded: Bool[Tensor, "B k"]) -> "Kept":
        """Return the scan with some exponents as constants, as where rank was lost.

        Args:
            excluded: the exponents.
        """
        # A column of R, stored as a row, becomes that of the identity.
        count, width = self.triangles.shape[-2:]
        identity = torch.eye(count, width).to(self.triangles)
        return self._replace(
            triangles=torch.where(excluded.unsqueeze(-1), identity, self.triangles),
            diagonals=self.diagonals.masked_fill(excluded, 0.0),
        )


class CompiledForward(NamedTuple):
    """The result of the forward scan: see `flossing.scan.pytorch.ForwardScan`."""

    log_growth: Float[Tensor, "M B k"]
    stop_frames: list[Tensor]
    pace: Pace
    kept: Kept


def forward(
    tangent: GatedTensors | Float[Tensor, "T B n n"],
    frame: Float[Tensor, "B n k"],
    stops: tuple[int, ...],
    pace: Pace,
    *,
    keep: bool,
) -> CompiledForward:
    """Carry a frame along the trajectory: see `flossing.scan.pytorch.scan_forward`.

    Args:
        tangent: the tangent map, gated or explicit Jacobians.
        frame: orthonormal frame to start from.
        stops: increasing steps that must be boundaries; the last one is the number of steps.
        pace: the interval between boundaries.
        keep: keep what the backward scan needs.

    Raises:
        NonFiniteError: a tangent vector is infinite or NaN.
    """
    batch, size, count = frame.shape
    dtype, steps = numpy_dtype(frame), stops[-1]
    link(dtype)
    # Without gradients one triangle and one product W V serve all boundaries and steps in turn. The
    # frames of all steps are kept in any case: an interval that turns out too long goes back.
    width, kept = row_length(count, dtype), steps if keep else 1
    # The padding is zero, stays zero in every product, and so adds nothing to inner products.
    rows = frame.new_empty(steps + 1, batch * count, padded(size, dtype))
    rows[..., size:] = 0
    rows[0, :, :size] = frame.mT.reshape(batch * count, size)
    triangles = frame.new_empty(kept, batch, count, width)
    diagonals = frame.new_empty(steps, batch, count)
    currents = _currents(tangent, batch * count, kept)
    threads = _threads(tangent, batch, count)
    # As many boundaries as steps, at most; what is not used of them is cut off below.
    filled = Frames(
        rows.numpy(), triangles.numpy(), diagonals.numpy(), np.zeros(steps, dtype=np.int64)
    )
    scan = scan_forward if threads == 1 else scan_forward_parallel
    arguments = (
        _compiled_tangent(tangent, currents, batch, count, threads, backward=False),
        filled,
        size,
        np.array(stops),
        pace,
        Space.of(count, size, dtype, threads),
        np.zeros(threads),
    )
    budget = steps_per_call(_work(tangent, batch, size, count))
    progress = Progress(0, 0, 0, pace.interval, pace.shortened, finite=True)
    # In several calls, for only between two of them is an interrupt heard.
    while progress.finite and progress.step < steps:
        progress = Progress(*in_threads(threads, scan, *arguments, progress, budget))
    if not progress.finite:
        raise NonFiniteError(NOT_FINITE)
    boundaries = progress.boundaries
    return CompiledForward(
        log_growth=diagonals[:boundaries].log(),
        stop_frames=[frames(rows[stop], batch, size).mT.clone().mT for stop in stops],
        pace=pace._replace(interval=progress.interval, shortened=progress.shortened),
        kept=Kept(
            ends=filled.ends[:boundaries].tolist(),
            rows=rows,
            triangles=triangles[:boundaries],
            diagonals=diagonals[:boundaries],
            currents=currents,
        ),
    )


class GatedGradients(NamedTuple):
    """Gradients of a gated tangent map; `None` where it has no such part or it is not wanted."""

    weight: Float[Tensor, "mN N"]
    coefficients: Float[Tensor, "T B s m N"] | None
    diagonal: Float[Tensor, "T B s s N"] | None


def backward_gated(
    tangent: GatedTensors,
    done: Kept,
    weights: Float[Tensor, "M B k"],
    cotangent: Float[Tensor, "B n k"],
    *,
    of_coefficients: bool,
) -> tuple[GatedGradients, Float[Tensor, "B n k"]]:
    """Return the gradients of the tangent map and of the first frame.

    Args:
        tangent: the tangent map.
        done: what the forward scan kept.
        weights: ∂L/∂ log R_ii at every boundary.
        cotangent: ∂L/∂ of the last frame.
        of_coefficients: whether gradients of the coefficients are wanted, or only of the weight.
    """
    batch, _, count = cotangent.shape
    threads = _threads(tangent, batch, count)
    outputs, units = tangent.weight.shape
    dtype = numpy_dtype(cotangent)
    # A thread's share of the rows, at most: shares end at whole tiles. Room for whole steps.
    rows = -(-batch * count // threads) + TILE.rows
    collected = -(-_COLLECTED_ROWS // rows) * rows
    weight = cotangent.new_zeros(threads, outputs, padded(units, dtype))
    # A trajectory's coefficients get a sum over its k vectors. Where these belong to several
    # threads, each adds to a copy of its own; where whole trajectories are dealt out, one copy is
    # enough.
    copies = 1 if batch % threads == 0 else threads
    steps = slice(None) if of_coefficients else slice(0)
    of_c, of_a = (
        each.new_zeros(copies, *each[steps].shape)
        for each in (tangent.coefficients, _diagonal(tangent))
    )
    gradient = GatedGradient(
        weight.numpy(),
        of_c.numpy(),
        of_a.numpy(),
        np.empty((threads, collected, padded(outputs, dtype)), dtype),
        np.empty((threads, collected, padded(units, dtype)), dtype),
        np.zeros(threads, np.int64),
        of_coefficients,
    )
    cotangent = _backward(tangent, gradient, done, weights, cotangent, threads)
    gradients = GatedGradients(
        weight.sum(0)[:, :units],
        _joined(of_c) if of_coefficients else None,
        _joined(of_a) if of_coefficients and tangent.diagonal is not None else None,
    )
    return gradients, cotangent


def _joined(copies: Tensor) -> Tensor:
    return copies[0] if len(copies) == 1 else copies.sum(0)


def backward_dense(
    jacobians: Float[Tensor, "T B n n"],
    done: Kept,
    weights: Float[Tensor, "M B k"],
    cotangent: Float[Tensor, "B n k"],
) -> tuple[Float[Tensor, "T B n k"], Float[Tensor, "B n k"]]:
    """Return the adjoint of all products J_t V_{t-1}, and the gradient of the first frame."""
    batch, size, count = cotangent.shape
    adjoint = torch.empty_like(done.rows[1:])
    threads = _threads(jacobians, batch, count)
    gradient = DenseGradient(adjoint.numpy())
    cotangent = _backward(jacobians, gradient, done, weights, cotangent, threads)
    return frames(adjoint, batch, size), cotangent


def _backward(
    tangent: GatedTensors | Tensor,
    gradient: GatedGradient | DenseGradient,
    done: Kept,
    weights: Tensor,
    cotangent: Tensor,
    threads: int,
) -> Tensor:
    batch, size, count = cotangent.shape
    dtype = numpy_dtype(cotangent)
    long = padded(size, dtype)
    covectors = cotangent.new_zeros(batch * count, long)
    covectors[:, :size] = cotangent.mT.reshape(batch * count, size)
    # log R_ii = −∞ of a lost vector has no gradient, whatever weight it was given.
    weights = torch.where(done.diagonals == 0, 0.0, weights).contiguous()
    kept = Frames(
        done.rows.numpy(), done.triangles.numpy(), done.diagonals.numpy(), np.array(done.ends)
    )
    arguments = (
        _compiled_tangent(tangent, done.currents, batch, count, threads, backward=True),
        gradient,
        kept,
        size,
        weights.numpy(),
        covectors.numpy(),
        np.zeros((threads, long, padded(count, dtype)), dtype),
        np.zeros((batch, count, row_length(count, dtype)), dtype),
    )
    scan = scan_backward if threads == 1 else scan_backward_parallel
    budget = steps_per_call(_work(tangent, batch, size, count))
    boundary, until = len(done.ends) - 1, done.ends[-1]
    while until > 0:
        boundary, until = in_threads(threads, scan, *arguments, boundary, until, budget)
    return frames(covectors, batch, size)


def _work(tangent: GatedTensors | Tensor, batch: int, size: int, count: int) -> int:
    """Return the multiplications of a step, roughly, when every step ends an interval."""
    weight = tangent.weight if isinstance(tangent, GatedTensors) else tangent[0, 0]
    # A factorisation: two passes of two products with the k vectors before.
    return batch * count * (weight.numel() + 4 * size * count)


def _threads(tangent: GatedTensors | Tensor, batch: int, count: int) -> int:
    # One step multiplies B·k rows by a matrix.
    weight = tangent.weight if isinstance(tangent, GatedTensors) else tangent[0, 0]
    return threads_for(batch * count, batch * count * weight.numel())


def _compiled_tangent(
    tangent: GatedTensors | Tensor,
    currents: Tensor,
    batch: int,
    count: int,
    threads: int,
    *,
    backward: bool,
) -> Gated | Dense:
    if isinstance(tangent, GatedTensors):
        weight = tangent.weight
        outputs, units = weight.shape
        dtype = numpy_dtype(weight)
        return Gated(
            # Rows times Wᵀ give W V, and rows times W give Wᵀ (Cᵀ G).
            packed(weight if backward else weight.mT),
            tangent.coefficients.contiguous().numpy(),
            _diagonal(tangent).contiguous().numpy(),
            currents.numpy(),
            np.empty((batch * count, padded(outputs, dtype)), dtype),
            np.empty((batch * count, padded(units, dtype)), dtype),
        )
    dtype = numpy_dtype(tangent)
    size, long, wide = tangent.shape[-1], padded(tangent.shape[-1], dtype), padded(count, dtype)
    # Each thread transposes one trajectory's vectors at a time, in square blocks: padded both ways.
    return Dense(
        tangent.contiguous().numpy(),
        np.zeros((threads, long, wide), dtype),
        np.zeros((threads, size, wide), dtype),
        np.zeros((threads, wide, long), dtype),
    )


def _currents(tangent: GatedTensors | Tensor, rows: int, steps: int) -> Tensor:
    if not isinstance(tangent, GatedTensors):
        return tangent.new_empty(0, 0, 0)
    outputs = len(tangent.weight)
    return tangent.weight.new_empty(steps, rows, padded(outputs, numpy_dtype(tangent.weight)))


def _diagonal(tangent: GatedTensors) -> Tensor:
    # Zero is told by a tensor without entries, whose type is that of any other.
    if tangent.diagonal is not None:
        return tangent.diagonal
    steps, batch, _, _, units = tangent.coefficients.shape
    return tangent.weight.new_empty(steps, batch, 0, 0, units)


def frames(rows: Tensor, batch: int, size: int) -> Float[Tensor, "*leading B n k"]:
    """Return rows [..., B·k, n padded] as frames, views of the same memory."""
    return unflatten(rows, -2, (batch, -1))[..., :size].mT
