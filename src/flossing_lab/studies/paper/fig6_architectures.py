"""Figure 6: other architectures, and in how many directions the gradient points.

The quick size takes about 1000 s of one core: 72 runs of 2000 epochs, of 4 and 8 ms for an LSTM,
8 and 18 ms for a GRU, 2 and 3 ms for the vanilla network, and half of them 500 steps of flossing;
the gradients of 6 networks take half a minute, most of it flossing.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from flossing.analysis.effective_rank import GradientRank
from flossing.plots import new_figure
from flossing.report.model import Table
from flossing.support.torch_typed import svdvals
from flossing.tasks import DelayedCopy, TemporalXor, task_loss
from flossing_lab.networks.networks import SequenceNetwork
from flossing_lab.runs.comparison import tables
from flossing_lab.runs.configuration import Architecture, Configuration
from flossing_lab.runs.outcomes import Arm, arms
from flossing_lab.runs.schedules import before_only
from flossing_lab.studies.drawing import (
    STYLES,
    draw_accuracy_by_delay,
    index_axis,
    legend_above,
    title,
)
from flossing_lab.studies.random_bits import (
    floss_on_bits,
    fresh_network,
    generator,
    numbers,
    rounded,
)
from flossing_lab.studies.study import Finding, Measurement, Results, Study
from flossing_lab.studies.training_size import (
    SCHEDULE_TITLES,
    SCHEDULES,
    TITLES,
    TaskKind,
    TrainingSize,
    by_schedule,
    by_task,
    full_size,
    reaches_further,
    solved_in_words,
    training_configurations,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATEMENT = (
    "Flossing works for various architectures (confirmed: the abstract): LSTMs, GRUs and networks "
    "with orthogonal initialisation learn longer delays with it (recalled). With flossing the "
    "gradient of the recurrent weights has many singular values of a similar size, where without "
    "it there are few: error comes back along many directions (recalled; the abstract confirms the "
    "aim of multidimensional error feedback)."
)
CAPTION = (
    "Above: accuracy after training on temporal XOR and on delayed copy against the delay; medians "
    "over networks, and a point for each. Below: singular values of the gradient of the recurrent "
    "weights before training, relative to the largest, a line for each network; in the legend the "
    "participation ratio, a number of directions, median over networks."
)
ARMS = ("none", "before")
TASKS: tuple[TaskKind, ...] = (TemporalXor, DelayedCopy)
NAMES = ("lstm", "gru", "orthogonal")
NETWORK_TITLES = {"lstm": "LSTM", "gru": "GRU", "orthogonal": "orthogonal tanh"}
BATCH_SIZE = 16
SMALLEST_SHOWN = 1e-16


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network whose gradient is taken, not flossed and flossed.

    Attributes:
        name: which architecture; see `architecture`.
        seed: what all randomness follows from.
        network_size: number N of units.
        delay: of temporal XOR.
        steps: length T of the sequences.
        flossing_steps: of gradient descent.
    """

    name: str
    seed: int
    network_size: int = 80
    delay: int = 40
    steps: int = 120
    flossing_steps: int = 500


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        training: of the runs.
        gradients: of the networks whose gradient is taken, all but the name and the seed.
        seeds: how many of these of each architecture.
    """

    training: TrainingSize
    gradients: Setting
    seeds: int


QUICK = Size(
    training=TrainingSize(delays=(20, 40)), gradients=Setting(name=NAMES[0], seed=0), seeds=2
)
FULL = Size(
    training=full_size(10, 20, 30, 40, 50, 60, 70),
    gradients=Setting(name=NAMES[0], seed=0, steps=300),
    seeds=10,
)


def architecture(name: str, size: int) -> Architecture:
    """Return an LSTM or a GRU as PyTorch initialises it, or the released orthogonal network.

    Args:
        name: one of `NAMES`.
        size: number N of units.

    Example:
        >>> architecture("orthogonal", 80).form
        'rate'
    """
    if name == "lstm":
        return Architecture(cell="lstm", size=size, initialisation="stock")
    if name == "gru":
        return Architecture(cell="gru", size=size, initialisation="stock")
    return Architecture(size=size, initialisation="orthogonal", form="rate")


def configurations(size: Size) -> list[Configuration]:
    """Return the runs: every architecture on both tasks, flossed before training and not.

    Example:
        >>> len(configurations(QUICK))
        72
    """
    flossings = [SCHEDULES[name] for name in ARMS]
    return [
        each
        for kind in TASKS
        for name in NAMES
        for each in training_configurations(
            kind,
            size.training,
            flossings,
            architecture(name, size.training.network_size),
        )
    ]


def settings(size: Size) -> list[Setting]:
    """Return the networks whose gradient is taken.

    Example:
        >>> len(settings(QUICK))
        6
    """
    own = size.gradients
    return [
        Setting(
            name=name,
            seed=seed,
            network_size=own.network_size,
            delay=own.delay,
            steps=own.steps,
            flossing_steps=own.flossing_steps,
        )
        for name in NAMES
        for seed in range(size.seeds)
    ]


def measure(setting: Setting) -> dict[str, Any]:
    """Return the singular values of the gradient of the recurrent weights, by arm.

    Args:
        setting: which network.
    """
    network = fresh_network(architecture(setting.name, setting.network_size), setting.seed)
    without = _gradient_rank(network, setting)
    k = before_only(setting.network_size).k or setting.network_size
    floss_on_bits(network, setting.seed, k=k, steps=setting.flossing_steps)
    ranks = dict(zip(ARMS, (without, _gradient_rank(network, setting)), strict=True))
    return {
        name: {
            "singular_values": rounded(rank.singular_values),
            "participation_ratio": float(f"{rank.participation_ratio:.6g}"),
        }
        for name, rank in ranks.items()
    }


def draw(results: Results) -> "Figure":
    """Draw for each architecture accuracy against the delay of each task, and singular values.

    Args:
        results: the runs, and what `measure` returned.
    """
    tasks = by_task(arms(results.runs))
    figure = new_figure(12.5, 3.3 * (len(tasks) + 1))
    *above, below = figure.subplots(len(tasks) + 1, len(NAMES))
    for (kind, found), row in zip(tasks.items(), above, strict=True):
        for axes, (name, own) in zip(row, _by_name(found).items(), strict=True):
            for index, (schedule, group) in enumerate(by_schedule(own).items()):
                label, style = SCHEDULE_TITLES[schedule], STYLES[schedule]
                draw_accuracy_by_delay(axes, group, label=label, style=style, shift=0.3 * index)
            title(axes, f"{NETWORK_TITLES[name]}, {TITLES[kind].lower().replace('xor', 'XOR')}")
    for axes, (name, group) in zip(below, _measured(results).items(), strict=True):
        _draw_singular_values(axes, group)
        title(axes, f"{NETWORK_TITLES[name]}, gradient before training")
    legend_above(figure, above[0][0])
    return figure


def findings(results: Results) -> list[Finding]:
    """Return what is claimed of other architectures, beside what was found."""
    measured = _measured(results)
    return [
        *(
            _trains(name, TITLES[kind], by_schedule(own))
            for kind, found in by_task(arms(results.runs)).items()
            for name, own in _by_name(found).items()
        ),
        *(_has_more_directions(name, group) for name, group in measured.items()),
    ]


def result_tables(results: Results) -> tuple[Table, ...]:
    """Return a row for every architecture, delay and schedule."""
    return tables(results.runs)


def _gradient_rank(network: SequenceNetwork, setting: Setting) -> GradientRank:
    # In single precision gradients from far back underflow.
    double = copy.deepcopy(network).double()
    task = TemporalXor(delay=setting.delay, steps=setting.steps)
    batch = task.sample(BATCH_SIZE, generator=generator(setting.seed, "training"))
    loss = task_loss(task, double(batch.inputs.double()), batch)
    (weight,) = (each for name, each in double.named_parameters() if "weight_hh" in name)
    (gradient,) = torch.autograd.grad(loss, [weight])
    return GradientRank(svdvals(gradient))


def _by_name(found: Sequence[Arm]) -> dict[str, list[Arm]]:
    names: dict[str, list[Arm]] = {name: [] for name in NAMES}
    for arm in found:
        own = arm.configuration.architecture
        names[own.cell if own.cell in names else "orthogonal"].append(arm)
    return names


def _measured(results: Results) -> dict[str, list[Measurement]]:
    return {
        name: [each for each in results.measurements if each.setting["name"] == name]
        for name in NAMES
    }


def _directions(group: Sequence[Measurement], arm: str) -> float:
    return median(float(each.numbers[arm]["participation_ratio"]) for each in group)


def _draw_singular_values(axes: "Axes", group: Sequence[Measurement]) -> None:
    for arm in ARMS:
        style: dict[str, Any] = {**STYLES[arm], "marker": None, "linewidth": 1.2}
        for index, each in enumerate(group):
            values = list(numbers(each.numbers[arm]["singular_values"]))
            relative = [value / values[0] for value in values]
            label = f"{SCHEDULE_TITLES[arm]}: {_directions(group, arm):.1f}"
            axes.plot(
                range(1, len(relative) + 1),
                [max(value, SMALLEST_SHOWN) for value in relative],
                label=label if index == 0 else None,
                **style,
            )
    axes.set_yscale("log")
    index_axis(axes, "singular value")
    axes.set_ylabel("singular value, relative")
    axes.legend(frameon=False, fontsize="small", loc="lower left")


def _trains(name: str, task: str, schedules: dict[str, list[Arm]]) -> Finding:
    without, before = (schedules[arm] for arm in ARMS)
    return Finding(
        claim=f"{NETWORK_TITLES[name]}, {task}: flossing before training makes longer delays "
        "trainable.",
        found=f"Networks that solved it. Not flossed, {solved_in_words(without)}. "
        f"Flossed before training, {solved_in_words(before)}.",
        agrees=reaches_further(before, without),
    )


def _has_more_directions(name: str, group: Sequence[Measurement]) -> Finding:
    without, before = (_directions(group, arm) for arm in ARMS)
    setting = group[0].setting
    return Finding(
        claim=f"{NETWORK_TITLES[name]}: the gradient of the recurrent weights points in more "
        "directions after flossing.",
        found=f"At d = {setting['delay']} the participation ratio of its singular values is "
        f"{without:.2f} not flossed and {before:.2f} flossed, median of {len(group)} networks.",
        agrees=before > without,
    )


STUDY = Study(
    name="fig6",
    title="Figure 6: other architectures, and the rank of the gradient",
    statement=STATEMENT,
    caption=CAPTION,
    sizes={"quick": QUICK, "full": FULL},
    configurations=configurations,
    settings=settings,
    measure=measure,
    draw=draw,
    tables=result_tables,
    findings=findings,
)
