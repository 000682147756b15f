"""`Flosser`: the schedule that flosses before training and during it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flossing.checks import require_integer
from flossing.errors import InvalidOptionError
from flossing.floss import (
    Batches,
    FlossHistory,
    OptimizerFactory,
    batch_source,
    floss_objective,
    make_objective,
    make_optimizer,
)
from flossing.recurrence import System


class Flosser:
    """Flosses a system before its training and at chosen epochs of it.

    One optimizer serves all episodes: Adam with empty moments moves every weight by the full
    step size, however small the gradient, and so undoes what training has learned.

    Args:
        system: see `lyapunov_spectrum`.
        k: how many exponents, from the largest; `None` for all.
        before: gradient steps before training; 0 for none.
        every: epochs between episodes during training; 0 for none.
        steps: gradient steps of each episode during training.
        times: how many episodes during training; `None` for no limit.
        target: see `flossing_loss`.
        optimizer: see `floss`.
        lr: step size of Adam.
        parameters: see `floss`.
        tolerance: an episode ends as soon as the loss is below it.
        max_gradient_norm: clip gradients to this norm.
        state: see `floss`.
        generator: for the first frames; `None` for a fixed seed. With the same generator and
            batches the run is the same.
        **spectrum_options: further options of `lyapunov_spectrum`.

    Raises:
        InvalidOptionError: an option outside what it may be, or nothing to change.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 16)
        >>> batches = lambda: torch.randn(40, 1, 1)
        >>> flosser = flossing.Flosser(rnn, k=8, before=20, every=2, steps=5, times=1)
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
        before: int = 500,
        every: int = 100,
        steps: int = 500,
        times: int | None = 2,
        target: float | Sequence[float] | Tensor = 0.0,
        optimizer: torch.optim.Optimizer | OptimizerFactory | None = None,
        lr: float = 1e-3,
        parameters: Iterable[Tensor] | None = None,
        tolerance: float | None = None,
        max_gradient_norm: float | None = None,
        state: Any = None,
        generator: torch.Generator | None = None,
        **spectrum_options: Any,
    ) -> None:
        self._objective = make_objective(
            system, optimizer, parameters, target, max_gradient_norm, state, k, spectrum_options
        )
        self._optimizer = make_optimizer(optimizer, self._objective.parameters, lr)
        self._before = require_integer("before", before, at_least=0)
        self._every = require_integer("every", every, at_least=0)
        self._steps = require_integer("steps", steps, at_least=1)
        self._times = None if times is None else require_integer("times", times, at_least=0)
        self._tolerance = tolerance
        self._generator = generator or torch.Generator().manual_seed(0)
        self._flossed_before = False
        self._episodes = 0
        self._last_epoch = 0

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
        history = self._run(batches, self._before, callback)
        self._flossed_before = True
        return history

    def step(
        self,
        epoch: int,
        batches: Batches,
        *,
        callback: Callable[[int, float], None] | None = None,
    ) -> FlossHistory | None:
        """Floss if that is due at this epoch; a no-op otherwise.

        Due are the epochs divisible by `every`, each once, up to `times` of them.

        Args:
            epoch: number of the training epoch, rising from call to call.
            batches: see `floss`.
            callback: called with the step and the loss after every step.
        """
        require_integer("epoch", epoch, at_least=0)
        if not self._due(epoch):
            return None
        history = self._run(batches, self._steps, callback)
        self._episodes += 1
        self._last_epoch = epoch
        return history

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, beside the system's own parameters."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "flossed_before": self._flossed_before,
            "episodes": self._episodes,
            "last_epoch": self._last_epoch,
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

    def _due(self, epoch: int) -> bool:
        if not self._every or epoch % self._every or epoch <= self._last_epoch:
            return False
        return self._times is None or self._episodes < self._times

    def _run(
        self, batches: Batches, steps: int, callback: Callable[[int, float], None] | None
    ) -> FlossHistory:
        return floss_objective(
            self._objective,
            self._optimizer,
            batch_source(batches),
            steps=steps,
            tolerance=self._tolerance,
            generator=self._generator,
            callback=callback,
        )
