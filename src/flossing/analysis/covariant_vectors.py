"""Covariant Lyapunov vectors: the directions in which perturbations grow at each exponent."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.analysis.linearisation import linearise
from flossing.analysis.numerics.covariant_scan import scan_covariant
from flossing.errors import InvalidInputError, InvalidOptionError, LostRankWarning
from flossing.measurement.plan import exponent_count, random_frame
from flossing.support.checks import require_integer
from flossing.support.torch_typed import qr, svdvals, vector_norm
from flossing.systems.recurrence import System

_PIECE = 256


@dataclass(frozen=True)
class CovariantVectors:
    """Covariant Lyapunov vectors of B trajectories at T points along them.

    Vectors and exponents are in the order of the frame that the vectors were found from: the
    first j vectors span the j directions that have grown most, so the exponents descend, but
    for what the finite length of the run leaves.

    Attributes:
        vectors: (T, B, n, k), of unit length, one a column, with the sign that makes the largest
            entry positive. For a stack of layers the rows are layer after layer, for an LSTM h
            before c.
        steps: (T,), steps of the run that are done where the vectors stand: those of index t are
            tangent vectors at the state h_{steps[t]}, of which h_0 is the initial state.
        local: (T−1, B, k), growth rate of each vector from one point to the next, in nats per
            step; −inf where the Jacobians take it to zero.
    """

    vectors: Float[Tensor, "T B n k"]
    steps: Int[Tensor, "T"]
    local: Float[Tensor, "intervals B k"]

    @property
    def exponents(self) -> Float[Tensor, "B k"]:
        """Lyapunov exponents in nats per step: the means of the local rates."""
        return self.local.mean(dim=0)

    @property
    def inverse_participation_ratio(self) -> Float[Tensor, "T B k"]:
        """How localised each vector is, Σ v⁴: 1 for a single unit, 1/n if spread evenly."""
        return self.vectors.pow(4).sum(dim=-2)

    @property
    def angles(self) -> Float[Tensor, "T B k k"]:
        """Angles between the lines along all pairs of vectors, from 0 to π/2, in radians.

        From cosines, which resolve small angles to the square root of the precision only;
        `smallest_angle` is accurate. They take as much memory as all vectors where k is n.
        """
        return _cosines(self.vectors).clamp(max=1.0).acos()

    @property
    def smallest_angle(self) -> Float[Tensor, "T B"]:
        """Smallest angle between any two of the vectors at each point, in radians.

        Near zero the trajectory is close to a tangency, where directions of different growth
        cannot be told apart: the dynamics are not hyperbolic there.

        Raises:
            InvalidOptionError: there is only one vector.
        """
        if self.vectors.shape[-1] < 2:
            raise InvalidOptionError("k=1 vector makes no angle with another: pass a larger k")
        # Piece by piece, since the cosines may take as much memory as the vectors.
        pieces = self.vectors.chunk(len(self.vectors) // _PIECE + 1)
        return torch.cat([_smallest_angle(piece) for piece in pieces])

    def subspace_angle(self, split: int | None = None) -> Float[Tensor, "T B"]:
        """Smallest angle between the span of the first vectors and that of the others.

        It is the first principal angle, from its sine and its cosine (Björck & Golub, Math.
        Comp. 1973), and zero at a homoclinic tangency.

        Args:
            split: how many vectors are the first ones; `None`: in each trajectory those with
                positive exponents, which makes it the angle between the expanding subspace and
                as much of the contracting one as k vectors span.

        Returns:
            Radians, from 0 to π/2.

        Raises:
            InvalidOptionError: there would be no vectors on one of the sides.
        """
        count = self.vectors.shape[-1]
        if split is None:
            splits = [int(positive) for positive in (self.exponents > 0).sum(dim=-1)]
        else:
            splits = [require_integer("split", split, at_least=1)] * self.vectors.shape[1]
        for trajectory, first in enumerate(splits):
            if not 0 < first < count:
                raise InvalidOptionError(
                    f"of the {count} vectors of trajectory {trajectory}, {first} are to be on one "
                    f"side and {count - first} on the other: pass a split from 1 to {count - 1}, "
                    "or compute more vectors (larger k)"
                )
        return torch.stack(
            [
                _principal_angle(vectors[..., :first], vectors[..., first:])
                for vectors, first in zip(self.vectors.unbind(1), splits, strict=True)
            ],
            dim=1,
        )


def covariant_vectors(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    steps: int | None = None,
    k: int | None = None,
    state_transient: int = 0,
    frame_transient: int | None = None,
    backward_transient: int | None = None,
    every: int = 1,
    chunk: int | None = None,
    layer: int | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> CovariantVectors:
    r"""Covariant Lyapunov vectors along a trajectory: one direction for each exponent.

    At every point of a trajectory the tangent space splits into directions v_1, …, v_n that the
    Jacobians carry into each other,

    .. math:: J_t v_i(t-1) = \gamma_i(t)\, v_i(t), \qquad
              \lambda_i = \langle \log |\gamma_i| \rangle,

    forward as well as backward in time. Unlike the orthonormal frames of
    `flossing.lyapunov_spectrum` they do not depend on a scalar product, and the angles between
    them tell how near the dynamics are to a tangency of expanding and contracting directions.
    They are found by the algorithm of Ginelli et al. (Phys. Rev. Lett. 2007; see also Kuptsov &
    Parlitz, J. Nonlinear Sci. 2012): frames forward, their triangular factors backward.

    The relation above holds to rounding everywhere: to the precision times the norm of the
    Jacobian over |γ_i|. That the vectors are those of the infinite trajectory takes transients
    at both ends, over which the error shrinks like exp((λ_{i+1} − λ_i) t). Where exponents
    coincide (a rotation, a complex pair of eigenvalues, an orthogonal network) only the span of
    their vectors is determined. So it is where they are −∞: those vectors are taken to zero at
    steps where rank is lost.

    Args:
        system: see `flossing.lyapunov_spectrum`.
        inputs: see there; sequences must be equally long.
        state: see there.
        steps: see there.
        k: how many vectors; `None` for all n of the state.
        state_transient: see there.
        frame_transient: so many further steps align the frame; the first vectors stand after
            them. `None`: a tenth of the rest.
        backward_transient: so many last steps align the vectors backward; the last ones stand
            before them. `None`: as many as the frame gets by default.
        every: steps between the points at which vectors are returned.
        chunk: steps whose frames are held in memory at a time; the frames forward are computed
            twice. The results do not depend on it. `None`: about the square root of the number
            of steps, which needs least memory.
        layer: see there.
        dtype: see there; `torch.float64` is worth its cost here.
        generator: see there.

    Returns:
        The vectors, (T, B, n, k) at T points, with exponents, local rates, angles, localisation.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: bad inputs, or too few steps for the transients.
        InvalidStateError: a bad initial state.
        InvalidOptionError: an option outside what it may be.
        NonFiniteError: the trajectory or its Jacobians leave the finite numbers.

    Warns:
        LostRankWarning: some exponents are −inf.

    Example:
        The covariant vectors of a linear map are its eigenvectors:

        >>> import torch, flossing
        >>> weight = torch.tensor([[1.5, 2.0], [0.5, 0.0]], dtype=torch.float64)
        >>> found = flossing.covariant_vectors(
        ...     lambda h: h @ weight.T, state=torch.zeros(2, dtype=torch.float64), steps=100
        ... )
        >>> found.vectors[40, 0]
        tensor([[ 0.9701,  0.7071],
                [ 0.2425, -0.7071]], dtype=torch.float64)
        >>> found.exponents.exp()
        tensor([[2.0000, 0.5000]], dtype=torch.float64)
        >>> print(f"{found.smallest_angle[40].item():.4f}")
        1.0304
    """
    if k is not None:
        require_integer("k", k, at_least=1)
    require_integer("every", every, at_least=1)
    line = linearise(
        system,
        inputs,
        state,
        steps=steps,
        layer=layer,
        dtype=dtype,
        state_transient=state_transient,
        exponents=k,
    )
    wanted = _wanted(line.steps, frame_transient, backward_transient, every)
    if chunk is None:
        chunk = math.isqrt(line.steps - 1) + 1
    require_integer("chunk", chunk, at_least=1)
    count = exponent_count(k, line.size)
    frame = random_frame(line.states[0], line.size, count, generator)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(frame.device.type, enabled=False),
    ):
        scan = scan_covariant(line.tangent.push, frame, line.steps, wanted, chunk)
        result = CovariantVectors(
            vectors=scan.vectors,
            steps=state_transient + torch.tensor(wanted),
            local=scan.log_growth / every,
        )
    _warn_of_lost_rank(result)
    return result


def _wanted(
    steps: int, frame_transient: int | None, backward_transient: int | None, every: int
) -> range:
    """Return how many steps after the state transient are done where vectors are wanted."""
    first = steps // 10 if frame_transient is None else frame_transient
    last = steps // 10 if backward_transient is None else backward_transient
    require_integer("frame_transient", first, at_least=0)
    require_integer("backward_transient", last, at_least=0)
    wanted = range(first, steps - last + 1, every)
    if len(wanted) < 2:
        raise InvalidInputError(
            f"of {steps} steps frame_transient={first} and backward_transient={last} leave "
            f"{max(0, steps - first - last)}, too few for two points every={every} steps: pass a "
            "longer sequence or smaller transients"
        )
    return wanted


def _warn_of_lost_rank(result: CovariantVectors) -> None:
    lost = torch.isneginf(result.exponents)
    if bool(lost.any()):
        warnings.warn(
            f"rank was lost: up to {int(lost.sum(dim=-1).max())} of {lost.shape[-1]} exponents "
            "are −inf, because the Jacobians are singular or nearer to it than "
            f"{result.vectors.dtype} can tell, and of their vectors only the span means "
            "anything; choose a smaller k, or compute with dtype=torch.float64",
            LostRankWarning,
            stacklevel=3,
        )


def _cosines(vectors: Float[Tensor, "T B n k"]) -> Float[Tensor, "T B k k"]:
    return (vectors.mT @ vectors).abs()


def _smallest_angle(vectors: Float[Tensor, "T B n k"]) -> Float[Tensor, "T B"]:
    count = vectors.shape[-1]
    nearest = _cosines(vectors).triu(1).flatten(-2).argmax(dim=-1)
    first, second = (
        vectors.gather(-1, index[..., None, None].expand(*vectors.shape[:-1], 1)).squeeze(-1)
        for index in (nearest // count, nearest % count)
    )
    second = torch.where((first * second).sum(dim=-1, keepdim=True) < 0, -second, second)
    # From the diagonals of a rhombus: unlike the arc cosine, accurate for small angles.
    return 2 * torch.atan2(vector_norm(first - second, dim=-1), vector_norm(first + second, dim=-1))


def _principal_angle(
    first: Float[Tensor, "T n p"], second: Float[Tensor, "T n q"]
) -> Float[Tensor, "T"]:
    basis, other = qr(first)[0], qr(second)[0]
    overlap = basis.mT @ other
    sine = svdvals(other - basis @ overlap)[..., -1]
    return torch.atan2(sine, svdvals(overlap)[..., 0])
