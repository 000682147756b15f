"""`long_term_jacobian`: how unequally perturbations and error signals grow over many steps."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.analysis.linearisation import Linearisation, linearise
from flossing.analysis.numerics.graded_product import GradedProduct
from flossing.errors import InvalidInputError, InvalidOptionError, LostRankWarning
from flossing.spectrum import lyapunov_spectrum
from flossing.support.autocast import without_autocast
from flossing.support.checks import generator_or_default, require_integer
from flossing.support.eval_mode import in_eval_mode
from flossing.support.printing import Printed
from flossing.support.torch_typed import qr
from flossing.support.warning_filters import ignored_warnings
from flossing.systems.recurrence import System

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class LongTermJacobian(Printed):
    """Singular values of T = J_{τ+s} ⋯ J_{τ+1} for S horizons s, O origins τ and B trajectories.

    Attributes:
        horizons: (S,), numbers of steps s.
        origins: (O,), numbers τ of steps before each product, from the start of the sequence.
        log_singular_values: (S, O, B, k), in nats, in descending order and double precision; −inf
            for zero.
        exponents: (B, k), Lyapunov exponents along the whole sequence, in nats per unit time.
        dt: duration of a step in the caller's unit of time.
    """

    horizons: Int[Tensor, "S"]
    origins: Int[Tensor, "O"]
    log_singular_values: Float[Tensor, "S O B k"]
    exponents: Float[Tensor, "B k"]
    dt: float = 1.0

    @property
    def log10_condition(self) -> Float[Tensor, "S O B"]:
        """log₁₀ of the condition number σ_1/σ_k; infinite where σ_k is zero."""
        return _log10_ratio(self.log_singular_values)

    @property
    def predicted_log10_condition(self) -> Float[Tensor, "S B"]:
        """log₁₀ exp((λ_1 − λ_k) s dt), as the exponents predict.

        Exact asymptotically: singular values differ from it by terms that stay bounded or grow
        like √s.
        """
        slope = self.dt * _log10_ratio(self.exponents.double().cpu())
        return self.horizons.double().unsqueeze(-1) * slope

    @property
    def log10_condition_quartiles(self) -> Float[Tensor, "3 S"]:
        """Quartiles of `log10_condition` over origins and trajectories: lower, median, upper."""
        return _quartiles(self.log10_condition.flatten(1))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the condition number by horizon; see `flossing.plots.plot_condition_number`."""
        # At call time only, as of every result: see `LyapunovSpectrum.plot`.
        from flossing.plots import plot_condition_number

        return plot_condition_number(self, ax=ax)


def long_term_jacobian(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    horizons: Sequence[int] | None = None,
    k: int | None = None,
    origins: int | Sequence[int] = 10,
    steps: int | None = None,
    state_transient: int = 0,
    frame_transient: int | None = None,
    layer: int | None = None,
    dtype: torch.dtype | None = None,
    dt: float = 1.0,
    generator: torch.Generator | None = None,
) -> LongTermJacobian:
    r"""Compute singular values and condition number of the long-term Jacobian, by horizon.

    .. math:: T_s(\tau) = \frac{\partial h_{\tau+s}}{\partial h_\tau} = J_{\tau+s} \cdots J_{\tau+1}

    carries perturbations forward and, transposed, error signals back over s steps. Its condition
    number κ = σ_1/σ_k measures how unequally; it grows about as exp((λ_1 − λ_k) s), which limits
    how far back errors can be assigned (Engelken, NeurIPS 2023). Horizons may be arbitrarily long:
    the product is represented by an orthonormal frame, logarithms of scales and a well conditioned
    factor, and never multiplied out. One-sided Jacobi rotations then give all of its singular
    values to high relative accuracy (see docs/mathematics.md, Graded products).

    For k < n, T is restricted to a subspace of k dimensions: the span of k tangent vectors that
    are carried along from the state transient on and orthonormalised at every step, as in
    `lyapunov_spectrum`. It no longer depends on the initial vectors, and T stretches its k-volume
    by the growth that the first k exponents count, which is exactly the sum of
    `log_singular_values`. A random subspace would first have to align. The k largest singular
    values of the unrestricted T are not smaller; the n − k others belong to directions outside of
    the k that are flossed.

    Args:
        system: as in `flossing.lyapunov_spectrum`.
        inputs: as in `flossing.lyapunov_spectrum`. In a `PackedSequence` of different lengths,
            products lie within the steps that all sequences have.
        state: as in `flossing.lyapunov_spectrum`.
        horizons: increasing numbers of steps s. `None`: 1, 2, 3, 4, 6, 8, 12, 16, … up to half of
            the steps after the transients.
        k: number of singular values; `None` for all n.
        origins: increasing numbers of steps τ, counted from the start of the sequence, after which
            products begin; or how many to draw at random among those that leave room for the
            longest horizon (all, if there are fewer).
        steps: as in `flossing.lyapunov_spectrum`.
        state_transient: number of first steps before the analysis starts.
        frame_transient: number of further steps that align the frame, before the first origin.
            `None`: for k < n a tenth of the rest, as in `lyapunov_spectrum`, otherwise none.
        layer: as in `flossing.lyapunov_spectrum`.
        dtype: precision of the trajectory and of the entries of single Jacobians; everything
            computed from them is in double precision.
        dt: duration of a step; exponents are per unit of time.
            Horizons and origins are numbers of steps.
        generator: of the first frame and the origins; `None` for a fixed seed.

    Returns:
        Singular values by horizon, origin and trajectory, with the exponents for comparison.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: invalid inputs, or too few steps for the transients and horizons.
        InvalidStateError: an invalid initial state.
        InvalidOptionError: an option has an invalid value.
        NonFiniteError: the trajectory or its Jacobians are infinite or NaN.

    Warns:
        LostRankWarning: Jacobians are singular, so that singular values are zero.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 16)
        >>> inputs = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
        >>> result = flossing.long_term_jacobian(rnn, inputs, k=8, horizons=[50, 100])
        >>> result.log_singular_values.shape
        torch.Size([2, 10, 1, 8])
        >>> lower, median, upper = result.log10_condition_quartiles
        >>> bool((median > 0.5 * result.predicted_log10_condition.squeeze(1)).all())
        True
    """
    count = None if k is None else require_integer("k", k, at_least=1)
    line = linearise(
        system,
        inputs,
        state,
        steps=steps,
        layer=layer,
        dtype=dtype,
        state_transient=state_transient,
        exponents=count,
    )
    if count is None:
        count = line.size
    require_integer("k", count, at_least=1, at_most=line.size)
    generator = generator_or_default(generator)
    frame = _random_frame(line, count, generator)
    shortest = min(line.lengths)
    aligned = shortest // 10 if frame_transient is None else frame_transient
    aligned = require_integer("frame_transient", aligned, at_least=0)
    # For k = n any frame spans the whole space, and none needs to be aligned.
    first = aligned if count < line.size or frame_transient is not None else 0
    lengths = _checked_horizons(horizons, shortest - first)
    last = shortest - lengths[-1]
    starts = _checked_origins(origins, state_transient + first, state_transient + last, generator)
    # One warning about singular values and exponents together follows below.
    with ignored_warnings(LostRankWarning), torch.no_grad():
        spectrum = lyapunov_spectrum(
            system,
            inputs,
            state,
            steps=steps,
            state_transient=state_transient,
            frame_transient=aligned,
            frame=frame,
            layer=layer,
            dtype=dtype,
            dt=dt,
        )
    with in_eval_mode(system):
        values = _log_singular_values(
            line, frame, [start - state_transient for start in starts], lengths
        )
    _warn_of_lost_rank(values, spectrum.exponents)
    return LongTermJacobian(
        horizons=torch.tensor(lengths),
        origins=torch.tensor(starts),
        log_singular_values=values,
        exponents=spectrum.exponents,
        dt=spectrum.dt,
    )


@dataclass(frozen=True)
class _DoubleJacobians:
    """The Jacobians of a trajectory, with the entries that they have, in double precision."""

    line: Linearisation

    def matrices(self, step: int) -> Float[Tensor, "B n n"]:
        return self.line.jacobian(step).to("cpu", torch.float64)

    def push(self, step: int, vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        if self.line.states.dtype != torch.float64:
            return self.matrices(step) @ vectors
        return self.line.tangent.push(step, vectors.to(self.line.states.device)).cpu()


def _log_singular_values(
    line: Linearisation, frame: Float[Tensor, "B n k"], starts: list[int], horizons: list[int]
) -> Float[Tensor, "S O B k"]:
    jacobians = _DoubleJacobians(line)
    with torch.inference_mode(False), torch.no_grad(), without_autocast():
        frames = _frames(jacobians, frame, starts)
        values = [
            _by_horizon(jacobians, own, start, horizons)
            for own, start in zip(frames, starts, strict=True)
        ]
    return torch.stack(values, dim=1)


def _random_frame(
    line: Linearisation, count: int, generator: torch.Generator
) -> Float[Tensor, "B n k"]:
    shape = (line.batch, line.size, count)
    noise = torch.randn(shape, dtype=torch.float64, generator=generator, device=generator.device)
    return qr(noise.cpu())[0]


def _frames(
    jacobians: _DoubleJacobians, frame: Float[Tensor, "B n k"], starts: list[int]
) -> Iterator[Float[Tensor, "B n k"]]:
    """Yield the frame at each start, carried along from the first step on."""
    done = 0
    for start in starts:
        # Frames of the whole space need not be carried along.
        for step in range(done, start if frame.shape[-1] < frame.shape[-2] else done):
            frame, _ = qr(jacobians.push(step, frame))
        done = start
        yield frame


def _by_horizon(
    jacobians: _DoubleJacobians, frame: Float[Tensor, "B n k"], start: int, horizons: list[int]
) -> Float[Tensor, "S B k"]:
    product, done, values = GradedProduct.on(frame), 0, list[Tensor]()
    for horizon in horizons:
        for step in range(start + done, start + horizon):
            image = jacobians.push(step, product.frame)
            product = product.times(image, partial(jacobians.matrices, step))
        done = horizon
        values.append(product.log_singular_values())
    return torch.stack(values)


def geometric_horizons(longest: int) -> list[int]:
    """Return the powers of two and three times these up to the longest: two to each octave.

    Example:
        >>> geometric_horizons(20)
        [1, 2, 3, 4, 6, 8, 12, 16]
    """
    grid = {factor << power for power in range(longest.bit_length()) for factor in (1, 3)}
    return sorted(horizon for horizon in grid if horizon <= longest)


def _checked_horizons(horizons: Sequence[int] | None, room: int) -> list[int]:
    if room < 1:
        raise InvalidInputError(
            "the transients leave no steps for a product of Jacobians: pass a longer sequence or "
            "smaller transients"
        )
    if horizons is None:
        return geometric_horizons(max(1, room // 2))
    result = _increasing("horizons", horizons, at_least=1)
    if result[-1] > room:
        raise InvalidInputError(
            f"the longest horizon is {result[-1]} steps, but the transients leave only {room}: "
            "pass a longer sequence, smaller transients or shorter horizons"
        )
    return result


def _checked_origins(
    origins: int | Sequence[int], first: int, last: int, generator: torch.Generator
) -> list[int]:
    if not isinstance(origins, Iterable) or getattr(origins, "ndim", 1) == 0:
        wanted = require_integer("origins", origins, at_least=1)
        order = torch.randperm(last - first + 1, generator=generator, device=generator.device)
        return sorted(first + int(start) for start in order[:wanted])
    result = _increasing("origins", origins, at_least=0)
    if result[0] < first or result[-1] > last:
        raise InvalidInputError(
            f"origins are from {result[0]} to {result[-1]}, but the transients and the longest "
            f"horizon leave those from {first} to {last}: pass others, a longer sequence, smaller "
            "transients (state_transient, frame_transient) or shorter horizons"
        )
    return result


def _increasing(name: str, values: Sequence[int], *, at_least: int) -> list[int]:
    result = [require_integer(f"each of {name}", value, at_least=at_least) for value in values]
    if not result or any(a >= b for a, b in pairwise(result)):
        raise InvalidOptionError(
            f"{name} must be one or more increasing integers, not {list(values)!r}"
        )
    return result


def _quartiles(values: Float[Tensor, "S R"]) -> Float[Tensor, "3 S"]:
    """Return lower quartile, median and upper quartile of every row, which may contain +∞.

    >>> _quartiles(torch.tensor([[1.0, 2.0, 3.0, 4.0, torch.inf]])).flatten()
    tensor([2., 3., 4.])
    >>> _quartiles(torch.tensor([[1.0, 2.0, 3.0, torch.inf]])).flatten()
    tensor([1.7500, 2.5000,    inf])
    """
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype)
    # `torch.quantile` gives NaN between a finite and an infinite value, where +∞ is meant.
    above = torch.quantile(values, shares, dim=1, interpolation="higher")
    between = torch.quantile(values.nan_to_num(), shares, dim=1)
    return torch.where(above.isinf(), above, between)


def _log10_ratio(logs: Float[Tensor, "*leading k"]) -> Float[Tensor, "*leading"]:
    """Return log₁₀ of the ratio of the first to the last value; infinite where the last is zero."""
    ratio = (logs[..., 0] - logs[..., -1]) / math.log(10)
    return torch.where(logs[..., -1].isneginf(), torch.inf, ratio)


def _warn_of_lost_rank(values: Float[Tensor, "S O B k"], exponents: Float[Tensor, "B k"]) -> None:
    lost = int(values.isneginf().sum(dim=-1).max())
    if lost or bool(exponents.isneginf().any()):
        found = (
            f"up to {lost} of {values.shape[-1]} singular values are zero"
            if lost
            else f"exponents are −inf in {exponents.dtype}, though no singular value is zero"
        )
        warnings.warn(
            f"the Jacobians lose rank: {found}; choose a smaller k, or compute with "
            "dtype=torch.float64 if they are only nearly singular",
            LostRankWarning,
            stacklevel=3,
        )
