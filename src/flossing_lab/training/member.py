"""One network's run, step by step: what `training` puts together."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flossing.batches import sample_window
from flossing.errors import NonFiniteError
from flossing.floss import FlossHistory
from flossing.flosser import Flosser
from flossing.spectrum import lyapunov_spectrum
from flossing.support.environment import environment
from flossing.tasks import Batch, Digits, Task, accuracy, constant_loss, task_loss
from flossing_lab.networks.cells import State
from flossing_lab.networks.gradients import first_state_gradient_norm, gradient_norm_by_lag
from flossing_lab.networks.networks import SequenceNetwork, make_network
from flossing_lab.runs.configuration import Configuration, Flossing
from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run

STREAMS = ("weights", "flossing inputs", "flossing frames", "training", "spectrum", "evaluation")
SPECTRUM_BATCH_SIZE = 4
SOLVED = 0.995
LEARNED = 0.5
"""Of the loss of the best constant answer: below it, a network has got hold of its task."""
RECENT = 20
"""Epochs whose losses are averaged to tell."""


def stream_seed(seed: int, stream: str) -> int:
    """A seed of its own for each purpose, so that all arms share weights and batches.

    Example:
        >>> stream_seed(0, "weights") != stream_seed(0, "training")
        True
    """
    sequence = np.random.SeedSequence([seed, STREAMS.index(stream)])
    return int(sequence.generate_state(1, np.uint64)[0])


def initial_network(configuration: Configuration) -> SequenceNetwork:
    """The network before anything is done to it; the same whether or not it will be flossed."""
    return make_network(
        configuration.architecture,
        input_size=configuration.task.input_size,
        output_size=configuration.task.output_size,
        generator=_generator(configuration.seed, "weights"),
    )


class Member:
    """A network with its data, its flossing and its records.

    Args:
        configuration: what is run.

    Attributes:
        configuration: what is run.
        network: what is trained.
        training_seconds: wall-clock of its training steps.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.network = initial_network(configuration)
        self.training_seconds = 0.0
        self._flossing_seconds = 0.0
        self._generators = {stream: _generator(configuration.seed, stream) for stream in STREAMS}
        self._flossed = self._make_flossed()
        self._probe = self._sample(configuration.training.batch_size, "evaluation")
        self._guessing = constant_loss(configuration.task, self._probe)
        self._epochs: list[Epoch] = []
        self._episodes: list[Episode] = []
        self._evaluations: list[Evaluation] = []
        self._lags: tuple[float, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the task has been solved for as many evaluations as the patience asks for."""
        patience = self.configuration.training.patience
        last = [each.accuracy for each in self._evaluations[-patience:]] if patience else []
        solved = [accuracy is not None and accuracy >= SOLVED for accuracy in last]
        return len(solved) == patience > 0 and all(solved)

    @property
    def _learned(self) -> bool:
        recent = [each.loss for each in self._epochs[-RECENT:]]
        return mean(recent) < LEARNED * self._guessing

    def batch(self) -> Batch:
        """Fresh sequences to train on."""
        return self._sample(self.configuration.training.batch_size, "training")

    def floss_before_training(self, report: Callable[[int, float], None] | None = None) -> None:
        """Floss as the schedule says, and measure what training starts from."""
        if self._flossed is not None:
            flosser, drive = self._flossed
            with self._flossing_clock():
                history = flosser.before_training(drive.batch, callback=report)
            self._add_episode(0, history)
        if self.configuration.gradients:
            kind = self.configuration.task.kind
            self._lags = _numbers(gradient_norm_by_lag(self.network, kind, self._probe))
        self.evaluate(0)

    def floss(self, epoch: int) -> None:
        """Floss if the schedule says so."""
        if self._flossed is None:
            return
        flosser, drive = self._flossed
        training = self.configuration.training
        # A network that training has driven to infinity has a result, too: infinite losses.
        with self._flossing_clock(), suppress(NonFiniteError):
            history = flosser.step(
                epoch,
                drive.batch,
                learned=self._learned,
                scale=training.step_size(epoch) / training.learning_rate,
            )
            self._add_episode(epoch, history)

    def add_epoch(self, epoch: int, loss: float, gradient_norm: float) -> None:
        """Record a training step."""
        self._epochs.append(Epoch(epoch=epoch, loss=loss, gradient_norm=gradient_norm))

    def evaluate(self, epoch: int) -> None:
        """Add a point to the learning curve."""
        configuration = self.configuration
        evaluation = self._evaluation(epoch, configuration.evaluation_batch_size)
        self._evaluations.append(evaluation)

    def result(self, together: int) -> Run:
        """All that is kept of the run.

        Args:
            together: how many networks were trained as one.
        """
        last = self._epochs[-1].epoch if self._epochs else 0
        return Run(
            configuration=self.configuration,
            epochs=tuple(self._epochs),
            episodes=tuple(self._episodes),
            evaluations=tuple(self._evaluations),
            final=self._evaluation(last, self.configuration.final_batch_size),
            gradient_norm_by_lag=self._lags,
            flossing_seconds=self._flossing_seconds,
            training_seconds=self.training_seconds,
            together=together,
            environment=environment(),
        )

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs beside the configuration."""
        return {
            "network": self.network.state_dict(),
            "flosser": None if self._flossed is None else self._flossed.flosser.state_dict(),
            "generators": {name: each.get_state() for name, each in self._generators.items()},
            "seconds": (self._flossing_seconds, self.training_seconds),
            "epochs": [asdict(each) for each in self._epochs],
            "episodes": [asdict(each) for each in self._episodes],
            "evaluations": [asdict(each) for each in self._evaluations],
            "lags": self._lags,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume where `state` was taken."""
        self.network.load_state_dict(state["network"])
        if self._flossed is not None:
            self._flossed.flosser.load_state_dict(state["flosser"])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        self._flossing_seconds, self.training_seconds = state["seconds"]
        self._epochs = [Epoch(**each) for each in state["epochs"]]
        self._episodes = [Episode(**each) for each in state["episodes"]]
        self._evaluations = [Evaluation(**each) for each in state["evaluations"]]
        self._lags = state["lags"]

    def _evaluation(self, epoch: int, batch_size: int) -> Evaluation:
        configuration, task = self.configuration, self.configuration.task
        batch = _held_out(task, batch_size, self._generators["evaluation"])
        with torch.no_grad():
            answers = self.network(batch.inputs)
        return Evaluation(
            epoch=epoch,
            loss=float(task_loss(task, answers, batch)),
            accuracy=None if task.kind == "regression" else accuracy(task, answers, batch),
            exponents=self._exponents(configuration.measured_exponents),
            gradient_norm=first_state_gradient_norm(self.network, task.kind, self._probe)
            if configuration.gradients
            else None,
        )

    def _exponents(self, k: int) -> tuple[float, ...]:
        """The largest over the length of the task's own sequences, from the initial state.

        NaN where training has driven the network to infinity.
        """
        if not k:
            return ()
        batch = self._sample(SPECTRUM_BATCH_SIZE, "spectrum")
        try:
            with torch.no_grad():
                spectrum = lyapunov_spectrum(
                    self.network.system,
                    batch.inputs,
                    self.network.initial_state(SPECTRUM_BATCH_SIZE),
                    k=k,
                    generator=self._generators["spectrum"],
                )
        except NonFiniteError:
            return (math.nan,) * k
        return _numbers(spectrum.exponents.mean(dim=0))

    def _make_flossed(self) -> "_Flossed | None":
        flossing = self.configuration.flossing
        if flossing is None:
            return None
        inputs, frames = (self._generators[f"flossing {what}"] for what in ("inputs", "frames"))

        def sample(number: int) -> Tensor:
            return self._sample(number, "flossing inputs").inputs

        drive = Drive(self.network, flossing, sample, inputs)
        return _Flossed(_flosser(flossing, self.network, drive.state, frames), drive)

    def _sample(self, batch_size: int, stream: str) -> Batch:
        task = self.configuration.task
        return task.sample(batch_size, generator=self._generators[stream])

    def _add_episode(self, epoch: int, history: FlossHistory | None) -> None:
        if history is None:
            return
        exponents = history.exponents[-1]
        self._episodes.append(
            Episode(
                epoch=epoch,
                loss=_numbers(history.loss),
                largest_exponent=float(exponents.max()),
                smallest_exponent=float(exponents.min()),
            )
        )

    @contextmanager
    def _flossing_clock(self) -> Generator[None]:
        start = time.perf_counter()
        yield
        self._flossing_seconds += time.perf_counter() - start


class Drive:
    """Pieces of a task's sequences, at their beginning or anywhere in them.

    At the beginning the network starts from rest, a state of zero: from the trained initial state
    of a rate network flossing gets less far. Elsewhere it starts from the state that it has there,
    after the sequence up to then.

    Args:
        network: what is flossed.
        flossing: how.
        sample: draws so many whole sequences.
        generator: of the places.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing_lab.networks.networks import make_network
        >>> network = make_network(
        ...     Architecture(size=8), input_size=1, output_size=1, generator=torch.Generator()
        ... )
        >>> flossing = Flossing(k=2, time_steps=20, anywhere=True, schedule={})
        >>> drive = Drive(network, flossing, lambda n: torch.ones(100, n, 1), torch.Generator())
        >>> inputs = drive.batch()
        >>> inputs.shape, drive.state(inputs).shape
        (torch.Size([20, 1, 1]), torch.Size([1, 1, 8]))
    """

    def __init__(
        self,
        network: SequenceNetwork,
        flossing: Flossing,
        sample: Callable[[int], Float[Tensor, "T B D"]],
        generator: torch.Generator,
    ) -> None:
        self._network = network
        self._flossing = flossing
        self._sample = sample
        self._generator = generator
        self._state: State = SequenceNetwork.initial_state(network, flossing.sequences)

    def batch(self) -> Float[Tensor, "t B D"]:
        """Fresh inputs of so many steps as the flossing takes."""
        inputs = self._sample(self._flossing.sequences)
        self._state = SequenceNetwork.initial_state(self._network, self._flossing.sequences)
        if not self._flossing.anywhere:
            return inputs[: self._flossing.time_steps]
        piece, self._state = sample_window(
            self._network.system,
            inputs,
            self._state,
            steps=self._flossing.time_steps,
            generator=self._generator,
        )
        return piece

    def state(self, inputs: Float[Tensor, "t B D"]) -> State:
        """The state before the first step of the last batch.

        Args:
            inputs: that batch.
        """
        del inputs
        return self._state


class _Flossed(NamedTuple):
    """What flosses a network, and under which inputs."""

    flosser: Flosser
    drive: Drive


def _flosser(
    flossing: Flossing,
    network: SequenceNetwork,
    state: Callable[[Tensor], State],
    generator: torch.Generator,
) -> Flosser:
    return Flosser(
        network.system,
        k=flossing.k,
        state=state,
        state_transient=flossing.state_transient,
        frame_transient=flossing.frame_transient,
        generator=generator,
        **flossing.schedule,
    )


def _held_out(task: Task, batch_size: int, generator: torch.Generator) -> Batch:
    """Data that is not trained on: fresh sequences, or the test part where there is one."""
    if isinstance(task, Digits):
        return task.test(generator=generator)
    return task.sample(batch_size, generator=generator)


def _generator(seed: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, stream))


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
