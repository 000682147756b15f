"""The options of a measurement, and the plan that they are checked and resolved into."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import InvalidInputError, InvalidOptionError, InvalidStateError
from flossing.measurement.backends import chosen_backend
from flossing.measurement.growth import Backend
from flossing.scan.boundaries import DEFAULT_ROUNDING_TOLERANCE, Limits, Pace
from flossing.support.checks import (
    generator_or_default,
    number_or_none,
    require_integer,
    require_tensor,
)
from flossing.support.torch_typed import qr
from flossing.systems.recurrence import DrivenMap, StateGradient

# Errors of the subspace of the first i vectors decay like e^(−(λ_i − λ_{i+1}) t). By default the
# frame aligns during a tenth of the steps. With a tolerance their number is only an upper limit,
# and may be 10⁸: then no more than a thousand.
_FRAME_TRANSIENT_SHARE = 10
_LONGEST_TRANSIENT_WITH_TOLERANCE = 1000

_CACHED_FRAMES = 8
"""Shapes of first frames that are remembered: a few networks and layers flossed in turn."""


@dataclass(frozen=True)
class Options:
    """The options of `flossing.lyapunov_spectrum`, as passed."""

    k: int | None = None
    state_transient: int = 0
    frame_transient: int | None = None
    reorthonormalize: int | str = "auto"
    rounding_tolerance: float | None = None
    state_gradient: StateGradient = "full"
    frame: Tensor | None = None
    checkpoint_interval: int | None = None
    dt: float = 1.0
    tolerance: float | None = None
    generator: torch.Generator | None = None
    backend: str | Backend = "auto"
    on_divergence: str = "raise"


class Plan(NamedTuple):
    """How a trajectory is scanned; steps count from the start of the run.

    Attributes:
        frame: the orthonormal frame to start from, at step `state_transient`.
        state_transient: number of first steps that move the state only.
        counted_from: the step from which growth counts.
        pace: the interval between boundaries.
        state_gradient: "full", "detach" or a window in steps.
        checkpoint_interval: steps whose graph is kept at a time; `None` for all.
        dt: duration of a step.
        tolerance: the standard error, per unit time, at which the run ends; `None` for all steps.
        backend: computes the growth of the frame over a segment.
    """

    frame: Float[Tensor, "B n k"]
    state_transient: int
    counted_from: int
    pace: Pace
    state_gradient: StateGradient
    checkpoint_interval: int | None
    dt: float
    tolerance: float | None
    backend: Backend

    @property
    def exponents(self) -> int:
        """The number of exponents k."""
        return self.frame.shape[-1]


def make_plan(problem: DrivenMap, options: Options) -> Plan:
    """Check the options of a problem and resolve their defaults.

    Raises:
        InvalidInputError: too few steps for the transients.
        InvalidStateError: invalid frame.
        InvalidOptionError: invalid option value.
    """
    interval = _interval(options.reorthonormalize)
    frame = _first_frame(problem, options)
    state_transient = require_integer("state_transient", options.state_transient, at_least=0)
    checkpoint_interval = options.checkpoint_interval
    if checkpoint_interval is not None:
        checkpoint_interval = require_integer(
            "checkpoint_interval", checkpoint_interval, at_least=1
        )
    return Plan(
        frame=frame,
        state_transient=state_transient,
        counted_from=_counted_from(problem, options, state_transient),
        # An adaptive pace starts at one step and doubles as far as the limits allow.
        pace=Pace(interval or 1, interval is None, _limits(problem.state.dtype, options, interval)),
        state_gradient=_checked_state_gradient(options.state_gradient),
        checkpoint_interval=checkpoint_interval,
        dt=checked_duration(options.dt),
        tolerance=_checked_tolerance(options.tolerance, problem),
        backend=chosen_backend(options.backend, problem, frame.shape[-1]),
    )


def _interval(reorthonormalize: int | str) -> int | None:
    if isinstance(reorthonormalize, str) and reorthonormalize == "auto":
        return None
    if isinstance(reorthonormalize, str):
        raise InvalidOptionError(
            f"reorthonormalize must be 'auto' or a number of steps, not {reorthonormalize!r}"
        )
    return require_integer("reorthonormalize", reorthonormalize, at_least=1)


def _limits(dtype: torch.dtype, options: Options, interval: int | None) -> Limits:
    tolerance = options.rounding_tolerance
    if tolerance is None:
        # A fixed interval is the caller's choice: it is shortened only where it would lose half of
        # the digits (the default of `Limits.of`), not where it is less accurate than "auto".
        return Limits.of(dtype, DEFAULT_ROUNDING_TOLERANCE[dtype] if interval is None else None)
    if interval is not None:
        raise InvalidOptionError(
            f"rounding_tolerance={tolerance!r} applies to reorthonormalize='auto' only, not to a "
            f"fixed interval of {interval}: leave one of them out"
        )
    epsilon = torch.finfo(dtype).eps
    number = number_or_none(tolerance)
    if number is None or not epsilon <= number <= epsilon**0.5:
        raise InvalidOptionError(
            f"rounding_tolerance must be from {epsilon:.1e} to {epsilon**0.5:.1e} in {dtype}, not "
            f"{tolerance!r}: at least one rounding error, and at most half of the digits"
        )
    return Limits.of(dtype, number)


def _checked_state_gradient(state_gradient: StateGradient) -> StateGradient:
    if state_gradient in ("full", "detach"):
        return state_gradient
    if isinstance(state_gradient, str):
        raise InvalidOptionError(
            f"state_gradient must be 'full', 'detach' or a window in steps, not {state_gradient!r}"
        )
    return require_integer("state_gradient", state_gradient, at_least=1)


def checked_duration(dt: float) -> float:
    """Return the duration of a step.

    Raises:
        InvalidOptionError: it is not a positive number.
    """
    number = number_or_none(dt)
    if number is None or not 0 < number < math.inf:
        raise InvalidOptionError(f"dt must be a positive duration of one step, not {dt!r}")
    return number


def _checked_tolerance(tolerance: float | None, problem: DrivenMap) -> float | None:
    if tolerance is None:
        return None
    number = number_or_none(tolerance)
    if number is None or not 0 < number < math.inf:
        raise InvalidOptionError(
            "tolerance must be a positive standard error in nats per unit time, or None, not "
            f"{tolerance!r}"
        )
    if problem.differentiable:
        raise InvalidOptionError(
            f"tolerance={tolerance!r} cannot be combined with gradients, but these exponents would "
            "be differentiable: use torch.no_grad(), or fix the number of steps and leave it out"
        )
    return number


def _counted_from(problem: DrivenMap, options: Options, state_transient: int) -> int:
    shortest = min(problem.lengths)
    rest = shortest - state_transient
    frame_transient = options.frame_transient
    if frame_transient is None:
        # A frame that is passed in is that of an earlier run, and aligned already.
        frame_transient = 0 if options.frame is not None else max(0, rest) // _FRAME_TRANSIENT_SHARE
        if options.tolerance is not None:
            frame_transient = min(frame_transient, _LONGEST_TRANSIENT_WITH_TOLERANCE)
    frame_transient = require_integer("frame_transient", frame_transient, at_least=0)
    if rest - frame_transient < 1:
        raise InvalidInputError(
            f"the shortest trajectory has {shortest} steps, which leaves none to count after "
            f"state_transient={state_transient} and frame_transient={frame_transient}: "
            "pass a longer sequence or smaller transients"
        )
    return state_transient + frame_transient


def _first_frame(problem: DrivenMap, options: Options) -> Float[Tensor, "B n k"]:
    count = exponent_count(options.k, problem.tangent_size)
    if options.frame is None:
        return random_frame(problem.state, problem.tangent_size, count, options.generator)
    return _checked_frame(options.frame, problem, options.k)


def _checked_frame(frame: Tensor, problem: DrivenMap, k: int | None) -> Float[Tensor, "B n k"]:
    require_tensor("the frame", frame, InvalidStateError)
    batch, size = len(problem.state), problem.tangent_size
    shape = tuple(frame.shape)
    if len(shape) != 3 or shape[:2] != (batch, size) or not 1 <= shape[2] <= size:
        raise InvalidStateError(
            f"the frame must have the shape (batch, state size, k) = ({batch}, {size}, k), not "
            f"{shape}: pass the final_frame of an earlier run, or leave it out"
        )
    if k is not None and k != shape[2]:
        raise InvalidOptionError(f"k={k}, but the frame has {shape[2]} vectors: leave k out")
    frame = frame.detach().to(problem.state)
    # |QᵀQ − 1| up to half of the digits: a frame that was stored, or computed in a lower precision,
    # passes, and one that is not orthonormal does not. The negation refuses NaN too.
    defect = frame.mT @ frame - torch.eye(shape[2], dtype=frame.dtype, device=frame.device)
    if not bool(defect.abs().amax() <= torch.finfo(frame.dtype).eps ** 0.5):
        raise InvalidStateError(
            "the frame's columns must be orthonormal: use the final_frame of an earlier run, or "
            "orthonormalise yours with torch.linalg.qr(frame).Q"
        )
    return frame


def exponent_count(k: int | None, size: int) -> int:
    """Resolve k: the number of exponents, all n of the state if it is `None`.

    Raises:
        InvalidOptionError: k is not from 1 to n.
    """
    if k is None:
        return size
    k = require_integer("k", k, at_least=1)
    if k > size:
        raise InvalidOptionError(
            f"k={k} exponents were requested, but the state has {size} dimensions: k must be from "
            f"1 to {size}, or None for all"
        )
    return k


def random_frame(
    like: Tensor, size: int, count: int, generator: torch.Generator | None
) -> Float[Tensor, "B n k"]:
    """Return random orthonormal frames for the rows of a tensor, the same on every device."""
    shape = len(like), size, count
    if generator is None:
        frame = _default_frame(shape)
    else:
        frame = _orthonormal(shape, generator_or_default(generator))
    return frame.to(like)


# A fixed seed, so that a measurement neither reads nor changes the global random state. Cached,
# because flossing starts from the same frame at every step, and its factorisation costs as much as
# some steps of the scan.
@lru_cache(maxsize=_CACHED_FRAMES)
def _default_frame(shape: tuple[int, int, int]) -> Float[Tensor, "B n k"]:
    return _orthonormal(shape, torch.Generator().manual_seed(0))


def _orthonormal(shape: tuple[int, int, int], generator: torch.Generator) -> Float[Tensor, "B n k"]:
    # The Q factor of a Gaussian matrix is uniformly distributed (Haar), but for signs. In float64
    # whatever the precision of the run, so that both precisions start from the same frame.
    device = generator.device
    noise = torch.randn(shape, dtype=torch.float64, generator=generator, device=device)
    return qr(noise)[0]
