"""`Flosser`: the schedule that flosses before training and during it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flossing.batches import Batches, batch_source
from flossing.errors import InvalidOptionError
from flossing.floss import (
    FlossHistory,
    OptimizerFactory,
    floss_objective,
    make_objective,
    make_optimizer,
)
from flossing.support.checks import require_integer, require_positive
from flossing.systems.recurrence import System

LONGEST_PAUSE = 16
"""In units of the least number of epochs between episodes."""

GENTLE = 0.1
"""Of the step size: what is left where exponents have drifted in a network that has learned."""


class Flosser:
    """Flosses a system before its training and, ever more gently, during it.

    Before training, exponents are driven to the target with large steps that shrink from `lr` to
    `training_lr`. During training an episode is due every `every` epochs, and acts while the loss
    is not below the tolerance. An episode that finds nothing to do doubles the time to the next
    one, up to sixteenfold, and one that acts sets it back to `every`.

    Each step of flossing costs a little of what has been learned. So once `step` is told that the
    task is being learned, or after `times` episodes that acted, episodes become rare, and act only
    where the exponents have drifted, where the loss is not below `drift`, with a tenth of the step
    size.

    One optimizer serves all episodes: Adam with empty moments moves every weight by the full
    step size, however small the gradient, and so undoes what training has learned.

    The published schedule (Engelken, NeurIPS 2023) is `before=500, every=100, steps=500, times=2,
    lr=1e-3, training_lr=1e-3, tolerance=None, drift=None, max_gradient_norm=None`.
    `flossing reproduce horizon` compares the default with it over growing delays, and
    `flossing reproduce schedule` with what is left when one part is changed. An epoch is whatever
    is counted: in the paper, and for the default, it is one gradient step of training. A task that
    is learned within a few hundred steps needs little flossing during training, or none:
    `times=0, drift=None`.

    Exponents are those of the inputs that `batches` hands out, so let these be what the memory has
    to last through: where inputs change their statistics along a sequence, as in a hold, whole
    sequences, of which `piece` takes some steps from anywhere.

    Args:
        system: see `lyapunov_spectrum`.
        k: how many exponents, from the largest; `None` for all.
        before: at most so many gradient steps before training; 0 for none.
        every: least number of epochs between episodes during training; 0 for none.
        steps: at most so many gradient steps in an episode during training.
        times: so many episodes during training act on the tolerance; `None` for all.
        target: see `flossing_loss`.
        optimizer: see `floss`; it keeps its own step size.
        lr: step size of Adam at the start.
        training_lr: step size of Adam during training, reached geometrically before it; no more
            than that of training itself.
        parameters: see `floss`.
        tolerance: an episode ends as soon as the loss is below it; `None` for never.
        drift: takes the place of the tolerance in a network that learns, and after `times`
            episodes; `None` for no episodes there.
        max_gradient_norm: clip gradients to this norm; `None` for never. Where an exponent runs
            away its gradient is so large that Adam, without it, would go on for many steps.
        state: see `floss`.
        piece: see `floss`.
        generator: for the first frames and the places of pieces; `None` for a fixed seed. With the
            same generator and batches the run is the same.
        **spectrum_options: further options of `lyapunov_spectrum`.

    Raises:
        InvalidOptionError: an option outside what it may be, or nothing to change.

    Warns:
        SkippedStepWarning: see `floss`; it and other kinds of warnings come once in all episodes.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 16)
        >>> batches = lambda: torch.randn(40, 1, 1)
        >>> flosser = flossing.Flosser(rnn, k=8, before=20, every=2, times=1, drift=None)
        >>> flosser.before_training(batches).loss.shape
        torch.Size([20])
        >>> [flosser.step(epoch, batches) is not None for epoch in range(1, 5)]
        [False, True, False, False]
    """

    def __init__(
        self,
        system: System,
        *,
        k: int | None,
        before: int = 400,
        every: int = 3,
        steps: int = 1,
        times: int | None = 400,
        target: float | Sequence[float] | Tensor = 0.0,
        optimizer: torch.optim.Optimizer | OptimizerFactory | None = None,
        lr: float = 1e-2,
        training_lr: float = 1e-3,
        parameters: Iterable[Tensor] | None = None,
        tolerance: float | None = 1e-4,
        drift: float | None = 0.2,
        max_gradient_norm: float | None = 0.1,
        state: Any = None,
        piece: int | None = None,
        generator: torch.Generator | None = None,
        **spectrum_options: Any,
    ) -> None:
        self._objective = make_objective(
            system,
            k=k,
            target=target,
            optimizer=optimizer,
            parameters=parameters,
            max_gradient_norm=max_gradient_norm,
            state=state,
            piece=piece,
            spectrum_options=spectrum_options,
        )
        self._optimizer = make_optimizer(optimizer, self._objective.parameters, lr)
        require_positive("training_lr", training_lr)
        self._step_sizes = None if optimizer is not None else (lr, training_lr)
        self._before = require_integer("before", before, at_least=0)
        self._every = require_integer("every", every, at_least=0)
        self._steps = require_integer("steps", steps, at_least=1)
        self._times = None if times is None else require_integer("times", times, at_least=0)
        self._tolerance = tolerance
        self._drift = drift
        self._generator = generator or torch.Generator().manual_seed(0)
        self._flossed_before = False
        self._episodes = 0
        self._last_epoch = 0
        self._pause = self._every
        self._next_epoch = self._every

    def before_training(
        self, batches: Batches, *, callback: Callable[[int, float], None] | None = None
    ) -> FlossHistory | None:
        """Floss before training; a no-op if that is done already or `before` is 0.

        Args:
            batches: see `floss`.
            callback: called with the step and the loss after every step.
        """
        if self._flossed_before or not self._before:
            return None

        def after_step(step: int, loss: float) -> None:
            self._shrink_step_size(step / self._before)
            if callback is not None:
                callback(step, loss)

        history = self._run(batches, self._before, self._tolerance, after_step)
        self._shrink_step_size(1.0)
        self._flossed_before = True
        return history

    def step(
        self,
        epoch: int,
        batches: Batches,
        *,
        learned: bool = False,
        scale: float = 1.0,
        callback: Callable[[int, float], None] | None = None,
    ) -> FlossHistory | None:
        """Floss if that is due at this epoch; a no-op otherwise.

        Due is the first epoch divisible by `every` that comes late enough after the last episode.
        Exponents within the tolerance, or the drift allowed, are measured only.

        Args:
            epoch: number of the training epoch, rising from call to call.
            batches: see `floss`.
            learned: whether gradients have reached what the task needs, as a training loss shows
                that is half of what the best constant answer has. From then on only drift is
                mended; should the loss rise again, say so, and flossing is as before.
            scale: factor of Adam's step size: what is left of that of training, where it shrinks.
                Flossing with a full step would undo what training can no longer repair.
            callback: called with the step and the loss after every step.
        """
        require_integer("epoch", epoch, at_least=0)
        require_positive("scale", scale)
        settled = learned or self._spent
        if not self._due(epoch) or (settled and self._drift is None):
            return None
        self._shrink_step_size(1.0, scale * (GENTLE if settled else 1.0))
        tolerance = self._drift if settled else self._tolerance
        history = self._run(batches, self._steps, tolerance, callback)
        idle = history.converged and len(history.loss) == 1
        self._episodes += not (idle or settled)
        rarer = min(2 * self._pause, LONGEST_PAUSE * self._every)
        self._pause = rarer if idle or settled else self._every
        self._last_epoch = epoch
        self._next_epoch = epoch + self._pause
        return history

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, beside the system's own parameters."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "flossed_before": self._flossed_before,
            "episodes": self._episodes,
            "last_epoch": self._last_epoch,
            "pause": self._pause,
            "next_epoch": self._next_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state_dict` was taken.

        Raises:
            InvalidOptionError: it is not such a state.
        """
        missing = self.state_dict().keys() ^ state.keys()
        if missing:
            raise InvalidOptionError(
                f"this is not the state of a Flosser: {', '.join(sorted(missing))} missing or "
                "unknown; pass what Flosser.state_dict() returned"
            )
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._flossed_before = state["flossed_before"]
        self._episodes = state["episodes"]
        self._last_epoch = state["last_epoch"]
        self._pause = state["pause"]
        self._next_epoch = state["next_epoch"]

    def _due(self, epoch: int) -> bool:
        if not self._every or epoch % self._every or epoch <= self._last_epoch:
            return False
        return epoch >= self._next_epoch

    @property
    def _spent(self) -> bool:
        """Whether all episodes that act on the tolerance have come."""
        return self._times is not None and self._episodes >= self._times

    def _shrink_step_size(self, progress: float, factor: float = 1.0) -> None:
        """Set Adam's step size to where it is after a part, from 0 to 1, of the first phase."""
        if self._step_sizes is None:
            return
        first, last = self._step_sizes
        for group in self._optimizer.param_groups:
            group["lr"] = factor * first * (last / first) ** progress

    def _run(
        self,
        batches: Batches,
        steps: int,
        tolerance: float | None,
        callback: Callable[[int, float], None] | None,
    ) -> FlossHistory:
        return floss_objective(
            self._objective,
            self._optimizer,
            batch_source(batches),
            steps=steps,
            tolerance=tolerance,
            generator=self._generator,
            callback=callback,
        )
