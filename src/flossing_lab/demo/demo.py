"""The demo: two tasks, each learned without flossing and with flossing before training."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from torch import nn

from flossing.measurement.backends import compile_ahead
from flossing.plots import new_figure
from flossing.support.environment import available_processors, environment
from flossing.support.strict_json import json_text, storable
from flossing.tasks import Digits, TemporalXor
from flossing_lab.demo.figure import DemoRun, arm, demo_figure, short_name
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.schedules import PUBLISHED
from flossing_lab.sweeps.sweep import Progress as GroupProgress
from flossing_lab.sweeps.sweep import sweep

TaskName: TypeAlias = Literal["digits", "xor"]

TASK_NAMES: tuple[TaskName, ...] = ("digits", "xor")
DOTS_PER_INCH = 150

CAPTION = (
    "s: blank steps before the answer. d: largest lag of the XOR. Accuracy after training on "
    "held-out data. λ₁, λₖ: the first and the last of the flossed Lyapunov exponents, in nats per "
    "step; like the gradient of the loss at the first step, measured right before training."
)

# XOR as in the released code of Engelken (NeurIPS 2023); digits with the same procedure.
FLOSSED = {
    "digits": Configuration(
        task=Digits(hold=60),
        architecture=Architecture(size=128),
        training=Training(epochs=1200, batch_size=64, max_gradient_norm=1.0),
        flossing=Flossing(k=96, time_steps=100, schedule=PUBLISHED | {"before": 400, "times": 0}),
        measured_exponents=128,
        gradients=True,
    ),
    "xor": Configuration(
        task=TemporalXor(delay=40, steps=300),
        architecture=Architecture(size=80, form="rate"),
        training=Training(epochs=1500, batch_size=16, max_gradient_norm=0.03),
        flossing=Flossing(k=75, time_steps=55, schedule=PUBLISHED | {"times": 0}),
        measured_exponents=80,
        gradients=True,
    ),
}

QUICK = {
    name: replace(
        configuration,
        task=Digits(hold=2, rows=True) if name == "digits" else TemporalXor(delay=4, steps=20),
        architecture=replace(configuration.architecture, size=16),
        training=replace(configuration.training, epochs=20),
        flossing=Flossing(
            k=12,
            time_steps=10 if name == "digits" else 20,
            state_transient=2,
            frame_transient=2,
            schedule=PUBLISHED | {"before": 10, "times": 0},
        ),
        evaluate_every=10,
        measured_exponents=12,
    )
    for name, configuration in FLOSSED.items()
}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Options of the demo.

    Attributes:
        tasks: tasks to run.
        seed: random seed, at least 0.
        quick: whether to use tiny networks, which show no effect.
        output: file of the figure.
        records: JSON file of all results; `None` for none.
    """

    tasks: tuple[TaskName, ...] = TASK_NAMES
    seed: int = 0
    quick: bool = False
    output: Path
    records: Path | None = None


def demo_configurations(
    tasks: Sequence[TaskName], *, quick: bool, seed: int = 0
) -> list[Configuration]:
    """Return both arms of each task, the one without flossing first.

    Example:
        >>> arms = demo_configurations(["xor"], quick=True)
        >>> [configuration.flossing is None for configuration in arms]
        [True, False]
    """
    sizes = QUICK if quick else FLOSSED
    flossed = [replace(sizes[name], seed=seed) for name in tasks]
    return [own for each in flossed for own in (replace(each, flossing=None), each)]


def run_demo(demo: Demo, console: Console) -> list[DemoRun]:
    """Run the demo with progress bars, print its table and write its files."""
    # Raises now, rather than after minutes of training, if Matplotlib is missing.
    new_figure()
    configurations = demo_configurations(demo.tasks, quick=demo.quick, seed=demo.seed)
    processors = available_processors()
    console.print(
        f"{len(configurations)} runs, seed {demo.seed}, "
        f"on {processors} processor{'s' if processors > 1 else ''}"
    )
    with console.status("compiling, once on this machine: half a minute"):
        # Once for all: otherwise every worker waits for the first one to compile.
        compile_ahead(nn.RNN(1, 1, device="meta"), dtype=torch.float32, threads=1)
    start = time.perf_counter()
    runs = _run(configurations, console)
    seconds = time.perf_counter() - start

    console.print(results_table(runs, quick=demo.quick))
    figure = demo_figure(runs)
    figure.savefig(demo.output, dpi=DOTS_PER_INCH)  # pyright: ignore[reportUnknownMemberType]
    console.print(f"Figure:  {demo.output}", soft_wrap=True)
    if demo.records is not None:
        document = records_document(runs, demo, seconds)
        demo.records.write_text(json_text(document), encoding="utf-8")
        console.print(f"Records: {demo.records}", soft_wrap=True)
    console.print(f"{seconds:.0f} s in all")
    return runs


def _run(configurations: list[Configuration], console: Console) -> list[DemoRun]:
    # Both arms of a task have the same k, so that they report the same exponent.
    k = [each.flossing.k or 1 for each in configurations if each.flossing is not None]
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
        console=console,
    ) as bars:
        identifiers = {
            each.digest: bars.add_task(
                f"{short_name(each)}, {arm(each)}", start=False, total=_steps(each), phase="waiting"
            )
            for each in configurations
        }

        def show(group: GroupProgress) -> None:
            (configuration,) = group.configurations
            bar, total = identifiers[configuration.digest], _steps(configuration)
            if group.phase == "finished":
                bars.update(bar, completed=total, phase="")
            elif group.phase in ("flossing", "training"):
                before = total - configuration.training.epochs if group.phase == "training" else 0
                bars.start_task(bar)
                bars.update(bar, completed=before + group.done, phase=group.phase)

        runs = sweep(configurations, on_progress=show)
    return [DemoRun(run=run, k=k[index // 2]) for index, run in enumerate(runs)]


def _steps(configuration: Configuration) -> int:
    flossing = configuration.flossing
    before = 0 if flossing is None else int(flossing.schedule["before"])
    return before + configuration.training.epochs


def results_table(runs: Sequence[DemoRun], *, quick: bool = False) -> Table:
    """Return the results, a row for each run."""
    title = "Flossing before training"
    if quick:
        title += " (quick: tiny networks that show no effect)"
    table = Table(
        title=title,
        caption=CAPTION,
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in ("task", "arm"):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy", "λ₁", "λₖ", "‖∂L/∂h₀‖", "flossing", "training"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in runs:
        table.add_row(*_row(each), end_section=each.flossed)
    return table


def _row(each: DemoRun) -> tuple[str, ...]:
    run = each.run
    return (
        each.name,
        "flossed" if each.flossed else "without",
        f"{100 * each.accuracy:.1f} %",
        f"{each.exponents[0]:.3f}",
        f"{each.exponents[each.k - 1]:.3f}",
        f"{each.gradient_norm:.1e}",
        f"{run.flossing_seconds:.1f} s" if each.flossed else "–",
        f"{run.training_seconds:.1f} s",
    )


def records_document(runs: Sequence[DemoRun], demo: Demo, seconds: float) -> dict[str, Any]:
    """Return all results of a demo, with configurations and environment, for strict JSON.

    Numbers that are not finite, which JSON lacks, become strings such as "-inf".
    """
    return {
        "seed": demo.seed,
        "quick": demo.quick,
        "wall_clock_seconds": seconds,
        "environment": environment(),
        "runs": [storable(_run_document(each)) for each in runs],
    }


def _run_document(each: DemoRun) -> dict[str, Any]:
    run = each.run
    return {
        "arm": each.arm,
        "configuration": run.configuration.document(),
        "seed": run.configuration.seed,
        "final_accuracy": each.accuracy,
        "flossing_seconds": run.flossing_seconds,
        "training_seconds": run.training_seconds,
        "gradient_norm": each.gradient_norm,
        "flossing_loss": [loss for episode in run.episodes for loss in episode.loss],
        "exponents": each.exponents,
        "gradient_norm_by_lag": run.gradient_norm_by_lag,
        "learning_curve": [
            {
                "step": point.epoch,
                "accuracy": point.accuracy,
                "loss": point.loss,
                "gradient_norm": point.gradient_norm,
            }
            for point in run.evaluations
        ],
    }
