"""`long_term_jacobian`: how a perturbation or an error signal is stretched over many steps."""

import math
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
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
from flossing.support.checks import require_integer
from flossing.support.torch_typed import qr
from flossing.systems.recurrence import System

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LongTermJacobian:
    """Singular values of T = J_{τ+s} ⋯ J_{τ+1} for S horizons s, O origins τ and B trajectories.

    Attributes:
        horizons: (S,), numbers of steps s.
        origins: (O,), numbers τ of steps done before each product, from the start of the sequence.
        log_singular_values: (S, O, B, k), in nats and descending order; −inf for zero. In double
            precision.
        exponents: (B, k), Lyapunov exponents along the whole sequence, in nats per step.
    """

    horizons: Int[Tensor, "S"]
    origins: Int[Tensor, "O"]
    log_singular_values: Float[Tensor, "S O B k"]
    exponents: Float[Tensor, "B k"]

    @property
    def log10_condition(self) -> Float[Tensor, "S O B"]:
        """log₁₀ of the condition number σ_1/σ_k; infinite where σ_k is zero."""
        return _log10_ratio(self.log_singular_values)

    @property
    def predicted_log10_condition(self) -> Float[Tensor, "S B"]:
        """log₁₀ exp((λ_1 − λ_k) s), what the exponents let expect.

        The slope is that of long horizons; singular values differ from it by what stays bounded,
        or grows as √s, while s grows.
        """
        slope = _log10_ratio(self.exponents.double().cpu())
        return self.horizons.double().unsqueeze(-1) * slope

    @property
    def log10_condition_quartiles(self) -> Float[Tensor, "3 S"]:
        """Lower quartile, median and upper quartile of `log10_condition`.

        Over origins and trajectories together.
        """
        return quartiles(self.log10_condition.flatten(1))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the condition number by horizon; see `flossing.plots.plot_condition_number`."""
        from flossing.plots import plot_condition_number

        return plot_condition_number(self, ax=ax)


def quartiles(values: Float[Tensor, "S R"]) -> Float[Tensor, "3 S"]:
    """Return lower quartile, median and upper quartile of every row, which may hold +∞.

    What lies between a finite and an infinite value is infinite.

    >>> quartiles(torch.tensor([[1.0, 2.0, 3.0, 4.0, torch.inf]])).flatten()
    tensor([2., 3., 4.])
    >>> quartiles(torch.tensor([[1.0, 2.0, 3.0, torch.inf]])).flatten()
    tensor([1.7500, 2.5000,    inf])
    """
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype)
    above = torch.quantile(values, shares, dim=1, interpolation="higher")
    between = torch.quantile(values.nan_to_num(), shares, dim=1)
    return torch.where(above.isinf(), above, between)


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
    generator: torch.Generator | None = None,
) -> LongTermJacobian:
    r"""Singular values and condition number of the long-term Jacobian, by horizon.

    .. math:: T_s(\tau) = \frac{\partial h_{\tau+s}}{\partial h_\tau} = J_{\tau+s} \cdots J_{\tau+1}

    carries perturbations forward and, transposed, error signals back over s steps; its condition
    number κ = σ_1/σ_k says how unequally, and grows about as exp((λ_1 − λ_k) s), which bounds how
    far back errors can be assigned (Engelken, NeurIPS 2023). Any horizon will do: the product is
    kept as an orthonormal frame, logarithms of scales and a well conditioned rest, never
    multiplied out, and its singular values come from one-sided Jacobi rotations, all of them to
    high relative accuracy (see `flossing.analysis.numerics.graded_product`).

    For k < n, T is restricted to the subspace that k tangent vectors span which were carried
    along from the state transient on and orthonormalised at every step, those that
    `lyapunov_spectrum` has at τ. Their span is where k vectors end up whatever they were at
    first, so that T stretches its k-volume by what the first k exponents count: the sum of
    `log_singular_values` is that growth exactly. A random subspace would only turn towards it
    during the first steps of the product. The k largest singular values of all of T are not
    smaller; the n − k others belong to directions that were not flossed, and say nothing about
    the k.

    Args:
        system: see `lyapunov_spectrum`.
        inputs: see there; sequences must be equally long.
        state: see there.
        horizons: increasing numbers of steps s. `None`: 1, 2, 3, 4, 6, 8, 12, 16, … up to half of
            the steps after the transients.
        k: how many singular values; `None` for all n.
        origins: the numbers of steps τ, counted from the start of the sequence, after which
            products begin, increasing; or how many of them to draw at random among those that
            leave room for the longest horizon (all, if they are fewer).
        steps: see there.
        state_transient: so many first steps move the state only.
        frame_transient: so many further steps align the frame; no origin lies before. `None`: for
            k < n a tenth of the rest, as in `lyapunov_spectrum`, otherwise none.
        layer: see there.
        dtype: precision of the trajectory and of the entries of single Jacobians, as there; what
            is computed from them is in double precision always.
        generator: for the first frame and the origins; `None` for a fixed seed.

    Returns:
        Singular values by horizon, origin and trajectory, with the exponents to compare.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: bad inputs, or too few steps for the transients and horizons.
        InvalidStateError: a bad initial state.
        InvalidOptionError: an option outside what it may be.
        NonFiniteError: the trajectory or its Jacobians leave the finite numbers.

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
    line = linearise(
        system,
        inputs,
        state,
        steps=steps,
        layer=layer,
        dtype=dtype,
        state_transient=state_transient,
        exponents=None if k is None else require_integer("k", k, at_least=1),
    )
    count = line.size if k is None else require_integer("k", k, at_least=1, at_most=line.size)
    generator = generator or torch.Generator().manual_seed(0)
    frame = _random_frame(line, count, generator)
    aligned = line.steps // 10 if frame_transient is None else frame_transient
    require_integer("frame_transient", aligned, at_least=0)
    # Of the whole space any basis will do.
    first = aligned if count < line.size or frame_transient is not None else 0
    lengths = _horizons(horizons, line.steps - first)
    last = line.steps - lengths[-1]
    starts = _origins(origins, state_transient + first, state_transient + last, generator)
    with _warnings_of_lost_rank_ignored(), torch.no_grad():
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
        )
    values = _log_singular_values(
        line, frame, [start - state_transient for start in starts], lengths
    )
    _warn_of_lost_rank(values, spectrum.exponents)
    return LongTermJacobian(
        horizons=torch.tensor(lengths),
        origins=torch.tensor(starts),
        log_singular_values=values,
        exponents=spectrum.exponents,
    )


@dataclass(frozen=True)
class _DoubleJacobians:
    """The Jacobians of a trajectory as the numbers that they are, applied in double precision."""

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
    device = line.states.device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
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
    """Give the frame at each start, carried along from the first step on."""
    done = 0
    for start in starts:
        # The vectors of a whole space need not be carried along: they span it anyway.
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


def _horizons(horizons: Sequence[int] | None, room: int) -> list[int]:
    if room < 1:
        raise InvalidInputError(
            "the transients leave no steps for a product of Jacobians: pass a longer sequence or "
            "smaller transients"
        )
    if horizons is None:
        ladder = sorted(
            {factor << power for power in range(room.bit_length()) for factor in (1, 3)}
        )
        return [horizon for horizon in ladder if horizon <= max(1, room // 2)]
    result = _increasing("horizons", horizons, at_least=1)
    if result[-1] > room:
        raise InvalidInputError(
            f"the longest horizon is {result[-1]} steps, but the transients leave only {room}: "
            "pass a longer sequence, smaller transients or shorter horizons"
        )
    return result


def _origins(
    origins: int | Sequence[int], first: int, last: int, generator: torch.Generator
) -> list[int]:
    if isinstance(origins, int):
        wanted = require_integer("origins", origins, at_least=1)
        order = torch.randperm(last - first + 1, generator=generator, device=generator.device)
        return sorted(first + int(start) for start in order[:wanted])
    result = _increasing("origins", origins, at_least=0)
    if result[0] < first or result[-1] > last:
        raise InvalidInputError(
            f"origins are from {result[0]} to {result[-1]}; the transients and the longest horizon "
            f"leave those from {first} to {last}: pass others, a longer sequence, smaller "
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


def _log10_ratio(logs: Float[Tensor, "*leading k"]) -> Float[Tensor, "*leading"]:
    """Return log₁₀ of the ratio of the first to the last, infinite where that is zero."""
    ratio = (logs[..., 0] - logs[..., -1]) / math.log(10)
    return torch.where(logs[..., -1].isneginf(), torch.inf, ratio)


@contextmanager
def _warnings_of_lost_rank_ignored() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LostRankWarning)
        yield


def _warn_of_lost_rank(values: Float[Tensor, "S O B k"], exponents: Float[Tensor, "B k"]) -> None:
    lost = int(values.isneginf().sum(dim=-1).max())
    if lost or bool(exponents.isneginf().any()):
        found = (
            f"up to {lost} of {values.shape[-1]} singular values are zero"
            if lost
            else (f"in {exponents.dtype} exponents are −inf, though no singular value is zero")
        )
        warnings.warn(
            f"the Jacobians lose rank: {found}; choose a smaller k, or compute with "
            "dtype=torch.float64 if they are only nearly singular",
            LostRankWarning,
            stacklevel=3,
        )
