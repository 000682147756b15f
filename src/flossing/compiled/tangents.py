"""Tangent maps on rows: V ↦ J_t V and G ↦ J_tᵀ G, for gated and for explicit Jacobians.

See docs/mathematics.md, Tangent maps of the layers and Gradients of gated maps. Row b·k + j is
vector j of trajectory b. The functions work on one thread's share of the rows.
"""

from typing import Any, NamedTuple

from numba.core import types
from numba.extending import overload

from flossing.compiled.compiler import TILE, inlined, unchecked
from flossing.compiled.products import FULL, multiply, multiply_packed, transpose

_TILE_ROWS = TILE.rows


class Gated(NamedTuple):
    """J_t = A_t + C_t W, with s state blocks and m gates of N units each.

    Attributes:
        panels: Wᵀ for `push`, or W for `pull`, in panels as wide as a tile.
        coefficients: C [T, B, s, m, N].
        diagonal: A [T, B, s, s, N], or [T, B, 0, 0, N] for A = 0.
        currents: W V_{t-1} of every step, [T, B·k, m·N], or work space for one step [1, B·k, m·N].
        gates: work space [B·k, m·N].
        through_weight: work space [B·k, N].
    """

    panels: Any
    coefficients: Any
    diagonal: Any
    currents: Any
    gates: Any
    through_weight: Any


class Dense(NamedTuple):
    """Explicit Jacobians.

    Attributes:
        jacobians: [T, B, n, n].
        columns: work space [threads, n, k].
        images: work space [threads, n, k].
        rows: work space [threads, k, n].
    """

    jacobians: Any
    columns: Any
    images: Any
    rows: Any


class Share(NamedTuple):
    """The rows from `first` to before `last`, which one of several threads works on.

    `vectors` is the number of rows of a trajectory.
    """

    thread: int
    first: int
    last: int
    vectors: int


@inlined
def share(thread: int, threads: int, trajectories: int, vectors: int) -> Any:
    """Return one thread's share of the rows of all trajectories, of `vectors` rows each."""
    # Whole trajectories where they can be shared equally: then no two threads add to the same
    # coefficients' gradients. Elsewhere shares end at whole tiles, for the rest of a tile costs
    # almost as much time as a whole one.
    rows = trajectories * vectors
    first, last = thread * rows // threads, (thread + 1) * rows // threads
    if trajectories % threads != 0:
        first -= first % _TILE_ROWS
        last -= last % _TILE_ROWS if thread + 1 < threads else 0
    return Share(thread, first, last, vectors)


# Which of two implementations `push` and `pull` are is decided when their callers are compiled, by
# the type of the tangent map: `overload` gives Numba a function that looks at types and returns the
# one to compile.


def push(tangent: Any, step: Any, share: Any, vectors: Any, images: Any) -> None:
    """Write J_t V into the share's rows of `images`, given those of `vectors`."""
    raise NotImplementedError("for compiled code only")


def pull(tangent: Any, step: Any, share: Any, covectors: Any) -> None:
    """Replace the share's rows G of `covectors` by J_tᵀ G."""
    raise NotImplementedError("for compiled code only")


@overload(push)
def _push(tangent: Any, step: Any, share: Any, vectors: Any, images: Any) -> Any:  # noqa: ARG001 # pyright: ignore[reportUnusedFunction]
    return unchecked(_push_gated if is_gated(tangent) else _push_dense)


@overload(pull)
def _pull(tangent: Any, step: Any, share: Any, covectors: Any) -> Any:  # noqa: ARG001 # pyright: ignore[reportUnusedFunction]
    return unchecked(_pull_gated if is_gated(tangent) else _pull_dense)


def is_gated(tangent: Any) -> bool:
    """Whether Numba's type of a tangent map is that of a gated one."""
    return isinstance(tangent, types.NamedTuple) and tangent.instance_class is Gated  # pyright: ignore[reportUnknownMemberType]


def _push_gated(tangent: Any, step: Any, share: Any, vectors: Any, images: Any) -> None:
    # The frames V [n, k] are stored as rows Vᵀ, so (W V)ᵀ = Vᵀ Wᵀ: one product for the rows of all
    # trajectories, because W is the same for all. W takes the first N entries of a state, its h.
    start, stop = share.first, share.last
    # All steps are kept where gradients will need W V, else one place serves all of them.
    currents = tangent.currents[step % len(tangent.currents)]
    multiply_packed(vectors[start:stop], stop - start, tangent.panels, currents[start:stop])
    coefficients, diagonal = tangent.coefficients[step], tangent.diagonal[step]
    _, blocks, gates, units = coefficients.shape
    # With z = W v, for every block i of the state and every unit:
    #   (J v)_i = Σ_g C_ig z_g + Σ_j A_ij v_j.
    # The sums over g and j are loops around that over units, which is contiguous in all arrays.
    for row in range(start, stop):
        trajectory = row // share.vectors
        for block in range(blocks):
            # The first gate sets, the others add.
            for unit in range(units):
                factor = coefficients[trajectory, block, 0, unit]
                images[row, block * units + unit] = factor * currents[row, unit]
            for gate in range(1, gates):
                for unit in range(units):
                    factor = coefficients[trajectory, block, gate, unit]
                    current = currents[row, gate * units + unit]
                    images[row, block * units + unit] += factor * current
            for other in range(diagonal.shape[1]):
                for unit in range(units):
                    factor = diagonal[trajectory, block, other, unit]
                    vector = vectors[row, other * units + unit]
                    images[row, block * units + unit] += factor * vector


def _pull_gated(tangent: Any, step: Any, share: Any, covectors: Any) -> None:
    # Jᵀ g = Wᵀ (Cᵀ g) + Aᵀ g. Here gates = Cᵀ g, of which the gradient of W is made as well:
    #   (Cᵀ g)_γ = Σ_i C_iγ g_i    for every gate γ and every unit.
    start, stop = share.first, share.last
    gates, through_weight = tangent.gates, tangent.through_weight
    coefficients, diagonal = tangent.coefficients[step], tangent.diagonal[step]
    _, blocks, count, units = coefficients.shape
    for row in range(start, stop):
        trajectory = row // share.vectors
        for gate in range(count):
            for unit in range(units):
                factor = coefficients[trajectory, 0, gate, unit]
                gates[row, gate * units + unit] = factor * covectors[row, unit]
            for block in range(1, blocks):
                for unit in range(units):
                    factor = coefficients[trajectory, block, gate, unit]
                    covector = covectors[row, block * units + unit]
                    gates[row, gate * units + unit] += factor * covector
    # (Wᵀ Cᵀ g)ᵀ = (Cᵀ g)ᵀ W, N numbers a row, which belong to h.
    multiply_packed(gates[start:stop], stop - start, tangent.panels, through_weight[start:stop])
    others = diagonal.shape[1]
    for row in range(start, stop):
        _pull_diagonal(covectors[row], diagonal[row // share.vectors], others, units)
        for unit in range(units):
            # Without blocks A is zero, and what `covectors` holds is still g.
            direct = covectors[row, unit] if others else 0
            covectors[row, unit] = through_weight[row, unit] + direct


@inlined
def _pull_diagonal(covector: Any, diagonal: Any, blocks: int, units: int) -> None:
    """Replace g by Aᵀ g, of at most two blocks."""
    # In place: (Aᵀ g)_j = Σ_i A_ij g_i, with both blocks of a unit read before either is written.
    if blocks == 1:
        for unit in range(units):
            covector[unit] *= diagonal[0, 0, unit]
    elif blocks == 2:
        for unit in range(units):
            first, second = covector[unit], covector[units + unit]
            covector[unit] = diagonal[0, 0, unit] * first + diagonal[1, 0, unit] * second
            covector[units + unit] = diagonal[0, 1, unit] * first + diagonal[1, 1, unit] * second


def _push_dense(tangent: Any, step: Any, share: Any, vectors: Any, images: Any) -> None:
    _multiply_dense(tangent, step, share, False, vectors, images)


def _pull_dense(tangent: Any, step: Any, share: Any, covectors: Any) -> None:
    _multiply_dense(tangent, step, share, True, covectors, covectors)


@inlined
def _multiply_dense(
    tangent: Any, step: Any, share: Any, transposed: bool, vectors: Any, images: Any
) -> None:
    """Write J V or Jᵀ V into `images`, which may be `vectors`."""
    # Each trajectory has its own Jacobian, n² numbers for k vectors: to read it once, contiguously
    # and without packing, is what this is about. It is the left factor, whose single entries a
    # tile takes in turn, with either stride; so V goes from rows to columns and J V back.
    columns, products = tangent.columns[share.thread], tangent.images[share.thread]
    rows = tangent.rows[share.thread]
    start = share.first
    while start < share.last:
        # A share may begin and end within a trajectory.
        trajectory = start // share.vectors
        stop = min(share.last, (trajectory + 1) * share.vectors)
        count, jacobian = stop - start, tangent.jacobians[step, trajectory]
        size = len(jacobian)
        transpose(vectors[start:stop], count, size, columns)
        multiply(jacobian, transposed, FULL, size, size, columns, 0, products, 0, count, 1.0, False)
        transpose(products, size, count, rows)
        # Not transposed into `images` at once: whole blocks would overwrite the next rows.
        for row in range(count):
            for column in range(size):
                images[start + row, column] = rows[row, column]
        start = stop
