"""`gradient_horizon`: over how many steps back gradients vanish or explode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.analysis.linearisation import Linearisation, linearise
from flossing.analysis.numerics.scaled_columns import ScaledColumns
from flossing.analysis.outputs import Loss, loss_gradient
from flossing.errors import InvalidOptionError
from flossing.measurement.plan import checked_duration
from flossing.support.autocast import without_autocast
from flossing.support.checks import generator_or_default, require_integer
from flossing.support.eval_mode import in_eval_mode
from flossing.support.printing import Printed
from flossing.systems.recurrence import System


@dataclass(frozen=True, repr=False)
class GradientReach(Printed):
    """The norm of one kind of covector carried back along B trajectories, by lag.

    Attributes:
        log_norm: (S, B), natural logarithm of the norm at each lag relative to lag 0; −inf where
            the norm is exactly zero, NaN at lags beyond the start of a shorter sequence.
        vanishing_lag: (B,), the first lag from which on the norm stays below the threshold; inf
            if the norm at the last lag is not below it.
        exploding_lag: (B,), the first lag at which the norm exceeds 1/threshold; inf if there is
            none.
        slope: (B,), in nats per unit time, of a least-squares line through the later half of the
            lags; −inf where a norm there is zero.
    """

    log_norm: Float[Tensor, "S B"]
    vanishing_lag: Float[Tensor, "B"]
    exploding_lag: Float[Tensor, "B"]
    slope: Float[Tensor, "B"]


@dataclass(frozen=True, repr=False)
class GradientHorizon(Printed):
    """Norms of gradients of the last state with respect to earlier states, by lag.

    Logarithms are natural and in double precision, so that norms like e^-2000 are represented.

    Attributes:
        lags: (S,), steps back from the last state, ascending.
        error: ‖∂h_T/∂h_{T−s}ᵀ g‖ / ‖g‖ in the direction of the error, g = ∂L/∂h_T; `None` without a
            loss.
        random: the same in random directions, the geometric mean over them; `None` for
            `directions=0`.
        random_quartiles: (2, S, B), lower and upper quartile of the log norms over the random
            directions; `None` for `directions=0`.
        worst: the largest singular value of ∂h_T/∂h_{T−s}; `None` for `spectral_norm=False`.
        log_total_gradient: (T+1, B), log ‖dL/dh_t‖ for t = 0 … T, through all later states; NaN
            after the end of a shorter sequence. `None` without a loss.
        exponent: (B,), the largest Lyapunov exponent of the same steps, in nats per unit time: the
            limit of the slopes.
        threshold: norms below it, relative to lag 0, count as vanished, norms above its inverse
            as exploded.
        dt: duration of a step in the caller's unit of time.
    """

    lags: Int[Tensor, "S"]
    error: GradientReach | None
    random: GradientReach | None
    random_quartiles: Float[Tensor, "2 S B"] | None
    worst: GradientReach | None
    log_total_gradient: Float[Tensor, "T_plus_1 B"] | None
    exponent: Float[Tensor, "B"]
    threshold: float
    dt: float = 1.0


def gradient_horizon(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    loss: Loss | None = None,
    lags: Sequence[int] | None = None,
    directions: int = 32,
    spectral_norm: bool = True,
    threshold: float = 1e-3,
    steps: int | None = None,
    layer: int | None = None,
    dtype: torch.dtype | None = None,
    state_transient: int = 0,
    dt: float = 1.0,
    generator: torch.Generator | None = None,
) -> GradientHorizon:
    r"""Measure how far back gradients reach: the norm of ∂h_T/∂h_{T−s} by lag s, T the last step.

    A gradient is carried back by the transposed Jacobians,

    .. math:: \frac{\partial L}{\partial h_{T-s}} =
        J_{T-s+1}^\top \cdots J_T^\top \frac{\partial L}{\partial h_T},

    and shrinks or grows on the way, on average by the largest Lyapunov exponent per step (Bengio,
    Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013; Engelken 2023). Norms are measured in
    the direction of the error of a loss, in random directions, and in the worst case, by the
    spectral norm of the product. For a loss of many states also the total gradient is measured,

    .. math:: \frac{dL}{dh_t} = \frac{\partial L}{\partial h_t} +
        J_{t+1}^\top \frac{dL}{dh_{t+1}}.

    Each column of the product is rescaled at every step and its scale kept as a logarithm, so
    that nothing over- or underflows.

    Args:
        system: as in `flossing.lyapunov_spectrum`.
        inputs: as in `flossing.lyapunov_spectrum`. In a `PackedSequence` the lags of each sequence
            count from its own last step.
        state: as in `flossing.lyapunov_spectrum`.
        loss: maps the outputs of all steps after the transient to a scalar. Outputs are in the
            layout of the module, `output` of `output, _ = module(inputs)`: hidden states of the
            last layer (or of `layer`), (T, B, N), or (B, T, N) if it is `batch_first`. For a cell,
            h after every step, (T, B, N); for a callable, its state, each tensor with the steps as
            first dimension. After the end of a shorter sequence they are zero. `None` skips
            `error` and `log_total_gradient`.
        lags: lags to measure at, each from 0 to T; `None` for all. The largest singular value
            takes about n³ operations at each.
        directions: number of random covectors; 0 for none.
        spectral_norm: whether to compute the largest singular value, for which n covectors are
            carried back.
        threshold: the norm, relative to lag 0, below which a gradient counts as vanished, and above
            the inverse of which as exploded; between 0 and 1.
        steps: as in `flossing.lyapunov_spectrum`.
        layer: as in `flossing.lyapunov_spectrum`.
        dtype: as in `flossing.lyapunov_spectrum`.
        state_transient: number of first steps that are left out of the analysis.
        dt: duration of a step; slopes and the exponent are per unit of time.
            Lags are numbers of steps.
        generator: of the random directions; `None` for a fixed seed.

    Returns:
        Log norms by lag and trajectory, the lags at which gradients vanish and explode, and rates.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: invalid inputs, or no steps left after the transient.
        InvalidStateError: an invalid initial state.
        InvalidOptionError: an option has an invalid value, or the loss is not a scalar or does not
            depend on the last state of each trajectory.
        NonFiniteError: the trajectory, its Jacobians or the loss are infinite or NaN.

    Example:
        Gradients of a map that halves its state vanish after ten steps:

        >>> import torch, flossing
        >>> horizon = flossing.gradient_horizon(lambda h: 0.5 * h, state=torch.ones(1, 3), steps=20)
        >>> horizon.worst.vanishing_lag, horizon.worst.slope
        (tensor([10.], dtype=torch.float64), tensor([-0.6931], dtype=torch.float64))

        How far back the error at the last step of a task reaches in a network:

        >>> rnn = torch.nn.RNN(2, 16)
        >>> inputs, targets = torch.randn(60, 4, 2), torch.randn(4, 16)
        >>> horizon = flossing.gradient_horizon(
        ...     rnn, inputs, loss=lambda output: (output[-1] - targets).square().mean()
        ... )
        >>> horizon.error.log_norm.shape, horizon.log_total_gradient.shape
        (torch.Size([61, 4]), torch.Size([61, 4]))
    """
    directions = require_integer("directions", directions, at_least=0)
    if not 0 < threshold < 1:
        raise InvalidOptionError(
            f"threshold={threshold!r} must lie between 0 and 1: a gradient has vanished where its "
            "norm, relative to lag 0, is below it, and exploded where it is above its inverse"
        )
    dt = checked_duration(dt)
    trajectory = linearise(
        system,
        inputs,
        state,
        steps=steps,
        layer=layer,
        dtype=dtype,
        state_transient=state_transient,
        exponents=None if spectral_norm else 1 + directions,
    )
    at = _checked_lags(lags, trajectory.steps)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast(),
        in_eval_mode(system),
    ):
        errors = None if loss is None else loss_gradient(system, trajectory, loss)
        random = _random_covectors(trajectory, directions, generator)
        vectors = (
            random
            if errors is None
            else torch.cat([_last_error(errors, trajectory.lengths), random], dim=-1)
        )
        norms, largest = _carried_back(trajectory, at, vectors, spectral_norm=spectral_norm)
        total = None if errors is None else log_total_gradient(trajectory, errors)
        exponent = _largest_exponent(trajectory)
    of_random = norms[..., norms.shape[-1] - directions :]
    at = torch.tensor(at, device=trajectory.states.device)
    return GradientHorizon(
        lags=at,
        error=None if errors is None else _gradient_reach(at, norms[..., 0], threshold, dt),
        random=_gradient_reach(at, of_random.mean(dim=-1), threshold, dt) if directions else None,
        random_quartiles=_quartiles(of_random) if directions else None,
        worst=None if largest is None else _gradient_reach(at, largest, threshold, dt),
        log_total_gradient=total,
        exponent=exponent / dt,
        threshold=threshold,
        dt=dt,
    )


def _checked_lags(lags: Sequence[int] | None, steps: int) -> list[int]:
    if lags is None:
        return list(range(steps + 1))
    checked = {require_integer("lags", lag, at_least=0, at_most=steps) for lag in lags}
    if not checked - {0}:
        raise InvalidOptionError(
            f"lags is {lags!r}, but at lag 0 every norm is 1: pass lags from 1 to {steps}, or None "
            "for all"
        )
    return sorted(checked)


def _random_covectors(
    trajectory: Linearisation, count: int, generator: torch.Generator | None
) -> Float[Tensor, "B n k"]:
    generator = generator_or_default(generator)
    shape = (trajectory.batch, trajectory.size, count)
    noise = torch.randn(shape, dtype=torch.float64, generator=generator, device=generator.device)
    return noise.to(trajectory.states)


def _last_error(errors: Float[Tensor, "T B n"], lengths: tuple[int, ...]) -> Float[Tensor, "B n 1"]:
    last = errors[[length - 1 for length in lengths], list(range(len(lengths)))]
    missing = [row for row, error in enumerate(last) if not bool(error.any())]
    if missing:
        raise InvalidOptionError(
            f"∂L/∂h_T is zero for trajectories {missing}: the loss does not depend on their last "
            "state, so that there is no error to carry back; end the inputs at the last step that "
            "the loss depends on, and leave out trajectories that it does not depend on"
        )
    return last.unsqueeze(-1)


def _carried_back(
    trajectory: Linearisation,
    lags: Sequence[int],
    vectors: Float[Tensor, "B n m"],
    *,
    spectral_norm: bool,
) -> tuple[Float[Tensor, "S B m"], Float[Tensor, "S B"] | None]:
    """Return the log norms of covectors at each lag, and the log spectral norms of the product.

    Lags count from each trajectory's own end, up to which a covector stays as it is.
    """
    count, size = vectors.shape[-1], trajectory.size
    identity = torch.eye(size, size if spectral_norm else 0).to(vectors)
    start = torch.cat([vectors, identity.expand(trajectory.batch, -1, -1)], dim=-1)
    carried = ScaledColumns.of(start)
    log_norms_at_first = carried.log_norms()[:, :count]
    place = {lag: index for index, lag in enumerate(lags)}
    # Rows by how many steps before the end of the longest trajectory their own ends.
    shifts: dict[int, list[int]] = {}
    for row, length in enumerate(trajectory.lengths):
        shifts.setdefault(trajectory.steps - length, []).append(row)
    norms = log_norms_at_first.new_full((len(lags), *log_norms_at_first.shape), torch.nan)
    spectral_norms = norms.new_full(norms.shape[:2], torch.nan)
    for back in range(min(trajectory.steps, lags[-1] + max(shifts)) + 1):
        if back:
            carried = carried.pulled(trajectory.tangent, trajectory.steps - back)
        for shift, rows in shifts.items():
            if (at := place.get(back - shift)) is None:
                continue
            norms[at, rows] = (carried.log_norms()[:, :count] - log_norms_at_first)[rows]
            if spectral_norm:
                spectral_norms[at, rows] = carried.last(size).log_spectral_norm()[rows]
    return norms, spectral_norms if spectral_norm else None


def log_total_gradient(
    trajectory: Linearisation, errors: Float[Tensor, "T B n"]
) -> Float[Tensor, "T_plus_1 B"]:
    """Return log ‖dL/dh_t‖ for t = 0 … T, from the direct gradients ∂L/∂h_t of `loss_gradient`.

    NaN after the end of a shorter trajectory.
    """
    carried = ScaledColumns.of(errors[-1].unsqueeze(-1))
    norms = [carried.log_norms()]
    for step in reversed(range(trajectory.steps)):
        carried = carried.pulled(trajectory.tangent, step)
        if step:
            carried = carried.plus(errors[step - 1].unsqueeze(-1))
        norms.append(carried.log_norms())
    ended = ~trajectory.running(-1, trajectory.steps)
    return torch.stack(norms[::-1]).squeeze(-1).masked_fill(ended, torch.nan)


def _gradient_reach(
    lags: Int[Tensor, "S"], log_norm: Float[Tensor, "S B"], threshold: float, dt: float = 1.0
) -> GradientReach:
    """Find where the log norms at ascending lags cross the threshold, and their slope.

    >>> lags = torch.arange(5)
    >>> reach = _gradient_reach(lags, -2.0 * lags.unsqueeze(1), threshold=0.01)
    >>> reach.vanishing_lag.item(), reach.exploding_lag.item(), round(reach.slope.item(), 6)
    (3.0, inf, -2.0)
    """
    bound = math.log(threshold)
    # From lag s on all norms are below where the cumulative product from the end is still 1.
    # Lags that a shorter trajectory does not have, NaN, are neither below nor above.
    there = ~log_norm.isnan()
    stays_below = (~(log_norm >= bound)).flip(0).to(torch.int8).cumprod(dim=0).flip(0).bool()
    return GradientReach(
        log_norm=log_norm,
        vanishing_lag=_first(lags, stays_below & there),
        exploding_lag=_first(lags, log_norm > -bound),
        slope=_tail_slope(lags, log_norm) / dt,
    )


def _first(lags: Int[Tensor, "S"], reached: Bool[Tensor, "S B"]) -> Float[Tensor, "B"]:
    first = lags[reached.to(torch.int8).argmax(dim=0)].double()
    return torch.where(reached.any(dim=0), first, torch.inf)


def _tail_slope(lags: Int[Tensor, "S"], log_norm: Float[Tensor, "S B"]) -> Float[Tensor, "B"]:
    x, there = lags.double().unsqueeze(-1), ~log_norm.isnan()
    tail = there & (x >= torch.where(there, x, 0.0).amax(dim=0) / 2)
    count = tail.sum(dim=0)
    vanished = (log_norm.isneginf() & tail).any(dim=0)
    y = log_norm.masked_fill(vanished | ~tail, 0.0)
    offset = torch.where(tail, x - (x * tail).sum(dim=0) / count, 0.0)
    slope = (offset * y).sum(dim=0) / offset.square().sum(dim=0)
    # Through a single point, and the log norm of 0 at lag 0.
    through_zero = y.sum(dim=0) / (x * tail).sum(dim=0)
    return torch.where(count == 1, through_zero, slope).masked_fill(vanished, -torch.inf)


def _largest_exponent(trajectory: Linearisation) -> Float[Tensor, "B"]:
    """Return the growth rate of a random vector in nats per step, after a tenth of the steps."""
    vector = ScaledColumns.of(_random_covectors(trajectory, 1, None))
    # Of those that all trajectories have; after its end the vector of a shorter one stays.
    transient = min(trajectory.lengths) // 10
    log_norm_at_first = vector.log_norms()
    for step in range(trajectory.steps):
        if step == transient:
            log_norm_at_first = vector.log_norms()
        vector = vector.pushed(trajectory.tangent, step)
    last = vector.log_norms()
    counted = torch.tensor(trajectory.lengths, device=last.device).unsqueeze(-1) - transient
    growth = (last - log_norm_at_first) / counted
    return torch.where(last.isneginf(), -torch.inf, growth).squeeze(-1)


def _quartiles(log_norms: Float[Tensor, "S B k"]) -> Float[Tensor, "2 S B"]:
    # Nearest ranks: interpolation between −inf and −inf would be NaN.
    ascending = log_norms.sort(dim=-1).values
    last = log_norms.shape[-1] - 1
    return torch.stack([ascending[..., round(share * last)] for share in (0.25, 0.75)])
