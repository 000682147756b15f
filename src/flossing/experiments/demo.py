"""The demo: two tasks, each learned without flossing and with flossing before training."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

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

from flossing.documents import json_text, storable
from flossing.experiments.configuration import Architecture
from flossing.experiments.demo_figure import demo_figure
from flossing.experiments.environment import available_processors, environment
from flossing.experiments.parallel import Progress as RunProgress
from flossing.experiments.parallel import compile_for_workers, run_all
from flossing.experiments.training import Configuration, Flossing, Record
from flossing.plots import new_figure
from flossing.tasks import Digits, TemporalXor

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
        name="digits, s=60",
        task=Digits(hold=60),
        architecture=Architecture(size=128),
        flossing=Flossing(k=96, steps=400, time_steps=100),
        flossed_k=96,
        batch_size=64,
        training_steps=1200,
        max_gradient_norm=1.0,
        evaluate_every=50,
    ),
    "xor": Configuration(
        name="XOR, d=40",
        task=TemporalXor(delay=40, steps=300),
        architecture=Architecture(size=80, form="rate"),
        flossing=Flossing(k=75, steps=500, time_steps=55),
        flossed_k=75,
        batch_size=16,
        training_steps=1500,
        max_gradient_norm=0.03,
        evaluate_every=50,
    ),
}

QUICK_FLOSSING = Flossing(k=12, steps=10, time_steps=20, state_transient=2, frame_transient=2)
QUICK = {
    "digits": replace(
        FLOSSED["digits"],
        name="digits, s=2",
        task=Digits(hold=2, rows=True),
        architecture=Architecture(size=16),
        flossing=replace(QUICK_FLOSSING, time_steps=10),
        flossed_k=12,
        training_steps=20,
        evaluate_every=10,
    ),
    "xor": replace(
        FLOSSED["xor"],
        name="XOR, d=4",
        task=TemporalXor(delay=4, steps=20),
        architecture=Architecture(size=16, form="rate"),
        flossing=QUICK_FLOSSING,
        flossed_k=12,
        training_steps=20,
        evaluate_every=10,
    ),
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


def demo_configurations(tasks: Sequence[TaskName], *, quick: bool) -> list[Configuration]:
    """Both arms of each task, the one without flossing first.

    Example:
        >>> [configuration.arm for configuration in demo_configurations(["xor"], quick=True)]
        ['without flossing', 'flossed before training']
    """
    sizes = QUICK if quick else FLOSSED
    return [arm for name in tasks for arm in (replace(sizes[name], flossing=None), sizes[name])]


def run_demo(demo: Demo, console: Console) -> list[Record]:
    """Run the demo, show its progress and table, and write its files."""
    # Found missing now rather than after minutes of training.
    new_figure()
    configurations = demo_configurations(demo.tasks, quick=demo.quick)
    processors = available_processors()
    console.print(
        f"{len(configurations)} runs, seed {demo.seed}, "
        f"on {processors} processor{'s' if processors > 1 else ''}"
    )
    with console.status("compiling, once on this machine: half a minute"):
        compile_for_workers()
    start = time.perf_counter()
    records = _run(configurations, demo.seed, console)
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


def results_table(records: Sequence[Record], *, quick: bool = False) -> Table:
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
        table.add_row(*_row(record), end_section=record.configuration.flossing is not None)
    return table


def records_document(records: Sequence[Record], demo: Demo, seconds: float) -> dict[str, Any]:
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


def _run(configurations: list[Configuration], seed: int, console: Console) -> list[Record]:
    order = _longest_first(configurations)
    with _progress_bars(order, console) as bars:
        records = run_all(order, seed, on_progress=bars.show)
    by_label = {record.configuration.label: record for record in records}
    return [by_label[configuration.label] for configuration in configurations]


def _longest_first(configurations: list[Configuration]) -> list[Configuration]:
    """Begun last, a long run would occupy one processor alone at the end."""
    return sorted(
        configurations,
        key=lambda each: (each.flossing is None, -each.training_steps * each.task.steps),
    )


@dataclass(frozen=True)
class _Bars:
    progress: Progress
    identifiers: list[TaskID]
    configurations: list[Configuration]

    def show(self, run: RunProgress) -> None:
        flossing = self.configurations[run.index].flossing
        before = flossing.steps if flossing is not None and run.phase == "training" else 0
        identifier = self.identifiers[run.index]
        if not self.progress.tasks[run.index].started:
            self.progress.start_task(identifier)
        self.progress.update(identifier, completed=before + run.done, phase=run.phase)


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
        identifiers = [
            progress.add_task(
                configuration.label,
                start=False,
                total=configuration.training_steps
                + (configuration.flossing.steps if configuration.flossing else 0),
                phase="waiting",
            )
            for configuration in configurations
        ]
        yield _Bars(progress, identifiers, configurations)


def _row(record: Record) -> tuple[str, ...]:
    configuration = record.configuration
    flossed = configuration.flossing is not None
    return (
        configuration.name,
        "flossed" if flossed else "without",
        f"{100 * record.final_accuracy:.1f} %",
        f"{record.exponents[0]:.3f}",
        f"{record.exponents[configuration.flossed_k - 1]:.3f}",
        f"{record.gradient_norm:.1e}",
        f"{record.flossing_seconds:.1f} s" if flossed else "–",
        f"{record.training_seconds:.1f} s",
    )


def _record_document(record: Record) -> dict[str, Any]:
    configuration = record.configuration
    settings = {name: getattr(configuration, name) for name in configuration.__dataclass_fields__}
    return {
        "arm": configuration.arm,
        "configuration": settings
        | {
            "task": {"name": type(configuration.task).__name__, **_fields(configuration.task)},
            "architecture": asdict(configuration.architecture),
            "flossing": None if configuration.flossing is None else asdict(configuration.flossing),
        },
        "seed": record.seed,
        "final_accuracy": record.final_accuracy,
        "flossing_seconds": record.flossing_seconds,
        "training_seconds": record.training_seconds,
        "gradient_norm": record.gradient_norm,
        "flossing_loss": record.flossing_loss,
        "exponents": record.exponents,
        "gradient_norm_by_lag": record.gradient_norm_by_lag,
        "learning_curve": [asdict(point) for point in record.learning_curve],
    }


def _fields(task: Any) -> dict[str, Any]:
    return {name: getattr(task, name) for name in task.__dataclass_fields__}
