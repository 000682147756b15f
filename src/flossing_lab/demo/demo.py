"""The demo: two tasks, each learned without flossing and with flossing before training."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
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
from flossing_lab.demo.figure import DemoRun, demo_figure, label
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.schedules import PUBLISHED
from flossing_lab.sweeps.sweep import Progress as GroupProgress
from flossing_lab.sweeps.sweep import sweep

TaskName: TypeAlias = Literal["digits", "xor"]

TASK_NAMES: tuple[TaskName, ...] = ("digits", "xor")
DOTS_PER_INCH = 150

CAPTION = (
    "s: blank steps before the answer. d: largest lag of the XOR. Accuracy after training, on "
    "held-out data. λ₁, λₖ: the first Lyapunov exponent and the last of those that are flossed, "
    "in nats per step; they and the gradient of the loss at the first step are taken right "
    "before training."
)


# The XOR as in the released code of Engelken (NeurIPS 2023); digits with the same procedure.
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
    """What the demo is asked for.

    Attributes:
        tasks: Which tasks.
        seed: What all randomness follows from; at least 0.
        quick: Whether to run a tiny size, which shows that all works but no effect.
        output: Where the figure goes.
        records: Where all numbers go, as JSON; `None` for nowhere.
    """

    tasks: tuple[TaskName, ...] = TASK_NAMES
    seed: int = 0
    quick: bool = False
    output: Path
    records: Path | None = None


def demo_configurations(
    tasks: Sequence[TaskName], *, quick: bool, seed: int = 0
) -> list[Configuration]:
    """Both arms of each task, the one without flossing first.

    Example:
        >>> arms = demo_configurations(["xor"], quick=True)
        >>> [configuration.flossing is None for configuration in arms]
        [True, False]
    """
    sizes = QUICK if quick else FLOSSED
    flossed = [replace(sizes[name], seed=seed) for name in tasks]
    return [arm for each in flossed for arm in (replace(each, flossing=None), each)]


def run_demo(demo: Demo, console: Console) -> list[DemoRun]:
    """Run the demo, show its progress and table, and write its files."""
    # Found missing now rather than after minutes of training.
    new_figure()
    configurations = demo_configurations(demo.tasks, quick=demo.quick, seed=demo.seed)
    processors = available_processors()
    console.print(
        f"{len(configurations)} runs, seed {demo.seed}, "
        f"on {processors} processor{'s' if processors > 1 else ''}"
    )
    with console.status("compiling, once on this machine: half a minute"):
        # Each worker would wait for the first of them to be done.
        compile_ahead(nn.RNN(1, 1, device="meta"), dtype=torch.float32, threads=1)
    start = time.perf_counter()
    records = _run(configurations, console)
    seconds = time.perf_counter() - start

    console.print(results_table(records, quick=demo.quick))
    figure = demo_figure(records)
    figure.savefig(demo.output, dpi=DOTS_PER_INCH)  # pyright: ignore[reportUnknownMemberType]
    console.print(f"Figure:  {demo.output}", soft_wrap=True, highlight=False)
    if demo.records is not None:
        document = records_document(records, demo, seconds)
        demo.records.write_text(json_text(document), encoding="utf-8")
        console.print(f"Records: {demo.records}", soft_wrap=True, highlight=False)
    console.print(f"{seconds:.0f} s in all")
    return records


def results_table(records: Sequence[DemoRun], *, quick: bool = False) -> Table:
    """The results, one row a run."""
    title = "Flossing before training"
    if quick:
        title += " (quick: a tiny size that shows no effect)"
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
    for record in records:
        table.add_row(*_row(record), end_section=record.flossed)
    return table


def records_document(records: Sequence[DemoRun], demo: Demo, seconds: float) -> dict[str, Any]:
    """All numbers of a demo with what they depend on, ready for JSON.

    Numbers that are not finite, which JSON lacks, become strings such as "-inf".
    """
    return {
        "seed": demo.seed,
        "quick": demo.quick,
        "wall_clock_seconds": seconds,
        "environment": environment(),
        "runs": [storable(_record_document(record)) for record in records],
    }


def _run(configurations: list[Configuration], console: Console) -> list[DemoRun]:
    # With flossing and without, k is that of the pair, so that both report the same exponent.
    k = [each.flossing.k or 1 for each in configurations if each.flossing is not None]
    with _progress_bars(configurations, console) as bars:
        runs = sweep(configurations, on_progress=bars.show)
    return [DemoRun(run=run, k=k[index // 2]) for index, run in enumerate(runs)]


@dataclass(frozen=True)
class _Bars:
    progress: Progress
    identifiers: dict[str, TaskID]

    def show(self, group: GroupProgress) -> None:
        (configuration,) = group.configurations
        identifier = self.identifiers[configuration.digest]
        total = _steps(configuration)
        if group.phase == "finished":
            self.progress.update(identifier, completed=total, phase="")
        elif group.phase in ("flossing", "training"):
            before = total - configuration.training.epochs if group.phase == "training" else 0
            self.progress.start_task(identifier)
            self.progress.update(identifier, completed=before + group.done, phase=group.phase)


def _steps(configuration: Configuration) -> int:
    flossing = configuration.flossing
    before = 0 if flossing is None else int(flossing.schedule["before"])
    return before + configuration.training.epochs


@contextmanager
def _progress_bars(configurations: list[Configuration], console: Console) -> Generator[_Bars]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
        console=console,
    )
    with progress:
        identifiers = {
            each.digest: progress.add_task(
                label(each), start=False, total=_steps(each), phase="waiting"
            )
            for each in configurations
        }
        yield _Bars(progress, identifiers)


def _row(record: DemoRun) -> tuple[str, ...]:
    run = record.run
    return (
        record.name,
        "flossed" if record.flossed else "without",
        f"{100 * record.accuracy:.1f} %",
        f"{record.exponents[0]:.3f}",
        f"{record.exponents[record.k - 1]:.3f}",
        f"{record.gradient_norm:.1e}",
        f"{run.flossing_seconds:.1f} s" if record.flossed else "–",
        f"{run.training_seconds:.1f} s",
    )


def _record_document(record: DemoRun) -> dict[str, Any]:
    run = record.run
    return {
        "arm": record.arm,
        "configuration": run.configuration.document(),
        "seed": run.configuration.seed,
        "final_accuracy": record.accuracy,
        "flossing_seconds": run.flossing_seconds,
        "training_seconds": run.training_seconds,
        "gradient_norm": record.gradient_norm,
        "flossing_loss": [loss for episode in run.episodes for loss in episode.loss],
        "exponents": record.exponents,
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
