"""What a run depends on: frozen configurations, as values, as JSON, and by a digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from flossing.errors import InvalidOptionError
from flossing.support.checks import require_choice, require_integer, require_positive
from flossing.tasks import Task
from flossing.tasks.named import TASKS

Cell: TypeAlias = Literal["tanh", "relu", "leaky", "modrelu", "gru", "lstm", "lem"]
Initialisation: TypeAlias = Literal["gaussian", "orthogonal", "identity", "stock", "chrono"]
Form: TypeAlias = Literal["rate", "state"]

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
"""What of `flossing.Flosser` a configuration can choose, and what kind of number that is."""

LEFT_OUT: Mapping[str, Any] = {"left out at its default": True}
"""Metadata of a field that runs had not from the first: at its default it changes no digest."""

FORMAT = 1
"""Number of the form in which runs are written down; part of every digest."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A recurrent network with a linear readout.

    Attributes:
        cell: "tanh" and "relu" are vanilla networks; "leaky" is h' = (1−α)h + α tanh(…);
            "modrelu" scales |h| with a bias and keeps the sign; "gru" and "lstm" are torch's;
            "lem" is the long expressive memory of Rusch et al. (ICLR 2022); see
            `flossing_lab.networks.cells` for those that are not torch's.
        size: number N of hidden units.
        initialisation: of the recurrent weights, per gate. "gaussian": variance gain²/N;
            "orthogonal": gain times a random orthogonal matrix; "identity": gain times the
            identity; "stock": gain times the module's own, and not for leaky and modrelu, which
            have none; "chrono": the same, with biases of the forget and input gates for memories
            of up to `longest_memory` steps (LSTM only). The other weights follow; see
            `flossing_lab.networks.initialisation`.
        gain: scale of the recurrent weights.
        input_gain: scale of the input weights. Small, the units stay where they are linear: the
            state keeps inputs that lie further back, and mixes them less.
        bias_scale: biases of tanh, relu and leaky networks are normal with this standard deviation:
            where units are nearly linear, only these bend products of inputs into the state, for
            tanh itself is odd. `None` for biases as in `flossing_lab.networks.initialisation`.
        form: "state" reads out h; "rate" reads out the potential x of h = tanh(x), and trains its
            initial value, as in the released code of Engelken (NeurIPS 2023).
        orthogonal: keep the recurrent weights orthogonal throughout, by
            `torch.nn.utils.parametrizations.orthogonal`; they start so, too, with gain 1.
        leak: α of the leaky cell, in (0, 1]; 1 for the others.
        longest_memory: for "chrono", in time steps; only there other than 100.

    Raises:
        InvalidOptionError: an option outside what it may be, or one that the cell does not have.
    """

    cell: Cell = "tanh"
    size: int = 80
    initialisation: Initialisation = "gaussian"
    gain: float = 1.0
    input_gain: float = field(default=1.0, metadata=LEFT_OUT)
    bias_scale: float | None = field(default=None, metadata=LEFT_OUT)
    form: Form = "state"
    orthogonal: bool = False
    leak: float = 1.0
    longest_memory: int = 100

    def __post_init__(self) -> None:
        require_choice("cell", self.cell, get_args(Cell))
        require_integer("size", self.size, at_least=1)
        require_choice("initialisation", self.initialisation, get_args(Initialisation))
        require_choice("form", self.form, get_args(Form))
        require_integer("longest_memory", self.longest_memory, at_least=2)
        require_positive("gain", self.gain)
        require_positive("input_gain", self.input_gain)
        require_positive("leak", self.leak, at_most=1.0)
        self._require_a_cell_that_fits()
        self._require_an_initialisation_that_fits()

    def _require_a_cell_that_fits(self) -> None:
        if self.form == "rate" and self.cell != "tanh":
            raise InvalidOptionError(
                f"form is 'rate' and cell is {self.cell!r}; only a tanh network has a rate form: "
                "use form='state'"
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
                    f"{self.initialisation!r}, which says what its biases are: leave bias_scale "
                    "out, or use cell='tanh', 'relu' or 'leaky' that is not 'stock'"
                )

    def _require_an_initialisation_that_fits(self) -> None:
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
                "which has no module of its own: use 'gaussian', 'orthogonal' or 'identity'"
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
        epochs: at most so many.
        batch_size: sequences in a batch.
        learning_rate: step size of Adam.
        cooldown: over this share of the epochs, the last ones, the step size falls linearly to
            zero.
        max_gradient_norm: gradients are clipped to this norm.
        norm_penalty: weight of Ω, the penalty on growth and decay of ∂L/∂h from step to step of
            Pascanu, Mikolov & Bengio (ICML 2013).
        patience: training ends after so many evaluations in a row at 99.5 % or more; 0 for never.

    Raises:
        InvalidOptionError: an option outside what it may be.
    """

    epochs: int = 3000
    batch_size: int = 16
    learning_rate: float = 1e-3
    cooldown: float = 0.0
    max_gradient_norm: float = 0.03
    norm_penalty: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        require_integer("epochs", self.epochs, at_least=0)
        require_integer("batch_size", self.batch_size, at_least=1)
        require_integer("patience", self.patience, at_least=0)
        require_positive("learning_rate", self.learning_rate)
        require_positive("max_gradient_norm", self.max_gradient_norm)
        if self.norm_penalty:
            require_positive("norm_penalty", self.norm_penalty)
        if self.cooldown:
            require_positive("cooldown", self.cooldown, at_most=1.0)

    def step_size(self, epoch: int) -> float:
        """Adam's step size in an epoch, counted from 1.

        Example:
            >>> training = Training(epochs=100, learning_rate=1.0, cooldown=0.2)
            >>> [round(training.step_size(epoch), 2) for epoch in (1, 81, 91, 100)]
            [1.0, 1.0, 0.5, 0.05]
        """
        left = self.epochs - epoch + 1
        return self.learning_rate * min(1.0, left / max(1.0, self.cooldown * self.epochs))


@dataclass(frozen=True, kw_only=True)
class Flossing:
    """How a network is flossed: the options of `flossing.Flosser`, and what it is driven with.

    Attributes:
        k: how many exponents, from the largest, are pushed to zero; `None` for all.
        time_steps: length of the sequences, fresh ones of the task.
        sequences: how many at a time.
        state_transient: so many first time steps move the state only.
        frame_transient: so many further ones align the frame.
        anywhere: whether the time steps are taken anywhere in the task's sequences, with the state
            that the network has there, rather than at their beginning, from rest. Where the
            statistics of the inputs change, as in a hold, only so is all of the sequence flossed.
        schedule: further options of `flossing.Flosser`, by name: those in `SCHEDULE_OPTIONS`.

    Raises:
        InvalidOptionError: an option outside what it may be.
    """

    k: int | None
    time_steps: int
    sequences: int = 1
    state_transient: int = 10
    frame_transient: int = 6
    anywhere: bool = field(default=False, metadata=LEFT_OUT)
    schedule: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.k is not None:
            require_integer("k", self.k, at_least=1)
        require_integer("sequences", self.sequences, at_least=1)
        require_integer("state_transient", self.state_transient, at_least=0)
        require_integer("frame_transient", self.frame_transient, at_least=0)
        shortest = self.state_transient + self.frame_transient + 1
        require_integer("time_steps", self.time_steps, at_least=shortest)
        unknown = [name for name in self.schedule if name not in SCHEDULE_OPTIONS]
        if unknown:
            raise InvalidOptionError(
                f"{', '.join(map(repr, unknown))} in schedule; expected options of "
                f"flossing.Flosser among {', '.join(SCHEDULE_OPTIONS)}"
            )
        values = [value for value in self.schedule.values() if value is not None]
        strange = [value for value in values if not isinstance(value, int | float)]
        if strange:
            raise InvalidOptionError(
                f"{strange[0]!r} ({type(strange[0]).__name__}) in schedule; expected numbers or "
                "None, which can be written down"
            )


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything that a run depends on.

    Attributes:
        task: what is learned.
        architecture: what learns it.
        training: how.
        flossing: what is done to its exponents; `None` for nothing.
        seed: what all randomness follows from; at least 0.
        evaluate_every: epochs between two points of the learning curve.
        evaluation_batch_size: fresh sequences at each point of it; digits take their test part.
        final_batch_size: fresh sequences for the accuracy after training; digits as above.
        measured_exponents: how many exponents are measured before training and at each
            evaluation; 0 for none.
        gradients: whether gradients of the loss with respect to states are measured there too.

    Raises:
        InvalidOptionError: an option outside what it may be.
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

    def document(self) -> dict[str, Any]:
        """As JSON has it; `configuration_from` reads it back."""
        return cast("dict[str, Any]", _plain(self))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that no other configuration has."""
        canonical = json.dumps([FORMAT, self.document()], sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def configuration_from(document: Mapping[str, Any]) -> Configuration:
    """Return the configuration that `Configuration.document` was taken of.

    Raises:
        InvalidOptionError: it is none.

    Example:
        >>> from flossing.tasks import DelayedCopy
        >>> configuration = Configuration(task=DelayedCopy(delay=5), architecture=Architecture())
        >>> configuration_from(configuration.document()) == configuration
        True
    """
    try:
        settings = dict(document)
        task = dict(settings.pop("task"))
        flossing = settings.pop("flossing")
        return Configuration(
            task=TASKS[task.pop("name")](**task),
            architecture=Architecture(**settings.pop("architecture")),
            training=Training(**settings.pop("training")),
            flossing=None if flossing is None else Flossing(**flossing),
            **settings,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidOptionError(f"this is not the document of a configuration: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Task):
        names = {kind: name for name, kind in TASKS.items()}
        given = [each.name for each in fields(cast(Any, value)) if each.init]
        return {"name": names[type(value)], **{name: getattr(value, name) for name in given}}
    if is_dataclass(value) and not isinstance(value, type):
        shown = (each for each in fields(value) if not _is_left_out(each, value))
        return {each.name: _plain(getattr(value, each.name)) for each in shown}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return value


def _is_left_out(each: "Field[Any]", value: Any) -> bool:
    return each.metadata == LEFT_OUT and getattr(value, each.name) == each.default
