"""What a run depends on: frozen configurations, as values, as JSON, and by a digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import torch

from flossing.errors import InvalidOptionError
from flossing.support.checks import require_choice, require_integer, require_positive
from flossing.tasks import Batch, Task
from flossing.tasks.base import DelayedParity
from flossing_lab.runs.codec import LEFT_OUT, decode, encode

Cell: TypeAlias = Literal["tanh", "relu", "leaky", "modrelu", "gru", "lstm", "lem"]
Initialisation: TypeAlias = Literal["gaussian", "orthogonal", "identity", "stock", "chrono"]
Form: TypeAlias = Literal["rate", "state"]
Clipping: TypeAlias = Literal["network", "array"]
Start: TypeAlias = Literal["zero", "trained"]

SCHEDULE_OPTIONS: Mapping[str, type[int] | type[float]] = {
    "before": int,
    "every": int,
    "steps": int,
    "times": int,
    "lr": float,
    "training_lr": float,
    "tolerance": float,
    "drift": float,
    "max_gradient_norm": float,
}
"""Options of `flossing.Flosser` that a configuration can set, and their types."""

FORMAT = 1
"""Version of the file format of runs; part of every digest."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A recurrent network with a linear readout.

    A field added later is left out of documents, and so of digests, at its default.

    Attributes:
        cell: "tanh" and "relu" are vanilla networks; "leaky" is h' = (1−α)h + α tanh(…);
            "modrelu" adds a bias to |h| and keeps the sign; "gru" and "lstm" are PyTorch's;
            "lem" is the long expressive memory of Rusch et al. (ICLR 2022). Cells that PyTorch
            does not ship are in `flossing_lab.networks.cells`.
        size: number N of hidden units.
        initialisation: of the recurrent weights of each gate. "gaussian": variance gain²/N;
            "orthogonal": gain times a random orthogonal matrix; "identity": gain times the
            identity; "stock": gain times the module's own initialisation, which leaky and modrelu
            lack; "chrono": as "stock", with biases of the forget and input gates for memories of
            up to `longest_memory` steps (LSTM only). For the other weights see
            `flossing_lab.networks.initialisation`.
        gain: scale of the recurrent weights.
        input_gain: scale of the input weights. A small one keeps the units near their linear
            range, where the state keeps older inputs and mixes them less.
        bias_scale: standard deviation of the normal biases of tanh, relu and leaky networks: tanh
            is odd, so nearly linear units form products of inputs only through their biases.
            `None`: biases as in `flossing_lab.networks.initialisation`.
        form: "state" reads out h; "rate" reads out the potential x of h = tanh(x), and trains its
            initial value, as in the released code of Engelken (NeurIPS 2023).
        initial_states: number of trained initial values of the rate form, which the sequences of a
            batch take in turn: 1 for the same one for all, the batch size for one each.
        readout_bias: initial value of the readout's biases.
        orthogonal: keep the recurrent weights orthogonal throughout training, by
            `torch.nn.utils.parametrizations.orthogonal`; they must start orthogonal.
        leak: α of the leaky cell, in (0, 1]; 1 for the others.
        longest_memory: of "chrono", in time steps; 100 for the others.

    Raises:
        InvalidOptionError: an invalid option value, or an option that the cell does not have.
    """

    cell: Cell = "tanh"
    size: int = 80
    initialisation: Initialisation = "gaussian"
    gain: float = 1.0
    input_gain: float = field(default=1.0, metadata=LEFT_OUT)
    bias_scale: float | None = field(default=None, metadata=LEFT_OUT)
    form: Form = "state"
    initial_states: int = field(default=1, metadata=LEFT_OUT)
    readout_bias: float = field(default=0.0, metadata=LEFT_OUT)
    orthogonal: bool = False
    leak: float = 1.0
    longest_memory: int = 100

    def __post_init__(self) -> None:
        require_choice("cell", self.cell, get_args(Cell))
        require_integer("size", self.size, at_least=1)
        require_choice("initialisation", self.initialisation, get_args(Initialisation))
        require_choice("form", self.form, get_args(Form))
        require_integer("initial_states", self.initial_states, at_least=1)
        require_integer("longest_memory", self.longest_memory, at_least=2)
        require_positive("gain", self.gain)
        require_positive("input_gain", self.input_gain)
        require_positive("leak", self.leak, at_most=1.0)
        self._check_cell()
        self._check_initialisation()

    @property
    def is_stock_layer(self) -> bool:
        """Whether the recurrent part is a layer of PyTorch rather than a Python loop over steps.

        A layer would keep a copy of the weights from before their parametrisation, so networks
        that are kept orthogonal are cells.
        """
        return self.cell in ("tanh", "relu", "gru", "lstm") and not self.orthogonal

    def _check_cell(self) -> None:
        if self.form == "rate" and self.cell != "tanh":
            raise InvalidOptionError(
                f"form is 'rate' and cell is {self.cell!r}; only a tanh network has a rate form: "
                "use form='state'"
            )
        if self.initial_states != 1 and self.form != "rate":
            raise InvalidOptionError(
                f"initial_states is {self.initial_states} and form is {self.form!r}, whose "
                "networks start from zero: use form='rate', or leave initial_states out"
            )
        if self.leak != 1 and self.cell != "leaky":
            raise InvalidOptionError(
                f"leak is {self.leak} and cell is {self.cell!r}, which has none: use cell='leaky', "
                "or leave leak out"
            )
        if self.orthogonal and self.cell not in ("tanh", "relu", "leaky", "modrelu"):
            raise InvalidOptionError(
                f"orthogonal is set and cell is {self.cell!r}; only a cell with one square "
                "recurrent matrix can keep it orthogonal: tanh, relu, leaky or modrelu"
            )

        if self.bias_scale is not None:
            require_positive("bias_scale", self.bias_scale)
            if self.cell not in ("tanh", "relu", "leaky") or self.initialisation == "stock":
                raise InvalidOptionError(
                    f"bias_scale is {self.bias_scale}, cell is {self.cell!r} and initialisation is "
                    f"{self.initialisation!r}, which sets the biases itself: leave bias_scale out, "
                    "or use cell='tanh', 'relu' or 'leaky' with another initialisation than 'stock'"
                )

    def _check_initialisation(self) -> None:
        if self.initialisation == "chrono" and self.cell != "lstm":
            raise InvalidOptionError(
                f"initialisation is 'chrono' and cell is {self.cell!r}; it sets the gate biases of "
                "an LSTM: use cell='lstm', or another initialisation"
            )
        if self.longest_memory != 100 and self.initialisation != "chrono":
            raise InvalidOptionError(
                f"longest_memory is {self.longest_memory} and initialisation is "
                f"{self.initialisation!r}; only 'chrono' has one: leave longest_memory out"
            )
        if self.initialisation == "stock" and (
            self.cell in ("leaky", "modrelu") or self.form == "rate"
        ):
            raise InvalidOptionError(
                f"initialisation is 'stock', cell is {self.cell!r} and form is {self.form!r}, "
                "which has no module of its own in PyTorch: use 'gaussian', 'orthogonal' or "
                "'identity'"
            )
        starts_orthogonal = self.initialisation in ("orthogonal", "identity") and self.gain == 1
        if self.orthogonal and not starts_orthogonal:
            raise InvalidOptionError(
                f"orthogonal is set, initialisation is {self.initialisation!r} and gain is "
                f"{self.gain}; weights that are kept orthogonal must start so: use 'orthogonal' or "
                "'identity' with gain 1"
            )


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained; every epoch is one gradient step on a fresh batch.

    Attributes:
        epochs: the largest number of epochs.
        batch_size: sequences in a batch.
        learning_rate: step size of Adam.
        cooldown: share of the epochs, at the end, over which the step size falls linearly to zero.
        max_gradient_norm: gradients are clipped to this norm.
        clipping: "network": the norm over all parameters of a network together; "array": the norm
            of each parameter by itself.
        norm_penalty: weight of Ω, the penalty on growth and decay of ∂L/∂h from step to step of
            Pascanu, Mikolov & Bengio (ICML 2013).
        patience: number of consecutive evaluations at an accuracy of `solved` or more after which
            training ends; 0 to train for all epochs.
        solved: that accuracy, above 0 and at most 1.

    Raises:
        InvalidOptionError: an invalid option value.
    """

    epochs: int = 3000
    batch_size: int = 16
    learning_rate: float = 1e-3
    cooldown: float = 0.0
    max_gradient_norm: float = 0.03
    clipping: Clipping = field(default="network", metadata=LEFT_OUT)
    norm_penalty: float = 0.0
    patience: int = 0
    solved: float = field(default=0.995, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        require_integer("epochs", self.epochs, at_least=0)
        require_integer("batch_size", self.batch_size, at_least=1)
        require_integer("patience", self.patience, at_least=0)
        require_positive("learning_rate", self.learning_rate)
        require_positive("max_gradient_norm", self.max_gradient_norm)
        require_choice("clipping", self.clipping, get_args(Clipping))
        require_positive("solved", self.solved, at_most=1.0)
        if self.norm_penalty:
            require_positive("norm_penalty", self.norm_penalty)
        if self.cooldown:
            require_positive("cooldown", self.cooldown, at_most=1.0)

    def step_size(self, epoch: int) -> float:
        """Return Adam's step size in an epoch, counted from 1.

        Example:
            >>> training = Training(epochs=100, learning_rate=1.0, cooldown=0.2)
            >>> [round(training.step_size(epoch), 2) for epoch in (1, 81, 91, 100)]
            [1.0, 1.0, 0.5, 0.05]
        """
        left = self.epochs - epoch + 1
        return self.learning_rate * min(1.0, left / max(1.0, self.cooldown * self.epochs))


@dataclass(frozen=True, kw_only=True)
class Flossing:
    """How a network is flossed: the options of `flossing.Flosser`, and its inputs.

    Attributes:
        k: number of exponents, from the largest, that are pushed to zero; `None` for all.
        time_steps: length of the sequences, which are fresh ones of the task.
        sequences: number of sequences in each flossing step.
        state_transient: first time steps, during which only the state moves.
        frame_transient: further time steps, during which the frame aligns.
        anywhere: use a random window of each of the task's sequences, with the state that the
            network has there, rather than the first time steps from a state of zero. Where the
            inputs change their statistics, as in a hold, only this flosses the whole sequence.
        start: the states before the sequences: "zero", or the "trained" initial states of the rate
            form, of which each sequence takes one, from the first.
        same_frame: begin every flossing step with the same frame rather than a fresh one.
        before_epoch: take an episode that is due at an epoch before its training step, not after.
        despite_learning: take episodes of the schedule even if the network has started to learn.
        schedule: further options of `flossing.Flosser` by name; see `SCHEDULE_OPTIONS`.

    Raises:
        InvalidOptionError: an invalid option value.
    """

    k: int | None
    time_steps: int
    sequences: int = 1
    state_transient: int = 10
    frame_transient: int = 6
    anywhere: bool = field(default=False, metadata=LEFT_OUT)
    start: Start = field(default="zero", metadata=LEFT_OUT)
    same_frame: bool = field(default=False, metadata=LEFT_OUT)
    before_epoch: bool = field(default=False, metadata=LEFT_OUT)
    despite_learning: bool = field(default=False, metadata=LEFT_OUT)
    schedule: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.k is not None:
            require_integer("k", self.k, at_least=1)
        require_integer("sequences", self.sequences, at_least=1)
        require_integer("state_transient", self.state_transient, at_least=0)
        require_integer("frame_transient", self.frame_transient, at_least=0)
        require_choice("start", self.start, get_args(Start))
        shortest = self.state_transient + self.frame_transient + 1
        require_integer("time_steps", self.time_steps, at_least=shortest)
        unknown = [name for name in self.schedule if name not in SCHEDULE_OPTIONS]
        if unknown:
            raise InvalidOptionError(
                f"{', '.join(map(repr, unknown))} in schedule; expected options of "
                f"flossing.Flosser among {', '.join(SCHEDULE_OPTIONS)}"
            )
        for value in self.schedule.values():
            if not isinstance(value, int | float | None):
                raise InvalidOptionError(
                    f"{value!r} ({type(value).__name__}) in schedule; expected numbers or None"
                )


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything that the result of a run depends on.

    Attributes:
        task: to be learned.
        architecture: the network.
        training: how it is trained.
        flossing: how it is flossed; `None` for not at all.
        seed: seed of all randomness; at least 0.
        evaluate_every: epochs between two points of the learning curve.
        evaluation_batch_size: fresh sequences in each of them; digits use their test part.
        final_batch_size: fresh sequences for the accuracy after training; digits as above.
        measured_exponents: number of exponents that are measured before training and at each
            evaluation; 0 for none.
        gradients: whether gradients of the loss with respect to states are measured there too.
        divide_inputs: divide the inputs by the number of channels.
        unseen_input: leave out the first input of sequences that are a step longer, so that the
            target of the first step that counts depends on an input that was not seen.

    Raises:
        InvalidOptionError: an invalid option value.
    """

    task: Task
    architecture: Architecture
    training: Training = Training()
    flossing: Flossing | None = None
    seed: int = 0
    evaluate_every: int = 50
    evaluation_batch_size: int = 64
    final_batch_size: int = 512
    measured_exponents: int = 0
    gradients: bool = False
    divide_inputs: bool = field(default=False, metadata=LEFT_OUT)
    unseen_input: bool = field(default=False, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        require_integer("seed", self.seed, at_least=0)
        require_integer("evaluate_every", self.evaluate_every, at_least=1)
        require_integer("evaluation_batch_size", self.evaluation_batch_size, at_least=1)
        require_integer("final_batch_size", self.final_batch_size, at_least=1)
        require_integer("measured_exponents", self.measured_exponents, at_least=0)
        if self.flossing is not None and self.flossing.time_steps > self.task.steps:
            raise InvalidOptionError(
                f"flossing takes {self.flossing.time_steps} time steps, but the task's sequences "
                f"have {self.task.steps}: pass at most as many, or a longer task"
            )
        if self.flossing and self.flossing.start != "zero" and self.architecture.form != "rate":
            raise InvalidOptionError(
                f"start is {self.flossing.start!r} and form is {self.architecture.form!r}, whose "
                "networks have no trained initial state: use start='zero', or form='rate'"
            )
        on_bits = isinstance(self.task, DelayedParity)
        if (self.divide_inputs or self.unseen_input) and not on_bits:
            raise InvalidOptionError(
                f"divide_inputs or unseen_input is set and the task is {self.task}; only tasks on "
                "streams of bits have these options: leave them out"
            )

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Return fresh sequences of the task, with their inputs as the network gets them."""
        task, skipped = self.task, int(self.unseen_input)
        if isinstance(task, DelayedParity):
            task = replace(task, steps=task.steps + skipped)
        inputs, targets, mask = task.sample(batch_size, generator=generator)
        divisor = task.input_size if self.divide_inputs else 1
        return Batch(inputs[skipped:] / divisor, targets[skipped:], mask[skipped:])

    def document(self) -> dict[str, Any]:
        """Return the configuration as JSON; `configuration_from` reads it back."""
        return encode(self)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of a hash of the document."""
        canonical = json.dumps([FORMAT, self.document()], sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def configuration_from(document: Mapping[str, Any]) -> Configuration:
    """Return the configuration that has a document.

    Raises:
        InvalidOptionError: it is not the document of a configuration.

    Example:
        >>> from flossing.tasks import DelayedCopy
        >>> configuration = Configuration(task=DelayedCopy(delay=5), architecture=Architecture())
        >>> configuration_from(configuration.document()) == configuration
        True
    """
    try:
        return decode(Configuration, document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidOptionError(f"this is not the document of a configuration: {error}") from error
