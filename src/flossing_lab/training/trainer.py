"""Training runs: pure functions of their configurations, apart from wall-clock times.

Networks whose recurrent part is a Python loop over steps are trained as one model where their
configurations differ only in the seed, or in a delay that changes no shape.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from flossing.errors import InvalidOptionError
from flossing.measurement.backends import compile_ahead
from flossing.support.torch_typed import numbers
from flossing.tasks import Batch, task_loss
from flossing_lab.networks.ensemble import Ensemble, clip, keep
from flossing_lab.networks.regularisers import norm_penalty
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.files import read_checkpoint, write_checkpoint
from flossing_lab.runs.records import Run
from flossing_lab.training.member import Member

Phase: TypeAlias = Literal["flossing", "training"]
Report: TypeAlias = Callable[[Phase, int, int], None]
"""Called with the phase, the steps of it that are done, and their largest number."""


def run(
    configuration: Configuration, *, checkpoint: Path | None = None, report: Report | None = None
) -> Run:
    """Floss, train, and measure before and after; see `run_together`."""
    return run_together([configuration], checkpoint=checkpoint, report=report)[0]


def run_together(
    configurations: Sequence[Configuration],
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    report: Report | None = None,
) -> list[Run]:
    """Run one configuration, or several as one model.

    Each gives the records that it would give alone, up to rounding. The global random state is
    neither read nor changed.

    Args:
        configurations: to run; any two of them `may_run_together`.
        checkpoint: file to write periodically. If it exists, is undamaged, and belongs to these
            configurations, the runs resume from it, to the same result; it is removed at the end.
        checkpoint_every: epochs between two checkpoints.
        report: called after every step.

    Returns:
        Their records, in the same order.

    Raises:
        InvalidOptionError: there are none, or they cannot run together.
    """
    if not configurations:
        raise InvalidOptionError("there is nothing to run: pass at least one configuration")
    for other in configurations[1:]:
        if not may_run_together(configurations[0], other):
            raise InvalidOptionError(
                f"{other} cannot run together with {configurations[0]}: they differ in more than "
                "the seed and a delay that changes no shape, or their networks are layers of "
                "PyTorch; run them one by one"
            )
    trainer = _Trainer(configurations, report or _no_report)
    if not (checkpoint and trainer.resume(checkpoint)):
        trainer.begin()
    while trainer.step():
        if checkpoint and trainer.epoch % checkpoint_every == 0:
            trainer.save(checkpoint)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return [member.result(len(configurations)) for member in trainer.members]


def may_run_together(first: Configuration, second: Configuration) -> bool:
    """Return whether two configurations can be trained, and are faster, as one model.

    They must differ only in the seed and a delay that changes no shape. Layers of PyTorch gain
    nothing: see docs/speed.md, Many networks trained as one.
    """
    return not first.architecture.is_stock_layer and _common(first) == _common(second)


def _common(configuration: Configuration) -> dict[str, Any]:
    """Return what must be the same in configurations that run together."""
    task, document = configuration.task, configuration.document()
    shapes = {"steps": task.steps, "inputs": task.input_size, "outputs": task.output_size}
    return document | {"seed": None, "task": document["task"] | {"delay": None} | shapes}


class _Trainer:
    """Trains the members that have not finished, as one model with one optimizer."""

    def __init__(self, configurations: Sequence[Configuration], report: Report) -> None:
        self.members = [Member(configuration) for configuration in configurations]
        # Now rather than in the background, for no record may depend on when it is finished.
        compile_ahead(self.members[0].network.system)
        self.epoch = 0
        self._training = configurations[0].training
        self._evaluate_every = configurations[0].evaluate_every
        self._report = report
        self._gather(self.members)

    def begin(self) -> None:
        for index, member in enumerate(self.members):
            flossing = member.configuration.flossing
            steps = 0 if flossing is None else int(flossing.schedule.get("before", 0))
            before, total = index * steps, steps * len(self.members)
            member.floss_before_training(
                lambda step, _, before=before, total=total: self._report(
                    "flossing", before + step, total
                )
            )

    def step(self) -> bool:
        """Train and floss for an epoch; return whether there was one left."""
        if self.epoch == self._training.epochs or not self._active:
            return False
        self.epoch += 1
        for member in self._active:
            member.floss(self.epoch, before_epoch=True)
        start = time.perf_counter()
        self._optimizer.param_groups[0]["lr"] = self._training.step_size(self.epoch)
        losses, norms = self._train([member.batch() for member in self._active])
        seconds = (time.perf_counter() - start) / len(self._active)
        for member, loss, norm in zip(self._active, losses, norms, strict=True):
            member.training_seconds += seconds
            member.add_epoch(self.epoch, loss, norm)
            member.floss(self.epoch, before_epoch=False)
            if self.epoch % self._evaluate_every == 0 or self.epoch == self._training.epochs:
                member.evaluate(self.epoch)
        self._drop_finished()
        self._report("training", self.epoch, self._training.epochs)
        return True

    def save(self, path: Path) -> None:
        state = {
            "digests": self._digests,
            "epoch": self.epoch,
            "active": [self.members.index(member) for member in self._active],
            "members": [member.state() for member in self.members],
            "optimizer": self._optimizer.state_dict(),
        }
        write_checkpoint(path, state)

    def resume(self, path: Path) -> bool:
        """Load a checkpoint; return whether there is one of these configurations."""
        state = read_checkpoint(path)
        if state is None or state.get("digests") != self._digests:
            return False
        for member, own in zip(self.members, state["members"], strict=True):
            member.load(own)
        self.epoch = state["epoch"]
        active: list[int] = state["active"]
        self._gather([self.members[index] for index in active])
        self._optimizer.load_state_dict(state["optimizer"])
        return True

    @property
    def _digests(self) -> list[str]:
        return [member.configuration.digest for member in self.members]

    def _gather(self, active: Sequence[Member]) -> None:
        self._active = list(active)
        if active:
            self._ensemble = Ensemble([member.network for member in active])
            self._optimizer = torch.optim.Adam(self._ensemble.parameters.values())

    def _drop_finished(self) -> None:
        kept = [index for index, member in enumerate(self._active) if not member.finished]
        if len(kept) < len(self._active):
            self._active = [self._active[index] for index in kept]
            if kept:
                self._ensemble = keep(self._ensemble, self._optimizer, kept)

    def _train(self, batches: list[Batch]) -> tuple[list[float], list[float]]:
        """Take a training step; return each member's loss and gradient norm before it."""
        parameters = self._ensemble.parameters
        answers = self._ensemble.answers(torch.stack([batch.inputs for batch in batches]))
        losses = [
            task_loss(member.configuration.task, own, batch)
            for member, own, batch in zip(self._active, answers, batches, strict=True)
        ]
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(parameters.values()))
        if self._training.norm_penalty:
            self._add_penalties(dict(zip(parameters, gradients, strict=True)), batches)
        norms = clip(gradients, self._training.max_gradient_norm, self._training.clipping)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        return numbers(torch.stack(losses)), numbers(norms)

    def _add_penalties(self, gradients: dict[str, Tensor], batches: list[Batch]) -> None:
        for index, (member, batch) in enumerate(zip(self._active, batches, strict=True)):
            parameters = dict(member.network.named_parameters())
            loss = partial(task_loss, member.configuration.task.kind, batch=batch)
            penalty = norm_penalty(member.network, batch.inputs, loss)
            added = torch.autograd.grad(
                self._training.norm_penalty * penalty,
                [parameters[name] for name in gradients],
                allow_unused=True,
                materialize_grads=True,
            )
            for gradient, own in zip(gradients.values(), added, strict=True):
                gradient[index] += own


def _no_report(phase: Phase, done: int, total: int) -> None:
    del phase, done, total
