"""The backward scan: the adjoint of the forward scan, and the gradients of the tangent map.

See docs/mathematics.md, The adjoint scan and Gradients of gated maps.
"""

from typing import Any, NamedTuple

from numba import prange
from numba.extending import overload

from flossing.compiled.compiler import TILE, inlined, serial_and_parallel, unchecked
from flossing.compiled.products import FULL, LOWER, multiply, solve, transpose
from flossing.compiled.tangents import is_gated, pull, share

# Rows of the correction, a triangle, that are one product: with entries up to the diagonal of the
# last of them, so the fewer rows, the fewer entries above the diagonal are computed in vain, and
# the more evenly threads share; 16 are still whole tiles, on every processor.
_CHUNK = 16
_VECTOR_BYTES = TILE.vector_bytes


class GatedGradient(NamedTuple):
    """Gradients of a gated tangent map, to be added to.

    Attributes:
        weight: of W [threads, m·N, N].
        coefficients: of C [copies, T, B, s, m, N], a copy for every thread or only one.
        diagonal: of A, likewise.
        gates: work space [threads, R, m·N]: the left factors of the gradient of W.
        inputs: work space [threads, R, N]: the right factors.
        filled: rows of that in use [threads].
        wanted: whether the coefficients' gradient is wanted.
    """

    weight: Any
    coefficients: Any
    diagonal: Any
    gates: Any
    inputs: Any
    filled: Any
    wanted: bool


class DenseGradient(NamedTuple):
    """The adjoint of every product J_t V_{t-1}, [T, B·k, n]."""

    adjoint: Any


def _scan(
    tangent: Any,
    gradient: Any,
    frames: Any,
    size: int,
    weights: Any,
    covectors: Any,
    columns: Any,
    corrections: Any,
    boundary: int,
    until: int,
    budget: int,
) -> Any:
    """Go back from the last boundary towards the first step, some steps at a time.

    Args:
        tangent: the tangent map.
        gradient: filled in.
        frames: what the forward scan filled.
        size: n.
        weights: ∂L/∂ log R_ii at every boundary [M, B, k].
        covectors: the gradient of the last frame [B·k, n]; afterwards that of the first.
        columns: work space [threads, n, k].
        corrections: work space [B, k, k].
        boundary: the boundary at the end of the interval to go back through.
        until: the first of the steps done already, or that boundary.
        budget: steps to take.

    Returns:
        `boundary` and `until` to go on with.
    """
    # With G = ∂L/∂Q before a boundary V = Q R, and C = QᵀG, at the boundary
    #   G ← (G − Q (triu(C) − diag w)) R^{-T}.
    # Frames and adjoints are stored transposed, as rows Qᵀ and Gᵀ, and Rᵀ is a lower triangle. The
    # transpose of the recursion is
    #   K = tril(Gᵀ Q) − diag w,    Gᵀ ← R^{-1} (Gᵀ − K Qᵀ),
    # with K the correction. Of K every row needs the whole of its row of Gᵀ; of the second part
    # every column can be solved alone, but needs all of K. Hence two parallel loops, a barrier
    # between them, then a third for the steps G ← J_tᵀ G of the interval, row by row.
    _, trajectories, vectors = weights.shape
    threads = len(columns)
    # Where there are fewer trajectories than threads, a team of threads shares a trajectory: the
    # rows of K, then the columns of G.
    team = max(1, threads // trajectories)
    while until > 0 and budget > 0:
        start = frames.ends[boundary - 1] if boundary else 0
        if until == frames.ends[boundary]:
            for thread in prange(threads):
                for trajectory in range(thread // team, trajectories, threads // team):
                    _correct(
                        frames, size, boundary, trajectory, weights, covectors, columns[thread],
                        corrections[trajectory], thread % team, team,
                    )  # fmt: skip
            for thread in prange(threads):
                for trajectory in range(thread // team, trajectories, threads // team):
                    _through_factor(
                        frames, boundary, trajectory, covectors, corrections[trajectory],
                        thread % team, team,
                    )  # fmt: skip
        first = max(start, until - budget)
        for thread in prange(threads):
            own = share(thread, threads, trajectories, vectors)
            for step in range(until - 1, first - 1, -1):
                step_back(tangent, gradient, step, own, frames.rows[step], covectors)
        budget -= until - first
        until = first
        if until == start:
            boundary -= 1
    return boundary, until


scan_backward, scan_backward_parallel = serial_and_parallel(_scan)


@inlined
def _correct(
    frames: Any,
    size: int,
    boundary: int,
    trajectory: int,
    weights: Any,
    covectors: Any,
    columns: Any,
    correction: Any,
    member: int,
    team: int,
) -> None:
    """Fill in a member's rows of the correction K = tril(Gᵀ Q) − diag w of one trajectory."""
    count = weights.shape[2]
    rows = slice(trajectory * count, (trajectory + 1) * count)
    frame, target = frames.rows[frames.ends[boundary], rows], covectors[rows]
    # Q itself, as the right factor of a product. Each member of a team transposes it for itself,
    # which costs n k beside the n k² of the product and saves a barrier.
    transpose(frame, count, size, columns)
    chunks = (count + _CHUNK - 1) // _CHUNK
    # Dealt out in turn, for later ones are longer.
    for chunk in range(member, chunks, team):
        start, stop = chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK)
        multiply(
            target[start:stop], False, FULL, stop - start, size, columns, 0,
            correction[start:stop], 0, stop, 1.0, False,
        )  # fmt: skip
        for row in range(start, stop):
            correction[row, row] -= weights[boundary, trajectory, row]
            # The strict upper triangle of K, which in exact arithmetic is not zero, is no part of
            # the recursion; products with a lower triangle read some of it.
            for column in range(row + 1, count):
                correction[row, column] = 0


@inlined
def _through_factor(
    frames: Any,
    boundary: int,
    trajectory: int,
    covectors: Any,
    correction: Any,
    member: int,
    team: int,
) -> None:
    """Take Gᵀ ← R^{-1} (Gᵀ − K Qᵀ) for a member's columns of one trajectory's rows Gᵀ."""
    count = frames.diagonals.shape[2]
    rows = slice(trajectory * count, (trajectory + 1) * count)
    frame, target = frames.rows[frames.ends[boundary], rows], covectors[rows]
    # The columns in whole vector registers, [first, first + length).
    lanes = _VECTOR_BYTES // target.itemsize
    vectors = target.shape[1] // lanes
    first = member * vectors // team * lanes
    length = (member + 1) * vectors // team * lanes - first
    multiply(
        correction, False, LOWER, count, count, frame, first, target, first, length, -1.0, True
    )
    solve(frames.triangles[boundary, trajectory], target, first, length)
    # A vector that lost rank was replaced, and does not depend on the one before.
    for row in range(count):
        if frames.diagonals[boundary, trajectory, row] == 0:
            own = target[row][first : first + length]
            for column in range(length):
                own[column] = 0


def step_back(
    tangent: Any, gradient: Any, step: Any, share: Any, vectors: Any, covectors: Any
) -> None:
    """Replace G, the adjoint of J_t V_{t-1}, by J_tᵀ G, and add to the gradients.

    Steps come in descending order down to zero. `vectors` are V_{t-1}.
    """
    raise NotImplementedError("for compiled code only")


@overload(step_back)
def _step_back(  # pyright: ignore[reportUnusedFunction]
    tangent: Any,
    gradient: Any,  # noqa: ARG001
    step: Any,  # noqa: ARG001
    share: Any,  # noqa: ARG001
    vectors: Any,  # noqa: ARG001
    covectors: Any,  # noqa: ARG001
) -> Any:
    return unchecked(_step_back_gated if is_gated(tangent) else _step_back_dense)


def _step_back_dense(
    tangent: Any,
    gradient: Any,
    step: Any,
    share: Any,
    vectors: Any,  # noqa: ARG001
    covectors: Any,
) -> None:
    # Ā_t = G, of which ∂L/∂J_t = Ā_t V_{t-1}ᵀ: left to one batched product for all steps.
    for row in range(share.first, share.last):
        for column in range(covectors.shape[1]):
            gradient.adjoint[step, row, column] = covectors[row, column]
    pull(tangent, step, share, covectors)


def _step_back_gated(
    tangent: Any, gradient: Any, step: Any, share: Any, vectors: Any, covectors: Any
) -> None:
    # In this order: the coefficients need G as it arrives, `pull` overwrites it and leaves Cᵀ G in
    # the work space of the map, and the gradient of W needs that.
    if gradient.wanted:
        _add_coefficients(tangent, gradient, step, share, vectors, covectors)
    pull(tangent, step, share, covectors)
    _add_weight(tangent, gradient, share, vectors, step == 0)


@inlined
def _add_coefficients(
    tangent: Any, gradient: Any, step: Any, share: Any, vectors: Any, covectors: Any
) -> None:
    """Add to the gradients of C and A of one step."""
    # dL = Σ_rows gᵀ (dC W v + dA v), so for every unit, with z = W v kept from the forward scan,
    #   ∂L/∂C_iγ = Σ_j g_i z_γ,    ∂L/∂A_il = Σ_j g_i v_l,
    # summed over the k rows j of a trajectory. Threads that share a trajectory add to copies.
    copy = share.thread % len(gradient.coefficients)
    of_coefficients, of_diagonal = gradient.coefficients[copy, step], gradient.diagonal[copy, step]
    currents = tangent.currents[step]
    _, blocks, gates, units = of_coefficients.shape
    for row in range(share.first, share.last):
        trajectory = row // share.vectors
        for block in range(blocks):
            for gate in range(gates):
                for unit in range(units):
                    covector = covectors[row, block * units + unit]
                    product = covector * currents[row, gate * units + unit]
                    of_coefficients[trajectory, block, gate, unit] += product
            for other in range(of_diagonal.shape[1]):
                for unit in range(units):
                    covector = covectors[row, block * units + unit]
                    product = covector * vectors[row, other * units + unit]
                    of_diagonal[trajectory, block, other, unit] += product


@inlined
def _add_weight(tangent: Any, gradient: Any, share: Any, vectors: Any, last: bool) -> None:
    """Add to the gradient of W, now or once enough rows are collected."""
    # dL = Σ_rows (Cᵀ g)ᵀ dW v, so ∂L/∂W = Σ_t Σ_rows (Cᵀ g) vᵀ, over all steps. One step's rows may
    # be as few as k = 1, for m·N·N entries of W to be read and written. So the two factors of
    # several steps are collected as rows of two matrices, whose product is one of greater depth.
    thread, start = share.thread, share.first
    rows = share.last - start
    gates, inputs = gradient.gates[thread], gradient.inputs[thread]
    weight = gradient.weight[thread]
    outputs, units = weight.shape[0], tangent.coefficients.shape[4]
    filled = gradient.filled[thread]
    for row in range(rows):
        for column in range(outputs):
            gates[filled + row, column] = tangent.gates[start + row, column]
        for column in range(units):
            inputs[filled + row, column] = vectors[start + row, column]
    filled += rows
    # Full where the next step's rows, as many as this one's, would not fit.
    if last or filled + rows > len(gates):
        multiply(gates, True, FULL, outputs, filled, inputs, 0, weight, 0, units, 1.0, True)
        filled = 0
    gradient.filled[thread] = filled
