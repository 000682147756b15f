"""`covariant_vectors`: the directions in which perturbations grow at the rate of each exponent."""

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
from flossing.measurement.plan import checked_duration, exponent_count, random_frame
from flossing.support.autocast import without_autocast
from flossing.support.checks import require_integer
from flossing.support.eval_mode import in_eval_mode
from flossing.support.printing import Printed
from flossing.support.torch_typed import qr, svdvals, vector_norm
from flossing.systems.recurrence import System

# Points whose cosines are held in memory at a time; for k = n they take as much as the vectors.
_WINDOW = 256


@dataclass(frozen=True, repr=False)
class CovariantVectors(Printed):
    """Covariant Lyapunov vectors of B trajectories at T points along them.

    Vectors and exponents are in the order of the columns of the frame: the first j vectors span
    the subspace of the j directions that have grown most, so that exponents descend, up to the
    fluctuations of a finite run.

    Attributes:
        vectors: (T, B, n, k), columns of unit length, with the sign that makes the largest entry
            positive. Rows are layer after layer for a stack, h before c for an LSTM.
        steps: (T,), number of steps done at each point: vectors of index t are tangent vectors at
            the state h_{steps[t]}, where h_0 is the initial state.
        local: (T−1, B, k), growth rate of each vector from one point to the next, in nats per
            unit time; −inf where the Jacobians map it to zero.
        dt: duration of a step in the caller's unit of time.
    """

    vectors: Float[Tensor, "T B n k"]
    steps: Int[Tensor, "T"]
    local: Float[Tensor, "intervals B k"]
    dt: float = 1.0

    @property
    def exponents(self) -> Float[Tensor, "B k"]:
        """Lyapunov exponents in nats per unit time: the means of the local rates."""
        return self.local.mean(dim=0)

    @property
    def inverse_participation_ratio(self) -> Float[Tensor, "T B k"]:
        """Localisation of each vector, Σ v⁴: 1 on a single unit, 1/n if spread evenly."""
        return self.vectors.pow(4).sum(dim=-2)

    @property
    def angles(self) -> Float[Tensor, "T B k k"]:
        """Angles between the lines along all pairs of vectors, from 0 to π/2, in radians.

        Computed from cosines, which resolve small angles only to the square root of the
        precision; `smallest_angle` is accurate. For k = n they take as much memory as `vectors`.
        """
        return _cosines(self.vectors).clamp(max=1.0).acos()

    @property
    def smallest_angle(self) -> Float[Tensor, "T B"]:
        """Smallest angle between any two of the vectors at each point, in radians.

        Near zero the trajectory is close to a tangency, where directions of different growth
        nearly coincide: the dynamics are not hyperbolic there.

        Raises:
            InvalidOptionError: there is only one vector.
        """
        if self.vectors.shape[-1] < 2:
            raise InvalidOptionError("k=1 vector makes no angle with another: pass a larger k")
        windows = self.vectors.chunk(len(self.vectors) // _WINDOW + 1)
        return torch.cat([_smallest_angle(window) for window in windows])

    def subspace_angle(self, split: int | None = None) -> Float[Tensor, "T B"]:
        """Compute the smallest angle between the span of the first vectors and that of the others.

        This is the first principal angle, computed from its sine and its cosine (Björck & Golub,
        Math. Comp. 1973). It is zero at a homoclinic tangency.

        Args:
            split: number of first vectors. `None`: in each trajectory those with positive
                exponents, for the angle between the expanding subspace and the part of the
                contracting one that k vectors span.

        Returns:
            Angles in radians, from 0 to π/2.

        Raises:
            InvalidOptionError: one of the two groups would be empty.
        """
        count = self.vectors.shape[-1]
        if split is None:
            splits = [int(positive) for positive in (self.exponents > 0).sum(dim=-1)]
        else:
            splits = [require_integer("split", split, at_least=1)] * self.vectors.shape[1]
        for trajectory, first in enumerate(splits):
            if not 0 < first < count:
                raise InvalidOptionError(
                    f"the {count} vectors of trajectory {trajectory} are divided into {first} and "
                    f"{count - first}, but both groups need one: pass a split from 1 to "
                    f"{count - 1}, or compute more vectors (larger k)"
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
    dt: float = 1.0,
    generator: torch.Generator | None = None,
) -> CovariantVectors:
    r"""Compute covariant Lyapunov vectors along a trajectory, one direction for each exponent.

    At every point of a trajectory the tangent space splits into directions v_1, …, v_n that the
    Jacobians map onto each other,

    .. math:: J_t v_i(t-1) = \gamma_i(t)\, v_i(t), \qquad
              \lambda_i = \langle \log |\gamma_i| \rangle,

    both forward and backward in time. Unlike the orthonormal frames of
    `flossing.lyapunov_spectrum` they do not depend on the choice of a scalar product, and the
    angles between them measure how near the dynamics are to a tangency of expanding and
    contracting directions. They are computed by the algorithm of Ginelli et al. (Phys. Rev. Lett.
    2007; J. Phys. A 2013; see also Kuptsov & Parlitz, J. Nonlinear Sci. 2012): a pass forward
    with QR factorisations, and a pass backward through their triangular factors.

    The relation above holds everywhere up to rounding, the unit roundoff times the norm of the
    Jacobian over |γ_i|. To be those of the infinite trajectory, the vectors need transients at
    both ends, over which the error shrinks like exp((λ_{i+1} − λ_i) t). Where exponents coincide
    (a rotation, a complex pair of eigenvalues, an orthogonal network) only the span of their
    vectors is determined. The same holds where exponents are −∞: the Jacobians map those vectors
    to zero at steps where rank is lost.

    Args:
        system: as in `flossing.lyapunov_spectrum`.
        inputs: as in `flossing.lyapunov_spectrum`. In a `PackedSequence` of different lengths,
            vectors are those along the steps that all sequences have.
        state: as in `flossing.lyapunov_spectrum`.
        steps: as in `flossing.lyapunov_spectrum`.
        k: number of vectors; `None` for all n dimensions of the state.
        state_transient: as in `flossing.lyapunov_spectrum`.
        frame_transient: number of further steps that align the frame; the first vectors are those
            after them. `None`: a tenth of the rest.
        backward_transient: number of last steps that align the vectors backward; the last vectors
            are those before them. `None`: a tenth of the steps after the state transient.
        every: steps between the points at which vectors are returned.
        chunk: number of steps whose frames are held in memory at a time; the forward pass is
            computed twice. The results do not depend on it. `None`: about the square root of the
            number of steps, which minimises memory.
        layer: as in `flossing.lyapunov_spectrum`.
        dtype: as in `flossing.lyapunov_spectrum`; `torch.float64` is recommended.
        dt: duration of a step; exponents and local rates are per unit of time.
        generator: as in `flossing.lyapunov_spectrum`.

    Returns:
        Vectors at T points, (T, B, n, k), with exponents, local rates, angles and localisation.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: invalid inputs, or too few steps for the transients.
        InvalidStateError: an invalid initial state.
        InvalidOptionError: an option has an invalid value.
        NonFiniteError: the trajectory or its Jacobians are infinite or NaN.

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
        k = require_integer("k", k, at_least=1)
    every = require_integer("every", every, at_least=1)
    dt = checked_duration(dt)
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
    shortest = min(line.lengths)
    wanted = _wanted(shortest, frame_transient, backward_transient, every)
    if chunk is None:
        chunk = math.isqrt(shortest - 1) + 1
    chunk = require_integer("chunk", chunk, at_least=1)
    count = exponent_count(k, line.size)
    frame = random_frame(line.states[0], line.size, count, generator)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast(),
        in_eval_mode(system),
    ):
        scan = scan_covariant(line.tangent.push, frame, shortest, wanted, chunk)
        result = CovariantVectors(
            vectors=scan.vectors,
            steps=state_transient + torch.tensor(wanted),
            local=scan.log_growth / (every * dt),
            dt=dt,
        )
    _warn_of_lost_rank(result)
    return result


def _wanted(
    steps: int, frame_transient: int | None, backward_transient: int | None, every: int
) -> range:
    """Return the points at which vectors are wanted, in steps after the state transient."""
    first = steps // 10 if frame_transient is None else frame_transient
    last = steps // 10 if backward_transient is None else backward_transient
    first = require_integer("frame_transient", first, at_least=0)
    last = require_integer("backward_transient", last, at_least=0)
    wanted = range(first, steps - last + 1, every)
    if len(wanted) < 2:
        raise InvalidInputError(
            f"of {steps} steps, frame_transient={first} and backward_transient={last} leave "
            f"{max(0, steps - first - last)}, too few for two points every={every} steps: pass a "
            "longer sequence or smaller transients"
        )
    return wanted


def _warn_of_lost_rank(result: CovariantVectors) -> None:
    lost = torch.isneginf(result.exponents)
    if bool(lost.any()):
        warnings.warn(
            f"rank was lost: up to {int(lost.sum(dim=-1).max())} of {lost.shape[-1]} exponents "
            f"are −inf, because the Jacobians are singular to the precision of "
            f"{result.vectors.dtype}; only the span of their vectors is determined. Choose a "
            "smaller k, or compute with dtype=torch.float64",
            LostRankWarning,
            stacklevel=3,
        )


@without_autocast()
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
    # For unit vectors tan(α/2) = ‖u − v‖ / ‖u + v‖, the ratio of the diagonals of a rhombus:
    # accurate for small angles, unlike the arc cosine (Kahan).
    return 2 * torch.atan2(vector_norm(first - second, dim=-1), vector_norm(first + second, dim=-1))


@without_autocast()
def _principal_angle(
    first: Float[Tensor, "T n p"], second: Float[Tensor, "T n q"]
) -> Float[Tensor, "T"]:
    basis, other = qr(first)[0], qr(second)[0]
    overlap = basis.mT @ other
    sine = svdvals(other - basis @ overlap)[..., -1]
    return torch.atan2(sine, svdvals(overlap)[..., 0])
