"""One network of a training run: its data, its flossing, and its records."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from statistics import mean
from typing import Any

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
from flossing.support.torch_typed import numbers
from flossing.tasks import Batch, Digits, accuracy, constant_loss, task_loss
from flossing_lab.networks.cells import State
from flossing_lab.networks.gradients import first_state_gradient_norm, gradient_norm_by_lag
from flossing_lab.networks.networks import SequenceNetwork, make_network
from flossing_lab.runs.configuration import Configuration, Flossing
from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run

STREAMS = ("weights", "flossing inputs", "flossing frames", "training", "spectrum", "evaluation")
"""Purposes of random numbers."""

SPECTRUM_BATCH_SIZE = 4

LEARNED = 0.5
"""A network has started to learn the task if its loss is below this share of the loss of the best
constant answer, in the mean over the last `RECENT` epochs."""
RECENT = 20


def stream_seed(seed: int, stream: str) -> int:
    """Return the seed of a stream: arms that differ in one purpose share the others' numbers.

    Example:
        >>> stream_seed(0, "weights") != stream_seed(0, "training")
        True
    """
    sequence = np.random.SeedSequence([seed, STREAMS.index(stream)])
    return int(sequence.generate_state(1, np.uint64)[0])


def initial_network(configuration: Configuration) -> SequenceNetwork:
    """Return the network before flossing and training; it does not depend on the flossing."""
    return make_network(
        configuration.architecture,
        input_size=configuration.task.input_size,
        output_size=configuration.task.output_size,
        generator=_generator(configuration.seed, "weights"),
    )


class Member:
    """A network with its data, its flossing and its records.

    Attributes:
        configuration: of the run.
        network: that is trained.
        training_seconds: wall-clock of its training steps.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.network = initial_network(configuration)
        self.training_seconds = 0.0
        self._flossing_seconds = 0.0
        self._generators = {stream: _generator(configuration.seed, stream) for stream in STREAMS}
        self._flosser: Flosser | None = None
        if configuration.flossing is not None:
            self._prepare_flossing(configuration.flossing)
        self._probe = self._sample(configuration.training.batch_size, "evaluation")
        self._constant_loss = constant_loss(configuration.task, self._probe)
        self._epochs: list[Epoch] = []
        self._episodes: list[Episode] = []
        self._evaluations: list[Evaluation] = []
        self._gradient_norm_by_lag: tuple[float, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the last evaluations, as many as the patience, solved the task."""
        patience, solved = self.configuration.training.patience, self.configuration.training.solved
        last = self._evaluations[-patience:] if patience else []
        return len(last) == patience > 0 and all(
            each.accuracy is not None and each.accuracy >= solved for each in last
        )

    def batch(self) -> Batch:
        """Return fresh sequences to train on."""
        return self._sample(self.configuration.training.batch_size, "training")

    def floss_before_training(self, report: Callable[[int, float], None] | None = None) -> None:
        """Floss if scheduled, and measure the network that training starts from."""
        if self._flosser is not None:
            with self._flossing_clock():
                history = self._flosser.before_training(self._flossing_batch, callback=report)
            self._add_episode(0, history)
        if self.configuration.gradients:
            norms = gradient_norm_by_lag(self.network, self.configuration.task.kind, self._probe)
            self._gradient_norm_by_lag = tuple(numbers(norms))
        self.evaluate(0)

    def floss(self, epoch: int, *, before_epoch: bool) -> None:
        """Floss if scheduled at an epoch, before or after its training step."""
        flossing = self.configuration.flossing
        if self._flosser is None or flossing is None or flossing.before_epoch != before_epoch:
            return
        training = self.configuration.training
        losses = [each.loss for each in self._epochs[-RECENT:]] or [math.inf]
        learned = mean(losses) < LEARNED * self._constant_loss
        # The run of a network that training drives to infinity continues, with infinite losses.
        with self._flossing_clock(), suppress(NonFiniteError):
            history = self._flosser.step(
                epoch,
                self._flossing_batch,
                learned=learned and not flossing.despite_learning,
                scale=training.step_size(epoch) / training.learning_rate,
            )
            self._add_episode(epoch - before_epoch, history)

    def add_epoch(self, epoch: int, loss: float, gradient_norm: float) -> None:
        """Record a training step."""
        self._epochs.append(Epoch(epoch=epoch, loss=loss, gradient_norm=gradient_norm))

    def evaluate(self, epoch: int) -> None:
        """Add a point to the learning curve."""
        batch_size = self.configuration.evaluation_batch_size
        self._evaluations.append(self._evaluation(epoch, batch_size))

    def result(self, together: int) -> Run:
        """Return the record of the run, of a number of networks trained as one model."""
        last = self._epochs[-1].epoch if self._epochs else 0
        return Run(
            configuration=self.configuration,
            epochs=tuple(self._epochs),
            episodes=tuple(self._episodes),
            evaluations=tuple(self._evaluations),
            final=self._evaluation(last, self.configuration.final_batch_size),
            gradient_norm_by_lag=self._gradient_norm_by_lag,
            flossing_seconds=self._flossing_seconds,
            training_seconds=self.training_seconds,
            together=together,
            environment=environment(),
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the configuration."""
        return {
            "network": self.network.state_dict(),
            "flosser": None if self._flosser is None else self._flosser.state_dict(),
            "generators": {name: each.get_state() for name, each in self._generators.items()},
            "seconds": (self._flossing_seconds, self.training_seconds),
            "epochs": [asdict(each) for each in self._epochs],
            "episodes": [asdict(each) for each in self._episodes],
            "evaluations": [asdict(each) for each in self._evaluations],
            "gradient_norm_by_lag": self._gradient_norm_by_lag,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.network.load_state_dict(state["network"])
        if self._flosser is not None:
            self._flosser.load_state_dict(state["flosser"])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        self._flossing_seconds, self.training_seconds = state["seconds"]
        self._epochs = [Epoch(**each) for each in state["epochs"]]
        self._episodes = [Episode(**each) for each in state["episodes"]]
        self._evaluations = [Evaluation(**each) for each in state["evaluations"]]
        self._gradient_norm_by_lag = state["gradient_norm_by_lag"]

    def _evaluation(self, epoch: int, batch_size: int) -> Evaluation:
        """Evaluate on data that is not trained on: the test part, or else fresh sequences."""
        configuration, task = self.configuration, self.configuration.task
        if isinstance(task, Digits):
            batch = task.test(generator=self._generators["evaluation"])
        else:
            batch = self._sample(batch_size, "evaluation")
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
        """Return the k largest over the length of the task's sequences, from the initial state.

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
        return tuple(numbers(spectrum.exponents.mean(dim=0)))

    def _prepare_flossing(self, flossing: Flossing) -> None:
        self._flossing_inputs = FlossingInputs(
            self.network,
            flossing,
            lambda number: self._sample(number, "flossing inputs").inputs,
            self._generators["flossing inputs"],
        )
        self._flosser = Flosser(
            self.network.system,
            k=flossing.k,
            state=self._flossing_inputs.state,
            state_transient=flossing.state_transient,
            frame_transient=flossing.frame_transient,
            generator=self._generators["flossing frames"],
            **flossing.schedule,
        )

    def _flossing_batch(self) -> Float[Tensor, "t B D"]:
        configuration = self.configuration
        if configuration.flossing is not None and configuration.flossing.same_frame:
            seed = stream_seed(configuration.seed, "flossing frames")
            self._generators["flossing frames"].manual_seed(seed)
        return self._flossing_inputs.batch()

    def _sample(self, batch_size: int, stream: str) -> Batch:
        return self.configuration.sample(batch_size, self._generators[stream])

    def _add_episode(self, epoch: int, history: FlossHistory | None) -> None:
        if history is not None:
            exponents = history.exponents[-1]
            self._episodes.append(
                Episode(
                    epoch=epoch,
                    loss=tuple(numbers(history.loss)),
                    largest_exponent=float(exponents.max()),
                    smallest_exponent=float(exponents.min()),
                )
            )

    @contextmanager
    def _flossing_clock(self) -> Generator[None]:
        start = time.perf_counter()
        yield
        self._flossing_seconds += time.perf_counter() - start


class FlossingInputs:
    """Windows of a task's sequences, at their beginning or at random places, with their states.

    At the beginning the state is zero, or the trained initial state of a rate network, from which
    flossing is less effective. Elsewhere it is the state that the network has there.

    Args:
        network: to be flossed.
        flossing: the options.
        sample: draws a number of whole sequences.
        generator: of the random places.
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
        self._state = self._first()

    def batch(self) -> Float[Tensor, "t B D"]:
        """Return the inputs of the next window, of `flossing.time_steps` steps."""
        inputs, steps = self._sample(self._flossing.sequences), self._flossing.time_steps
        self._state = self._first()
        if not self._flossing.anywhere:
            return inputs[:steps]
        window, self._state = sample_window(
            self._network.system, inputs, self._state, steps=steps, generator=self._generator
        )
        return window

    def state(self, inputs: Float[Tensor, "t B D"]) -> State:
        """Return the state before the first step of the last window, whose inputs are given."""
        del inputs
        return self._state

    def _first(self) -> State:
        """Return the state before whole sequences."""
        if self._flossing.start == "zero":
            return SequenceNetwork.initial_state(self._network, self._flossing.sequences)
        with torch.no_grad():
            return self._network.initial_state(self._flossing.sequences)


def _generator(seed: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, stream))
