"""One training run: a pure function of its configuration and a seed, wall-clock apart."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flossing.experiments.configuration import Architecture
from flossing.experiments.gradients import first_state_gradient_norm, gradient_norm_by_lag
from flossing.experiments.networks import SequenceNetwork, make_network
from flossing.floss import floss
from flossing.result import LyapunovSpectrum
from flossing.spectrum import lyapunov_spectrum
from flossing.tasks import Batch, Digits, Task, accuracy, task_loss

Phase: TypeAlias = Literal["flossing", "training"]
Report: TypeAlias = Callable[[Phase, int, int], None]
"""Called with the phase, the steps of it that are done, and how many there are."""

STREAMS = ("weights", "flossing inputs", "flossing frames", "training", "spectrum", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Flossing:
    """How a network is flossed before its training; one fresh sequence a step.

    Attributes:
        k: How many exponents, from the largest, are pushed to zero.
        steps: Number of gradient steps.
        time_steps: Length of the sequences.
        state_transient: So many first time steps move the state only.
        frame_transient: So many further ones align the frame.
        learning_rate: Step size of Adam.
    """

    k: int
    steps: int
    time_steps: int
    state_transient: int = 10
    frame_transient: int = 6
    learning_rate: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything that a run depends on, but for the seed.

    Attributes:
        name: What the table and the figure call it.
        task: What is learned.
        architecture: What learns it.
        flossing: What is done before training; `None` for nothing.
        flossed_k: Which exponents are reported beside the largest, in both arms.
        batch_size: Sequences in a training batch.
        training_steps: Number of gradient steps; each on a fresh batch, called epoch in the paper.
        learning_rate: Step size of Adam.
        max_gradient_norm: Gradients are clipped to this norm.
        evaluate_every: Training steps between two points of the learning curve.
        evaluation_batch_size: Fresh sequences at each point of it; digits take their test part.
        final_batch_size: Fresh sequences for the accuracy after training; digits as above.
        spectrum_batch_size: Trajectories over which the exponents before training are averaged.
    """

    name: str
    task: Task
    architecture: Architecture
    flossing: Flossing | None
    flossed_k: int
    batch_size: int
    training_steps: int
    learning_rate: float = 1e-3
    max_gradient_norm: float
    evaluate_every: int
    evaluation_batch_size: int = 64
    final_batch_size: int = 512
    spectrum_batch_size: int = 4

    @property
    def arm(self) -> str:
        """Which of the two runs that are compared this is."""
        return "without flossing" if self.flossing is None else "flossed before training"

    @property
    def label(self) -> str:
        """What progress bars and messages call it."""
        return f"{self.name}, {self.arm}"


@dataclass(frozen=True, kw_only=True)
class EvaluationPoint:
    """One point of a learning curve, on data that is not trained on.

    Attributes:
        step: Training steps done.
        accuracy: From 0 to 1.
        loss: The task's loss.
        gradient_norm: ‖∂L/∂h_0‖; see `first_state_gradient_norm`.
    """

    step: int
    accuracy: float
    loss: float
    gradient_norm: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """What happened in a run. Two records are equal if all but the wall-clock times are.

    Attributes:
        configuration: What was run.
        seed: With what seed.
        flossing_loss: Mean squared exponent before each flossing step; empty without flossing.
        exponents: Lyapunov exponents before training, averaged over trajectories.
        gradient_norm: ‖∂L/∂h_0‖ before training.
        gradient_norm_by_lag: ‖∂L/∂h_{T−s}‖ before training, for s = 1 … T, with the loss at the
            last step alone.
        learning_curve: From step 0 to the last.
        final_accuracy: After training, from 0 to 1.
        flossing_seconds: Wall-clock of flossing.
        training_seconds: Wall-clock of the training steps, without evaluations.
        spectrum: What `exponents` comes from.
    """

    configuration: Configuration
    seed: int
    flossing_loss: tuple[float, ...]
    exponents: tuple[float, ...]
    gradient_norm: float
    gradient_norm_by_lag: tuple[float, ...]
    learning_curve: tuple[EvaluationPoint, ...]
    final_accuracy: float
    flossing_seconds: float = field(compare=False)
    training_seconds: float = field(compare=False)
    spectrum: LyapunovSpectrum = field(compare=False, repr=False)


def stream_seed(seed: int, stream: str) -> int:
    """A seed of its own for each purpose, so that both arms share weights and batches.

    Example:
        >>> stream_seed(0, "weights") != stream_seed(0, "training")
        True
    """
    sequence = np.random.SeedSequence([seed, STREAMS.index(stream)])
    return int(sequence.generate_state(1, np.uint64)[0])


def initial_network(configuration: Configuration, seed: int) -> SequenceNetwork:
    """The network before anything is done to it; the same whether or not it will be flossed."""
    task = configuration.task
    return make_network(
        configuration.architecture,
        input_size=task.input_size,
        output_size=task.output_size,
        generator=_generator(seed, "weights"),
    )


def run(configuration: Configuration, seed: int, report: Report | None = None) -> Record:
    """Floss, if that is configured, train, and measure before and after.

    Args:
        configuration: What to run.
        seed: What all randomness follows from; at least 0. The global random state is left alone.
        report: Called after every step.
    """
    tell: Report = report or _no_report
    task = configuration.task
    network = initial_network(configuration, seed)
    evaluation = _generator(seed, "evaluation")
    probe = task.sample(configuration.batch_size, generator=evaluation)

    flossing_clock, training_clock = _Stopwatch(), _Stopwatch()
    flossing_loss = _floss(network, configuration, seed, flossing_clock, tell)
    spectrum = _spectrum(network, configuration, seed)
    lags = gradient_norm_by_lag(network, task.kind, probe)

    curve = [_evaluate(network, configuration, 0, probe, evaluation)]
    for step in _training(network, configuration, seed, training_clock):
        tell("training", step, configuration.training_steps)
        if step % configuration.evaluate_every == 0 or step == configuration.training_steps:
            curve.append(_evaluate(network, configuration, step, probe, evaluation))
    final = _held_out(task, configuration.final_batch_size, evaluation)
    return Record(
        configuration=configuration,
        seed=seed,
        flossing_loss=flossing_loss,
        exponents=_numbers(spectrum.exponents.mean(dim=0)),
        gradient_norm=curve[0].gradient_norm,
        gradient_norm_by_lag=_numbers(lags),
        learning_curve=tuple(curve),
        final_accuracy=accuracy(task, _answers(network, final), final),
        flossing_seconds=flossing_clock.seconds,
        training_seconds=training_clock.seconds,
        spectrum=spectrum,
    )


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def _floss(
    network: SequenceNetwork,
    configuration: Configuration,
    seed: int,
    clock: _Stopwatch,
    report: Report,
) -> tuple[float, ...]:
    flossing = configuration.flossing
    if flossing is None:
        return ()
    batches = configuration.task.batches(1, seed=stream_seed(seed, "flossing inputs"))
    with clock.running():
        history = floss(
            network.system,
            (batch.inputs[: flossing.time_steps] for batch in batches),
            k=flossing.k,
            steps=flossing.steps,
            lr=flossing.learning_rate,
            state_transient=flossing.state_transient,
            frame_transient=flossing.frame_transient,
            generator=_generator(seed, "flossing frames"),
            callback=lambda step, _loss: report("flossing", step, flossing.steps),
        )
    return _numbers(history.loss)


def _spectrum(
    network: SequenceNetwork, configuration: Configuration, seed: int
) -> LyapunovSpectrum:
    """All exponents over the length of the task's own sequences, from the initial state."""
    generator = _generator(seed, "spectrum")
    batch = configuration.task.sample(configuration.spectrum_batch_size, generator=generator)
    with torch.no_grad():
        return lyapunov_spectrum(
            network.system,
            batch.inputs,
            network.initial_state(configuration.spectrum_batch_size),
            generator=generator,
        )


def _training(
    network: SequenceNetwork, configuration: Configuration, seed: int, clock: _Stopwatch
) -> Iterator[int]:
    """Train, and give the number of steps done after each."""
    task = configuration.task
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=configuration.learning_rate)
    batches = task.batches(configuration.batch_size, seed=stream_seed(seed, "training"))
    for step in range(1, configuration.training_steps + 1):
        with clock.running():
            batch = next(batches)
            loss = task_loss(task, network(batch.inputs), batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, configuration.max_gradient_norm)
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        yield step


def _evaluate(
    network: SequenceNetwork,
    configuration: Configuration,
    step: int,
    probe: Batch,
    generator: torch.Generator,
) -> EvaluationPoint:
    task = configuration.task
    batch = _held_out(task, configuration.evaluation_batch_size, generator)
    answers = _answers(network, batch)
    return EvaluationPoint(
        step=step,
        accuracy=accuracy(task, answers, batch),
        loss=float(task_loss(task, answers, batch)),
        gradient_norm=first_state_gradient_norm(network, task.kind, probe),
    )


def _held_out(task: Task, batch_size: int, generator: torch.Generator) -> Batch:
    """Data that is not trained on: fresh sequences, or the test part where there is one."""
    if isinstance(task, Digits):
        return task.test(generator=generator)
    return task.sample(batch_size, generator=generator)


def _answers(network: SequenceNetwork, batch: Batch) -> Float[Tensor, "T B C"]:
    with torch.no_grad():
        return network(batch.inputs)


def _generator(seed: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, stream))


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _no_report(phase: Phase, done: int, total: int) -> None:
    del phase, done, total
