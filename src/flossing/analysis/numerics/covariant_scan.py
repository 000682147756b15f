"""The scan forward and back that finds covariant Lyapunov vectors (Ginelli et al. 2007).

Forward, a frame is factored at every step, J_t Q_{t-1} = Q_t R_t. The i-th covariant vector lies
in the span of the first i vectors of the frame, V_t = Q_t C_t with C_t upper triangular, and
J_t V_{t-1} = V_t D_t with D_t diagonal. Inserting one into the other, Q_t R_t C_{t-1} =
Q_t C_t D_t, so that backward in time

    C_{t-1} = R_t^{-1} C_t D_t,

where D_t makes the columns unit vectors. As Q_t is orthonormal, so are then those of V_t, and
log D_t is the growth of the vectors in step t. Starting from the identity, C converges backward
to the coefficients of the covariant vectors; see docs/mathematics.md, Covariant vectors.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.scan.boundaries import Limits, Pace, plan
from flossing.scan.pytorch import Product, scan_forward
from flossing.support.torch_typed import solve_triangular, vector_norm


class CovariantScan(NamedTuple):
    """Unit vectors at the requested points, and their log growth from each point to the next."""

    vectors: Float[Tensor, "points B n k"]
    log_growth: Float[Tensor, "intervals B k"]


class _Point(NamedTuple):
    """Q and C after `steps_done` steps, and the log growth of Q C in the step that follows."""

    steps_done: int
    frame: Float[Tensor, "B n k"]
    coefficients: Float[Tensor, "B k k"]
    log_growth: Float[Tensor, "B k"]


def scan_covariant(
    push: Product, frame: Float[Tensor, "B n k"], steps: int, wanted: range, chunk: int
) -> CovariantScan:
    """Scan forward, then backward chunk by chunk.

    Args:
        push: `push(t, V)` is J_t V.
        frame: orthonormal frame before step 0.
        steps: number of steps.
        wanted: the points at which vectors are returned, as numbers of steps done.
        chunk: steps in a chunk; affects memory only, not the result.

    Raises:
        NonFiniteError: a tangent vector is infinite or NaN.
    """
    batch, _, count = frame.shape
    vectors = frame.new_empty(len(wanted), *frame.shape)
    log_growth = frame.new_zeros(len(wanted) - 1, batch, count)
    for point in _points_backward(push, frame, steps, chunk):
        interval, inside = divmod(point.steps_done - wanted.start, wanted.step)
        if inside == 0 and 0 <= interval < len(vectors):
            vectors[interval] = _with_settled_signs(point.frame @ point.coefficients)
        if 0 <= interval < len(log_growth):
            log_growth[interval] += point.log_growth
    return CovariantScan(vectors, log_growth)


def _points_backward(
    push: Product, frame: Float[Tensor, "B n k"], steps: int, chunk: int
) -> Iterator[_Point]:
    """Yield the points from the last to the first."""
    # Checkpoints, as in backpropagation with sublinear memory (Griewank 1992; Chen et al. 2016):
    # the first pass forward keeps only the frame at which each chunk of c steps starts, T/c of
    # them, and the frames and factors within a chunk, c of each, are computed again when the
    # pass backward reaches it. The sum is least for c = √T.
    #
    # A factorisation at every step makes the frames independent of where chunks begin.
    pace = Pace(1, False, Limits.of(frame.dtype))
    ends = plan((steps,), chunk)
    first_frames = [frame]
    if len(ends) > 1:
        cuts = tuple(ends[:-1])
        first_frames += scan_forward(push, frame, cuts, pace, keep_frames=False).stop_frames
    identity = torch.eye(frame.shape[-1], dtype=frame.dtype, device=frame.device)
    # Any upper triangular C with a diagonal without zeros would do.
    coefficients = identity.repeat(len(frame), 1, 1)
    for start, stop in zip([0, *ends[:-1]][::-1], ends[::-1], strict=True):

        def push_on(step: int, vectors: Tensor, start: int = start) -> Tensor:
            return push(start + step, vectors)

        forward = scan_forward(push_on, first_frames.pop(), (stop - start,), pace, keep_frames=True)
        frames, triangular = cast(Tensor, forward.frames), cast(Tensor, forward.triangular)
        dependent = torch.isneginf(forward.log_growth)
        if stop == steps:
            yield _Point(steps, frames[-1], coefficients, torch.zeros_like(frame[:, 0]))
        for step in reversed(range(stop - start)):
            if bool(dependent[step].any()):
                # The factor R no longer has the dependent images, so they are computed again.
                images = frames[step + 1].mT @ push_on(step, frames[step])
                coefficients, grown = _back_through_lost_rank(
                    coefficients, triangular[step], dependent[step], images
                )
            else:
                # C_{t-1} D_t^{-1} = R_t^{-1} C_t by back substitution, which keeps the zeros below
                # the diagonal exactly. The lengths of its columns are 1/D_t.
                before = solve_triangular(triangular[step], coefficients, upper=True)
                coefficients, lengths = _unit_columns(before)
                grown = -lengths
            yield _Point(start + step, frames[step], coefficients, grown)


def _back_through_lost_rank(
    coefficients: Float[Tensor, "B k k"],
    triangular: Float[Tensor, "B k k"],
    dependent: Bool[Tensor, "B k"],
    images: Float[Tensor, "B k k"],
) -> tuple[Float[Tensor, "B k k"], Float[Tensor, "B k"]]:
    """Step back where images J q_i are combinations of the images of earlier frame vectors.

    Args:
        coefficients: C after the step.
        triangular: R, with the columns of dependent images replaced by those of the identity.
        dependent: which images are combinations of earlier ones.
        images: QᵀJQ, whose columns of dependent images are the actual ones.

    Returns:
        C before the step, and the log growth of its columns.
    """
    identity = torch.eye(len(dependent[0]), dtype=triangular.dtype, device=triangular.device)
    # For a dependent i, the frame after the step has a completion q'_i that is in the image of
    # no tangent vector. Row i of S = R⁻¹ C is what the vectors after the step have of it, and
    # with it they cannot be carried back. Let d be the dependent indices, and Y solve
    # S_dd Y = S_d: then row d of R⁻¹ (C − C_d Y) is zero. So the vectors with indices d, whose
    # exponents are −∞, take the completions out of the others. This changes nothing that is
    # determined, since of vectors with exponents of −∞ only the span is covariant.
    solved = solve_triangular(triangular, coefficients, upper=True)
    # A vector that has nothing left of its own completion cannot take out that of others.
    own = solved.diagonal(dim1=-2, dim2=-1).abs() > torch.finfo(solved.dtype).eps
    rows = (dependent & own).unsqueeze(-1)
    taken_out = solve_triangular(
        torch.where(rows & rows.mT, solved, identity),
        torch.where(rows, solved, 0.0),
        upper=True,
    )
    reached, reached_lengths = _unit_columns(coefficients - coefficients @ taken_out)
    # The i-th covariant vector before the step is the one that J takes to zero: q_i less the
    # combination of earlier frame vectors, of coefficients R⁻¹ (QᵀJ q_i), with the same image.
    to_zero = identity - solve_triangular(triangular, images.triu(1), upper=True)
    before, lengths = _unit_columns(
        torch.where(
            dependent.unsqueeze(-2), to_zero, solve_triangular(triangular, reached, upper=True)
        )
    )
    # With ρ the length of C − C_d Y and ℓ that of its solution, J maps the new vector to
    # (C − C_d Y) / (ρ ℓ): a share 1/(ρ ℓ) of the old one, and of those that were taken out.
    # This share is what multiplies to the product of the R_ii, so that exponents agree.
    grown = -(reached_lengths + lengths)
    return before, grown.masked_fill(dependent, -torch.inf)


def _unit_columns(
    columns: Float[Tensor, "B rows k"],
) -> tuple[Float[Tensor, "B rows k"], Float[Tensor, "B k"]]:
    """Return the columns divided by their lengths, and the logarithms of the lengths."""
    tiny = torch.finfo(columns.dtype).tiny
    # By the largest entry first: the squares of long columns would overflow.
    largest = columns.abs().amax(dim=-2, keepdim=True).clamp(min=tiny)
    columns = columns / largest
    lengths = vector_norm(columns, dim=-2, keepdim=True).clamp(min=tiny)
    return columns / lengths, (largest.log() + lengths.log()).squeeze(-2)


def _with_settled_signs(vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
    """Return the vectors with the sign that makes their largest entry positive."""
    sizes = vectors.abs()
    # Among entries that differ by rounding only, the first one decides, so that the sign does
    # not depend on rounding. Half of the digits separate such entries from really smaller ones.
    margin = 1.0 - torch.finfo(vectors.dtype).eps ** 0.5
    first = (
        (sizes >= margin * sizes.amax(dim=-2, keepdim=True))
        .to(torch.int8)
        .argmax(dim=-2, keepdim=True)
    )
    return vectors * vectors.gather(-2, first).sign()
