"""`Flosser`: a schedule of flossing before and during training."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flossing.batches import Batches
from flossing.errors import InvalidOptionError
from flossing.floss import FlossHistory, FlossingDescent, OptimizerFactory
from flossing.support.checks import require_integer, require_positive
from flossing.systems.recurrence import System

# The longest pause between episodes, in units of `every`. An episode measures the exponents even if
# it changes nothing: at a sixteenth of the full rate that costs next to nothing, and exponents that
# drift are still found within a few dozen epochs.
LONGEST_PAUSE = 16

# Share of the step size with which drifted exponents are corrected in a network that has learned: a
# full step would undo what training can no longer repair.
CORRECTION_SCALE = 0.1


class Flosser:
    """A schedule that flosses a system before its training and, ever more gently, during it.

    Before training, the exponents are driven to the target with large steps that shrink from `lr`
    to `training_lr`. During training an episode is due every `every` epochs, and changes weights
    until the loss is below the tolerance. An episode that finds the loss below the tolerance
    doubles the pause before the next one, up to sixteenfold; one that changes weights resets it to
    `every`.

    Each step of flossing costs a little of what has been learned. So once `step` is told that the
    network has started to learn the task, or after `times` episodes that changed weights, episodes
    become rare. They then change weights only where the exponents have drifted, that is where the
    loss is not below `drift`, and with a tenth of the step size.

    One optimizer serves all episodes: Adam with empty moments moves every weight by the full
    step size, however small the gradient, and so undoes what training has learned.

    The published schedule (Engelken, NeurIPS 2023) is `before=500, every=100, steps=500, times=2,
    lr=1e-3, training_lr=1e-3, tolerance=None, drift=None, max_gradient_norm=None`.
    `flossing reproduce horizon` compares the default with it over growing delays, and
    `flossing reproduce schedule` with variants of the default that change one part each. An epoch
    is whatever the caller counts: in the paper, and for the default, it is one gradient step of
    training. A task that is learned within a few hundred steps needs little flossing during
    training, or none: `times=0, drift=None`.

    The exponents are those under the inputs from `batches`, so these should be the inputs through
    which memory has to last. Where the statistics of the inputs change along a sequence, as in a
    hold, pass whole sequences; `piece` then samples a random window of each.

    Args:
        system: see `lyapunov_spectrum`.
        k: number of exponents, from the largest; `None` for all.
        before: maximum number of gradient steps before training; 0 for none.
        every: minimum number of epochs between episodes during training; 0 for no episodes.
        steps: maximum number of gradient steps in an episode during training.
        times: number of episodes during training that floss down to the tolerance; `None` for no
            limit.
        target: see `flossing_loss`.
        horizon: see `flossing_loss`. An episode that finds all exponents within the dead band
            changes nothing.
        optimizer: see `floss`; it keeps its own step size.
        lr: step size of Adam at the start.
        training_lr: step size of Adam during training, reached geometrically before it; at most
            that of training itself.
        parameters: see `floss`.
        tolerance: an episode ends as soon as the loss is below this; `None` for never.
        drift: replaces the tolerance once the network has started to learn the task, and after
            `times` episodes; `None` for no episodes from then on.
        max_gradient_norm: clip gradients to this norm; `None` for no clipping. Where an exponent
            runs away its gradient is so large that the moments of Adam, without clipping, would
            carry on for many steps.
        state: see `floss`.
        piece: see `floss`.
        generator: random generator of the first frames and the windows; `None` for a fixed seed.
            Runs with the same generator and batches are the same.
        **spectrum_options: further options of `lyapunov_spectrum`.

    Raises:
        InvalidOptionError: invalid option value, or no parameters to change.

    Warns:
        SkippedStepWarning: see `floss`. Each kind of warning is issued once over all episodes.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 16)
        >>> batches = lambda: torch.randn(40, 1, 1)
        >>> flosser = flossing.Flosser(rnn, k=8, before=20, every=2, times=1, drift=None)
        >>> flosser.before_training(batches).loss.shape
        torch.Size([20])
        >>> [flosser.step(epoch, batches) is not None for epoch in range(1, 5)]
        [False, True, False, False]
        >>> flosser
        Flosser(before=done, episodes=1, next_due=None)
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
        horizon: float | None = None,
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
        self._descent = FlossingDescent(
            system,
            k=k,
            target=target,
            horizon=horizon,
            optimizer=optimizer,
            lr=lr,
            parameters=parameters,
            max_gradient_norm=max_gradient_norm,
            state=state,
            piece=piece,
            generator=generator,
            spectrum_options=spectrum_options,
        )
        training_lr = require_positive("training_lr", training_lr)
        # An optimizer of the caller's keeps its own step size.
        self._step_sizes = None if optimizer is not None else (lr, training_lr)
        self._before = require_integer("before", before, at_least=0)
        self._every = require_integer("every", every, at_least=0)
        self._steps = require_integer("steps", steps, at_least=1)
        self._times = None if times is None else require_integer("times", times, at_least=0)
        self._tolerance = tolerance
        self._drift = drift
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
            callback: called with the number of the step and the loss after every step.

        Returns:
            The record of the steps; `None` if there were none.
        """
        if self._flossed_before or not self._before:
            return None

        def after_step(step: int, loss: float) -> None:
            self._set_step_size(step / self._before)
            if callback is not None:
                callback(step, loss)

        history = self._descent.run(
            batches, steps=self._before, tolerance=self._tolerance, callback=after_step
        )
        # Also where the tolerance was met before the last step.
        self._set_step_size(1.0)
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
        """Floss if an episode is due at this epoch; a no-op otherwise.

        An episode is due at the first epoch that is divisible by `every` and far enough from the
        last episode. It only measures exponents that are within the tolerance, or the drift
        allowed.

        Args:
            epoch: number of the training epoch, increasing from call to call.
            batches: see `floss`.
            learned: whether the network has started to learn the task, which a training loss of
                half that of the best constant answer shows. From then on only drift is corrected.
                If the loss rises again, pass `False`, and flossing is as before.
            scale: factor of Adam's step size, for training whose own step size decays: the share
                that is left of it. Flossing with a full step would undo what training can no
                longer repair.
            callback: called with the number of the step and the loss after every step.

        Returns:
            The record of the episode; `None` if none was due.
        """
        epoch = require_integer("epoch", epoch, at_least=0)
        scale = require_positive("scale", scale)
        settled = learned or (self._times is not None and self._episodes >= self._times)
        if not self._due(epoch) or (settled and self._drift is None):
            return None
        self._set_step_size(1.0, scale * (CORRECTION_SCALE if settled else 1.0))
        history = self._descent.run(
            batches,
            steps=self._steps,
            tolerance=self._drift if settled else self._tolerance,
            callback=callback,
        )
        # Idle: the first measurement was within the tolerance, so no weight was changed.
        idle = history.converged and len(history.loss) == 1
        self._episodes += not (idle or settled)
        doubled = min(2 * self._pause, LONGEST_PAUSE * self._every)
        self._pause = doubled if idle or settled else self._every
        self._last_epoch = epoch
        self._next_epoch = epoch + self._pause
        return history

    def __repr__(self) -> str:
        """Return what has been done, and the first epoch at which an episode may come."""
        before = "done" if self._flossed_before else "due" if self._before else "none"
        return (
            f"{type(self).__name__}(before={before}, episodes={self._episodes}, "
            f"next_due={self._next_due()})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule, to resume a run.

        Without the system's parameters, but with the float32 copies of those in half precision.
        """
        copies = self._descent.masters.copies()
        masters = {"masters": [copy.detach().clone() for copy in copies]} if copies else {}
        return masters | {
            "optimizer": self._descent.optimizer.state_dict(),
            "generator": self._descent.generator.get_state(),
            "flossed_before": self._flossed_before,
            "episodes": self._episodes,
            "last_epoch": self._last_epoch,
            "pause": self._pause,
            "next_epoch": self._next_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state that `state_dict` returned.

        Args:
            state: the state of a `Flosser` with the same options and parameters.

        Raises:
            InvalidOptionError: this is not the state of a `Flosser`.
        """
        differing = self.state_dict().keys() ^ state.keys()
        if differing:
            raise InvalidOptionError(
                f"this is not the state of a Flosser: {', '.join(sorted(differing))} missing or "
                "unknown; pass the result of Flosser.state_dict()"
            )
        self._descent.optimizer.load_state_dict(state["optimizer"])
        self._descent.masters.load(state.get("masters", []))
        self._descent.generator.set_state(state["generator"])
        self._flossed_before = state["flossed_before"]
        self._episodes = state["episodes"]
        self._last_epoch = state["last_epoch"]
        self._pause = state["pause"]
        self._next_epoch = state["next_epoch"]

    def _next_due(self) -> int | None:
        """Return the next epoch at which an episode is due; `None` if there will be no more."""
        ended = self._drift is None and self._times is not None and self._episodes >= self._times
        if not self._every or ended:
            return None
        earliest = max(self._next_epoch, self._last_epoch + 1)
        return -(-earliest // self._every) * self._every

    def _due(self, epoch: int) -> bool:
        if not self._every or epoch % self._every or epoch <= self._last_epoch:
            return False
        return epoch >= self._next_epoch

    def _set_step_size(self, progress: float, factor: float = 1.0) -> None:
        """Set Adam's step size for a progress, from 0 to 1, of the phase before training."""
        if self._step_sizes is None:
            return
        # Geometric decay, lr · (training_lr / lr)^progress.
        first, last = self._step_sizes
        for group in self._descent.optimizer.param_groups:
            group["lr"] = factor * first * (last / first) ** progress
