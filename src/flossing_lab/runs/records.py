"""What happened in a run: frozen records that are equal if all but wall-clock times are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, cast

from flossing.errors import FlossingError, UnreadableFileError
from flossing.support.strict_json import storable
from flossing_lab.runs.configuration import Configuration, configuration_from


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
    """Flossing before an epoch's end.

    Attributes:
        epoch: after which it came; 0 for before training.
        loss: mean squared exponent before each step.
        largest_exponent: before the last step, in nats per time step.
        smallest_exponent: of the k that are flossed, before the last step.
    """

    epoch: int
    loss: tuple[float, ...]
    largest_exponent: float
    smallest_exponent: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One point of a learning curve, on data that is not trained on.

    Attributes:
        epoch: after which it was taken; 0 for before training.
        loss: the task's loss.
        accuracy: from 0 to 1; `None` for a regression.
        exponents: the largest `measured_exponents` of them, averaged over trajectories.
        gradient_norm: ‖∂L/∂h_0‖, see `first_state_gradient_norm`; `None` where not asked for.
    """

    epoch: int
    loss: float
    accuracy: float | None
    exponents: tuple[float, ...] = ()
    gradient_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that is kept of a run.

    Attributes:
        configuration: what was run.
        epochs: every step of the training.
        episodes: every episode of flossing.
        evaluations: from before training to its end.
        final: on the final batch, after training.
        gradient_norm_by_lag: ‖∂L/∂h_{T−s}‖ before training for s = 1 … T, with the loss at the last
            step alone; empty where not asked for.
        flossing_seconds: wall-clock of flossing.
        training_seconds: wall-clock of the training steps, without evaluations.
        together: how many networks were trained as one; the seconds are this one's share.
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


DIGITS = 6
"""Significant ones of the numbers that are kept."""

_NUMBERS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


@dataclass(frozen=True, kw_only=True)
class CondensedRun:
    """What of a run figures and tables need; numbers are kept to six digits.

    Attributes:
        configuration: what was run.
        evaluations: from before training to its end.
        final: on the final batch, after training.
        epochs: how many there were.
        episodes: how many episodes of flossing there were, that before training included.
        flossing_steps: at each evaluation, how many steps of flossing had been taken.
        gradient_norm_by_lag: see `Run`.
        flossing_seconds: wall-clock of flossing.
        training_seconds: wall-clock of the training steps, without evaluations.
        together: how many networks were trained as one; the seconds are this one's share.
        environment: where it was run.
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
        """As strict JSON has it; `condensed_from` reads it back."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        own["configuration"] = self.configuration.document()
        own["evaluations"] = [_short(each) for each in self.evaluations]
        own["final"] = _short(self.final)
        return cast("dict[str, Any]", storable(own))


AnyRun: TypeAlias = Run | CondensedRun


def condensed(run: AnyRun) -> CondensedRun:
    """Return a run without its single steps; one that has none is returned as it is.

    Args:
        run: any.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture, Training
        >>> from flossing_lab.training.trainer import run
        >>> from flossing.tasks import DelayedCopy
        >>> short = condensed(
        ...     run(
        ...         Configuration(
        ...             task=DelayedCopy(delay=2, steps=10),
        ...             architecture=Architecture(size=8),
        ...             training=Training(epochs=3),
        ...         )
        ...     )
        ... )
        >>> short.epochs, short.episodes, [each.epoch for each in short.evaluations]
        (3, 0, [0, 3])
        >>> condensed_from(short.document()) == short
        True
    """
    if isinstance(run, CondensedRun):
        return run
    return CondensedRun(
        configuration=run.configuration,
        evaluations=tuple(_rounded_evaluation(each) for each in run.evaluations),
        final=_rounded_evaluation(run.final),
        epochs=len(run.epochs),
        episodes=len(run.episodes),
        flossing_steps=tuple(
            sum(len(episode.loss) for episode in run.episodes if episode.epoch <= each.epoch)
            for each in run.evaluations
        ),
        gradient_norm_by_lag=tuple(map(_rounded, run.gradient_norm_by_lag)),
        flossing_seconds=_rounded(run.flossing_seconds),
        training_seconds=_rounded(run.training_seconds),
        together=run.together,
        environment=run.environment,
    )


def condensed_from(document: Mapping[str, Any]) -> CondensedRun:
    """Return the run that `CondensedRun.document` was taken of.

    Args:
        document: as read from JSON.

    Raises:
        UnreadableFileError: it is none.
    """
    try:
        own = {name: _number(value) for name, value in document.items() if name != "environment"}
        own["configuration"] = configuration_from(document["configuration"])
        own["evaluations"] = tuple(map(_evaluation, document["evaluations"]))
        own["final"] = _evaluation(document["final"])
        return CondensedRun(**own, environment=document["environment"])
    except (FlossingError, AttributeError, KeyError, TypeError) as error:
        raise UnreadableFileError(f"this is not a condensed run: {error}") from error


def _short(evaluation: Evaluation) -> dict[str, Any]:
    """What is not asked for is left out: there are many evaluations."""
    own = asdict(evaluation)
    return {name: value for name, value in own.items() if value is not None and value != ()}


def _evaluation(document: Mapping[str, Any]) -> Evaluation:
    own: dict[str, Any] = {name: _number(value) for name, value in document.items()}
    own.setdefault("accuracy", None)
    return Evaluation(**own)


def _rounded_evaluation(evaluation: Evaluation) -> Evaluation:
    norm = evaluation.gradient_norm
    return Evaluation(
        epoch=evaluation.epoch,
        loss=_rounded(evaluation.loss),
        accuracy=None if evaluation.accuracy is None else _rounded(evaluation.accuracy),
        exponents=tuple(map(_rounded, evaluation.exponents)),
        gradient_norm=None if norm is None else _rounded(norm),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_number(item) for item in cast("list[Any]", value))
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
