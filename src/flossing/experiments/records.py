"""What happened in a run: frozen records that are equal if all but wall-clock times are."""

from dataclasses import dataclass, field
from typing import Any

from flossing.experiments.configuration import Configuration


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
