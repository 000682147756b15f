"""Figure 6: other architectures, and the number of directions of the gradient.

The quick size takes about 1000 s on one core: 72 runs of 2000 epochs, of 4 and 8 ms for an LSTM, 8
and 18 ms for a GRU and 2 and 3 ms for the vanilla network, and for half of them 500 flossing steps.
The gradients of 6 networks take half a minute, most of it for flossing.
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
from flossing.support.torch_typed import svdvals
from flossing.tasks import DelayedCopy, TemporalXor, task_loss
from flossing_lab.networks.networks import SequenceNetwork
from flossing_lab.runs.configuration import Architecture, Configuration
from flossing_lab.runs.outcomes import Arm
from flossing_lab.runs.schedules import before_only
from flossing_lab.studies.drawing import (
    STYLES,
    draw_accuracy_by_delay,
    index_axis,
    legend_above,
    schedule_line,
    title,
)
from flossing_lab.studies.judging import larger
from flossing_lab.studies.random_bits import floss_on_bits, fresh_network, generator, rounded
from flossing_lab.studies.study import Finding, Measurement, Results, Study, group_by
from flossing_lab.studies.training_runs import (
    FULL_DELAYS,
    SCHEDULE_TITLES,
    SCHEDULES,
    TrainingSize,
    by_schedule,
    by_task,
    full_size,
    solved_in_words,
    solved_more,
    training_configurations,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = ("none", "before")
ARCHITECTURES = {"lstm": "LSTM", "gru": "GRU", "orthogonal": "orthogonal tanh"}
"""Titles of the architectures by name; see `architecture`."""

GATED_DELAYS = (12, 6, 20, 40, 10, 16, 30)
"""Delays of the full size at which LSTMs and GRUs are between chance and perfect."""

BATCH_SIZE = 16
SMALLEST_SHOWN = 1e-16
"""Smaller relative singular values, which may be zero, are drawn here."""


@dataclass(frozen=True, kw_only=True)
class GradientSetting:
    """A network whose gradient is measured before and after flossing.

    Attributes:
        name: of the architecture.
        seed: random seed.
        network_size: number N of units.
        delay: of temporal XOR.
        steps: sequence length T.
        flossing_steps: of gradient descent.
    """

    name: str
    seed: int
    network_size: int = 80
    delay: int = 40
    steps: int = 120
    flossing_steps: int = 500


def architecture(name: str, size: int) -> Architecture:
    """Return an LSTM or a GRU with PyTorch's initialisation, or the released orthogonal network.

    Example:
        >>> architecture("orthogonal", 80).form
        'rate'
    """
    if name == "lstm":
        return Architecture(cell="lstm", size=size, initialisation="stock")
    if name == "gru":
        return Architecture(cell="gru", size=size, initialisation="stock")
    return Architecture(size=size, initialisation="orthogonal", form="rate")


def configurations(gated: TrainingSize, orthogonal: TrainingSize) -> list[Configuration]:
    """Return the runs of every architecture on both tasks, flossed before training and not."""
    sizes = {"lstm": gated, "gru": gated, "orthogonal": orthogonal}
    flossings = [SCHEDULES[name] for name in ARMS]
    return [
        each
        for kind in (TemporalXor, DelayedCopy)
        for name in ARCHITECTURES
        for each in training_configurations(
            kind, sizes[name], flossings, architecture(name, sizes[name].network_size)
        )
    ]


def settings(*, seeds: int, **options: Any) -> list[GradientSetting]:
    """Return the networks whose gradients are measured; `options` are further fields."""
    return [
        GradientSetting(name=name, seed=seed, **options)
        for name in ARCHITECTURES
        for seed in range(seeds)
    ]


def measure(setting: GradientSetting) -> dict[str, Any]:
    """Return the singular values of the gradient of the recurrent weights, for both arms."""
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


def _gradient_rank(network: SequenceNetwork, setting: GradientSetting) -> GradientRank:
    # Gradients through many steps underflow in single precision.
    double = copy.deepcopy(network).double()
    task = TemporalXor(delay=setting.delay, steps=setting.steps)
    batch = task.sample(BATCH_SIZE, generator=generator(setting.seed, "training"))
    loss = task_loss(task, double(batch.inputs.double()), batch)
    (weight,) = (each for name, each in double.named_parameters() if "weight_hh" in name)
    (gradient,) = torch.autograd.grad(loss, [weight])
    return GradientRank(svdvals(gradient))


def draw(results: Results) -> "Figure":
    """Draw accuracy against the delay, a row for each task, and singular values below."""
    tasks = by_task(results.arms)
    figure = new_figure(12.5, 3.3 * (len(tasks) + 1))
    *above, below = figure.subplots(len(tasks) + 1, len(ARCHITECTURES))
    for (task, found), row in zip(tasks.items(), above, strict=True):
        for axes, (name, own) in zip(row, _by_architecture(found).items(), strict=True):
            for index, (schedule, group) in enumerate(by_schedule(own).items()):
                draw_accuracy_by_delay(axes, group, shift=0.3 * index, **schedule_line(schedule))
            title(axes, f"{ARCHITECTURES[name]}, {_lower(task)}")
    for axes, (name, group) in zip(below, _measured(results).items(), strict=True):
        _draw_singular_values(axes, group)
        title(axes, f"{ARCHITECTURES[name]}, gradient before training")
    legend_above(figure, above[0][0])
    return figure


def findings(results: Results) -> list[Finding]:
    """Compare flossed and unflossed networks of every architecture."""
    return [
        *(
            _accuracy(ARCHITECTURES[name], task, by_schedule(own))
            for task, found in by_task(results.arms).items()
            for name, own in _by_architecture(found).items()
            if set(ARMS) <= by_schedule(own).keys()
        ),
        *(_directions(ARCHITECTURES[name], group) for name, group in _measured(results).items()),
    ]


def _lower(task: str) -> str:
    return task[0].lower() + task[1:]


def _by_architecture(found: Sequence[Arm]) -> dict[str, list[Arm]]:
    def name(arm: Arm) -> str:
        cell = arm.configuration.architecture.cell
        return cell if cell in ARCHITECTURES else "orthogonal"

    return group_by(found, name)


def _measured(results: Results) -> dict[str, list[Measurement]]:
    return group_by(results.measurements, lambda each: str(each.setting["name"]))


def _participation_ratios(group: Sequence[Measurement], arm: str) -> list[float]:
    return [each.numbers[arm]["participation_ratio"] for each in group]


def _draw_singular_values(axes: "Axes", group: Sequence[Measurement]) -> None:
    for arm in ARMS:
        style: dict[str, Any] = {**STYLES[arm], "marker": None, "linewidth": 1.2}
        label = f"{SCHEDULE_TITLES[arm]}: {median(_participation_ratios(group, arm)):.1f}"
        for index, each in enumerate(group):
            largest, *_ = values = each.numbers[arm]["singular_values"]
            axes.plot(
                range(1, len(values) + 1),
                [max(value / largest, SMALLEST_SHOWN) for value in values],
                label=label if index == 0 else None,
                **style,
            )
    axes.set_yscale("log")
    index_axis(axes, "singular value")
    axes.set_ylabel("singular value, relative")
    axes.legend(frameon=False, fontsize="small", loc="lower left")


def _accuracy(name: str, task: str, schedules: dict[str, list[Arm]]) -> Finding:
    without, before = (schedules[arm] for arm in ARMS)
    test = solved_more(before, without)
    return Finding(
        claim=f"{name}, {_lower(task)}: flossing before training makes longer delays trainable.",
        found=f"Networks that solved it: not flossed, {solved_in_words(without)}; flossed before "
        f"training, {solved_in_words(before)}. More when flossed: {test}.",
        agrees=test.agrees,
        source="recollection" if name == ARCHITECTURES["orthogonal"] else "abstract",
    )


def _directions(name: str, group: Sequence[Measurement]) -> Finding:
    without, before = (_participation_ratios(group, arm) for arm in ARMS)
    test = larger(before, without)
    return Finding(
        claim=f"{name}: after flossing the gradient of the recurrent weights spans more "
        "directions.",
        found=f"At d = {group[0].setting['delay']} the participation ratio of its singular values "
        f"is {median(without):.2f} without flossing and {median(before):.2f} with it, median over "
        f"{len(group)} networks. Larger when flossed: {test}.",
        agrees=test.agrees,
        source="recollection",
    )


STUDY = Study(
    name="fig6",
    title="Figure 6: other architectures, and the rank of the gradient",
    statement="Flossing works for various architectures (abstract): with it, LSTMs, GRUs and "
    "networks with orthogonal initialisation learn longer delays (recollection). The gradient of "
    "the recurrent weights has many singular values of similar size with flossing and few without "
    "it, so that errors propagate back along many directions (recollection; multidimensional "
    "error feedback is the aim: abstract).",
    caption="Above: accuracy after training on temporal XOR and on delayed copy against the delay; "
    "medians over networks, and a point for each. Below: singular values of the gradient of the "
    "recurrent weights before training, relative to the largest, a line for each network; the "
    "legend gives the participation ratio, an effective number of directions, median over "
    "networks.",
    configurations={
        "quick": configurations(TrainingSize(delays=(20, 40)), TrainingSize(delays=(20, 40))),
        "full": configurations(full_size(*GATED_DELAYS), full_size(*FULL_DELAYS)),
    },
    settings={"quick": settings(seeds=3), "full": settings(seeds=10, steps=300)},
    measure=measure,
    draw=draw,
    findings=findings,
    partial=True,
)
