"""Records of runs: frozen, and equal if all but wall-clock times and environment are equal."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

from flossing.errors import UnreadableFileError
from flossing_lab.runs.codec import LEFT_OUT, decode, encode
from flossing_lab.runs.configuration import Configuration

DIGITS = 6
"""Significant digits of the numbers of a condensed run."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One gradient step of training.

    Attributes:
        epoch: its number, from 1.
        loss: on the batch, before the step.
        gradient_norm: before clipping.
    """

    epoch: int
    loss: float
    gradient_norm: float


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Consecutive flossing steps.

    Attributes:
        epoch: the epoch after which they were taken; 0 for before training.
        loss: mean squared exponent before each step.
        largest_exponent: before the last step, in nats per time step.
        smallest_exponent: of the k that are flossed, before the last step, in nats per time step.
    """

    epoch: int
    loss: tuple[float, ...]
    largest_exponent: float
    smallest_exponent: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One point of a learning curve, on data that is not trained on.

    Attributes:
        epoch: the epoch after which it was taken; 0 for before training.
        loss: the task's loss.
        accuracy: from 0 to 1; `None` for a regression.
        exponents: the largest `measured_exponents` Lyapunov exponents, averaged over trajectories.
        gradient_norm: ‖∂L/∂h_0‖, see `first_state_gradient_norm`; `None` where not measured.
    """

    epoch: int
    loss: float
    accuracy: float | None = field(default=None, metadata=LEFT_OUT)
    exponents: tuple[float, ...] = field(default=(), metadata=LEFT_OUT)
    gradient_norm: float | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The full record of a run.

    Attributes:
        configuration: of the run.
        epochs: every step of the training.
        episodes: every episode of flossing.
        evaluations: from before training to its end.
        final: on the final batch, after training.
        gradient_norm_by_lag: ‖∂L/∂h_{T−s}‖ before training for s = 1 … T, with the loss at the last
            step alone; empty where not measured.
        flossing_seconds: wall-clock of flossing.
        training_seconds: wall-clock of the training steps, without evaluations.
        together: number of networks trained as one model; the seconds are this one's share.
        environment: where it was run.
    """

    configuration: Configuration
    epochs: tuple[Epoch, ...]
    episodes: tuple[Episode, ...]
    evaluations: tuple[Evaluation, ...]
    final: Evaluation
    gradient_norm_by_lag: tuple[float, ...] = ()
    flossing_seconds: float = field(compare=False)
    training_seconds: float = field(compare=False)
    together: int = field(compare=False, default=1)
    environment: dict[str, Any] = field(compare=False, default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, kw_only=True)
class CondensedRun:
    """A run without its single steps, for tables and figures; numbers are kept to six digits.

    Attributes as in `Run`, but for:
        epochs: number of epochs.
        episodes: number of flossing episodes, including the one before training.
        flossing_steps: at each evaluation, the number of flossing steps taken before it.
    """

    configuration: Configuration
    evaluations: tuple[Evaluation, ...]
    final: Evaluation
    epochs: int
    episodes: int
    flossing_steps: tuple[int, ...]
    gradient_norm_by_lag: tuple[float, ...] = ()
    flossing_seconds: float = field(compare=False)
    training_seconds: float = field(compare=False)
    together: int = field(compare=False, default=1)
    environment: dict[str, Any] = field(compare=False, default_factory=dict[str, Any], repr=False)

    def document(self) -> dict[str, Any]:
        """Return the run as strict JSON; `condensed_from` reads it back."""
        return encode(self)


AnyRun: TypeAlias = Run | CondensedRun


def condensed(run: AnyRun) -> CondensedRun:
    """Return a run without its single steps; one that has none is returned as it is."""
    if isinstance(run, CondensedRun):
        return run
    return CondensedRun(
        configuration=run.configuration,
        evaluations=_rounded(run.evaluations),
        final=_rounded(run.final),
        epochs=len(run.epochs),
        episodes=len(run.episodes),
        flossing_steps=tuple(
            sum(len(episode.loss) for episode in run.episodes if episode.epoch <= each.epoch)
            for each in run.evaluations
        ),
        gradient_norm_by_lag=_rounded(run.gradient_norm_by_lag),
        flossing_seconds=_rounded(run.flossing_seconds),
        training_seconds=_rounded(run.training_seconds),
        together=run.together,
        environment=run.environment,
    )


def condensed_from(document: Mapping[str, Any]) -> CondensedRun:
    """Return the run that has a document.

    Raises:
        UnreadableFileError: it is not the document of a condensed run.
    """
    try:
        return decode(CondensedRun, document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"this is not a condensed run: {error}") from error


def _rounded(value: Any) -> Any:
    """Return an evaluation, a tuple or a number with its floats rounded to `DIGITS`."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, tuple):
        return tuple(map(_rounded, cast("tuple[Any, ...]", value)))
    if isinstance(value, Evaluation):
        return replace(value, **{name: _rounded(each) for name, each in vars(value).items()})
    return value
