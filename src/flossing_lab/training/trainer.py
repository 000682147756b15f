"""Training runs: pure functions of their configurations, wall-clock apart.

Runs that differ in the seed only, or in a delay that changes no shape, are trained as one.
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
"""Called with the phase, the steps of it that are done, and how many there are at most."""


def run(
    configuration: Configuration, *, checkpoint: Path | None = None, report: Report | None = None
) -> Run:
    """Floss, if that is configured, train, and measure before and after: see `run_together`."""
    return run_together([configuration], checkpoint=checkpoint, report=report)[0]


def run_together(
    configurations: Sequence[Configuration],
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    report: Report | None = None,
) -> list[Run]:
    """Run several configurations as one batched model.

    Each gives the records that it would give alone, to rounding. The global random state is
    neither read nor changed.

    Args:
        configurations: what to run; any two of them `may_run_together`.
        checkpoint: a file that says now and then where the runs stand. If it is there and whole,
            and of these very configurations, they go on from it, to the same result; at the end
            it is removed.
        checkpoint_every: epochs between two checkpoints.
        report: called after every step.

    Returns:
        Their records, in the same order.

    Raises:
        InvalidOptionError: there are none, or they cannot run together.

    Example:
        >>> from dataclasses import replace
        >>> from flossing_lab.runs.configuration import Architecture, Training
        >>> from flossing.tasks import DelayedCopy
        >>> configuration = Configuration(
        ...     task=DelayedCopy(delay=2, steps=10),
        ...     architecture=Architecture(size=8),
        ...     training=Training(epochs=5),
        ... )
        >>> runs = run_together([configuration, replace(configuration, seed=1)])
        >>> [len(each.epochs) for each in runs]
        [5, 5]
    """
    _require_fit(configurations)
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
    """Whether they differ in nothing but the seed and a delay that changes no shape.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> near, far = (
        ...     Configuration(task=DelayedCopy(delay=delay), architecture=Architecture())
        ...     for delay in (20, 40)
        ... )
        >>> may_run_together(near, far)
        True
    """
    return _common(first) == _common(second)


class _Trainer:
    def __init__(self, configurations: Sequence[Configuration], report: Report) -> None:
        self.members = [Member(configuration) for configuration in configurations]
        # That no record depends on when this is done in the background.
        compile_ahead(self.members[0].network.system)
        self.epoch = 0
        self._training = configurations[0].training
        self._every = configurations[0].evaluate_every
        self._report = report
        self._gather(range(len(self.members)))

    def begin(self) -> None:
        for index, member in enumerate(self.members):
            member.floss_before_training(self._flossing_report(index))

    def step(self) -> bool:
        """Train and floss for an epoch; whether there was one left."""
        if self.epoch == self._training.epochs or not self._active:
            return False
        self.epoch += 1
        start = time.perf_counter()
        self._optimizer.param_groups[0]["lr"] = self._training.step_size(self.epoch)
        losses, norms = self._train([member.batch() for member in self._active_members])
        seconds = (time.perf_counter() - start) / len(self._active)
        for index, member in enumerate(self._active_members):
            member.training_seconds += seconds
            member.add_epoch(self.epoch, losses[index], norms[index])
            member.floss(self.epoch)
            if self.epoch % self._every == 0 or self.epoch == self._training.epochs:
                member.evaluate(self.epoch)
        self._drop_finished()
        self._report("training", self.epoch, self._training.epochs)
        return True

    def save(self, path: Path) -> None:
        write_checkpoint(
            path,
            {
                "digests": self._digests,
                "epoch": self.epoch,
                "active": self._active,
                "members": [member.state() for member in self.members],
                "optimizer": self._optimizer.state_dict(),
            },
        )

    def resume(self, path: Path) -> bool:
        """Go on from a checkpoint of these configurations, if there is one."""
        state = read_checkpoint(path)
        if state is None or state.get("digests") != self._digests:
            return False
        for member, own in zip(self.members, state["members"], strict=True):
            member.load(own)
        self.epoch = state["epoch"]
        self._gather(state["active"])
        self._optimizer.load_state_dict(state["optimizer"])
        return True

    @property
    def _digests(self) -> list[str]:
        return [member.configuration.digest for member in self.members]

    @property
    def _active_members(self) -> list[Member]:
        return [self.members[index] for index in self._active]

    def _gather(self, active: Sequence[int]) -> None:
        """Put the networks that are still trained into one."""
        self._active = list(active)
        if not self._active:
            return
        self._ensemble = Ensemble([member.network for member in self._active_members])
        self._optimizer = torch.optim.Adam(self._ensemble.parameters.values())

    def _drop_finished(self) -> None:
        kept = [place for place, member in enumerate(self._active_members) if not member.finished]
        if len(kept) == len(self._active):
            return
        self._active = [self._active[place] for place in kept]
        if kept:
            self._ensemble = keep(self._ensemble, self._optimizer, kept)

    def _train(self, batches: list[Batch]) -> tuple[list[float], list[float]]:
        parameters = self._ensemble.parameters
        answers = self._ensemble.answers(torch.stack([batch.inputs for batch in batches]))
        losses = [
            task_loss(member.configuration.task, own, batch)
            for member, own, batch in zip(self._active_members, answers, batches, strict=True)
        ]
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(parameters.values()))
        if self._training.norm_penalty:
            self._add_penalties(dict(zip(parameters, gradients, strict=True)), batches)
        norms = clip(gradients, self._training.max_gradient_norm)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        return numbers(torch.stack(losses)), numbers(norms)

    def _add_penalties(self, gradients: dict[str, Tensor], batches: list[Batch]) -> None:
        for index, (member, batch) in enumerate(zip(self._active_members, batches, strict=True)):
            own = dict(member.network.named_parameters())
            loss = partial(task_loss, member.configuration.task.kind, batch=batch)
            penalty = norm_penalty(member.network, batch.inputs, loss)
            weighted = self._training.norm_penalty * penalty
            added = torch.autograd.grad(
                weighted,
                [own[name] for name in gradients],
                allow_unused=True,
                materialize_grads=True,
            )
            for gradient, own_part in zip(gradients.values(), added, strict=True):
                gradient[index] += own_part

    def _flossing_report(self, index: int) -> Callable[[int, float], None]:
        flossing = self.members[index].configuration.flossing
        steps = 0 if flossing is None else int(flossing.schedule.get("before", 0))
        total = steps * len(self.members)
        return lambda step, _: self._report("flossing", index * steps + step, total)


def _require_fit(configurations: Sequence[Configuration]) -> None:
    if not configurations:
        raise InvalidOptionError("there is nothing to run: pass at least one configuration")
    strangers = [
        each for each in configurations[1:] if not may_run_together(configurations[0], each)
    ]
    if strangers:
        raise InvalidOptionError(
            f"{strangers[0]} cannot run together with {configurations[0]}: they differ in more "
            "than the seed and a delay that changes no shape; run them one by one"
        )


def _common(configuration: Configuration) -> dict[str, Any]:
    """What configurations that run together have in common."""
    document = configuration.document()
    task = configuration.task
    settings = {key: value for key, value in document["task"].items() if key != "delay"}
    shapes = {"steps": task.steps, "inputs": task.input_size, "outputs": task.output_size}
    return document | {"seed": None, "task": settings | {"shapes": shapes}}


def _no_report(phase: Phase, done: int, total: int) -> None:
    del phase, done, total
