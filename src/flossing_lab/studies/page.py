"""The page of the reproduction: figures, tables, and claims next to what was found."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flossing.report.model import Table
from flossing.report.rendering import markdown_table
from flossing.support.formatting import plural
from flossing_lab.runs.setups import as_released
from flossing_lab.studies.record import Record
from flossing_lab.studies.study import Finding, Study

PAGE = "reproduction.md"
VERDICTS = {True: "agrees", False: "disagrees", None: "undecided"}

INTRODUCTION = """\
# Reproduction of the paper's figures

R. Engelken, *Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians*,
NeurIPS 2023, [arXiv 2312.17306](https://arxiv.org/abs/2312.17306). The paper's claims are given in
our words: those marked "confirmed" are in the abstract or in the released code; those marked
"recalled" were not checked against the text, nor were the numbering and the parameters of the
figures. All verdicts, the figures and this page are computed from the records in
[records/](records/), which hold the configuration, learning curve and environment of every run.

The delay d of a task is its largest lag. A network has solved a task if its accuracy on held-out
data after training is at least 95 %."""


def picture(study: Study) -> str:
    """Return the file name of a study's figure."""
    return f"{study.name}.png"


def page(records: Mapping[str, Record], studies: Mapping[str, Study]) -> str:
    """Return the page of the recorded studies as Markdown, in the order of `studies`."""
    recorded = [(study, records[name]) for name, study in studies.items() if name in records]
    found = {study.name: study.findings(record.results) for study, record in recorded}
    blocks = [
        INTRODUCTION,
        markdown_table(_overview(recorded, found)),
        *(
            block
            for study, record in recorded
            for block in _blocks(study, record, found[study.name])
        ),
        "## Environments",
        "\n".join(f"- {each}" for each in _environments([record for _, record in recorded])),
    ]
    return "\n\n".join(blocks) + "\n"


def write_page(folder: Path, records: Mapping[str, Record], studies: Mapping[str, Study]) -> None:
    """Write the page into the folder of the figures."""
    (folder / PAGE).write_text(page(records, studies), encoding="utf-8")


def _overview(
    recorded: Sequence[tuple[Study, Record]], found: Mapping[str, Sequence[Finding]]
) -> Table:
    return Table(
        "",
        ("study", "size", *VERDICTS.values(), "runs", "measurements", "computing time (s)"),
        tuple(
            (
                study.title,
                record.size,
                *(
                    sum(each.agrees is verdict for each in found[study.name])
                    for verdict in VERDICTS
                ),
                len(record.results.runs),
                len(record.results.measurements),
                f"{_seconds(record):.0f}",
            )
            for study, record in recorded
        ),
    )


def _blocks(study: Study, record: Record, found: Sequence[Finding]) -> Iterator[str]:
    yield f"## {study.title}"
    if study.draw is not None:
        yield f"![{study.title}]({picture(study)})"
    if study.caption:
        yield study.caption
    if study.statement:
        yield f"**Paper.** {study.statement}"
    if found:
        yield "**Findings.**"
        yield "\n".join(f"- *{VERDICTS[each.agrees]}*: {each.claim} {each.found}" for each in found)
    yield f"**Computation.** {_computation(study, record)}"
    for table in study.tables(record.results):
        yield table.caption
        yield markdown_table(table)


def _computation(study: Study, record: Record) -> str:
    runs, measurements = record.results.runs, record.results.measurements
    done: list[str] = []
    if runs:
        epochs = sorted({run.configuration.training.epochs for run in runs})
        at_most = f"at most {', '.join(map(str, epochs))} epochs"
        done.append(f"{plural(len(runs), 'training run')} ({at_most}, {_setup(record)})")
    if measurements:
        done.append(plural(len(measurements), "measurement"))
    seeds = {run.configuration.seed for run in runs}
    seeds |= {int(each.setting["seed"]) for each in measurements if "seed" in each.setting}
    count = len(runs) + len(measurements)
    reused = f" and did {record.done} of these; the others existed already"
    missing = record.planned - count
    unfinished = f" {missing} of the {record.planned} planned are not finished." if missing else ""
    return (
        f"Size: {record.size} ({study.extents[record.size]}). {' and '.join(done)}, seeds "
        f"{', '.join(map(str, sorted(seeds)))}; {_seconds(record):.0f} s of flossing, training and "
        f"measuring in total. The last command took {record.wall_clock_seconds:.0f} s"
        f"{reused if record.done < count else ''}.{unfinished}"
    )


def _setup(record: Record) -> str:
    configurations = [run.configuration for run in record.results.runs]
    steps = {each.task.steps for each in configurations}
    length = " to ".join(map(str, sorted({min(steps), max(steps)})))
    ours = any(as_released(each) != each for each in configurations)
    setup = "our set-up" if ours else "the set-up of the released code"
    return f"{setup}, sequences of {length} steps"


def _seconds(record: Record) -> float:
    results = record.results
    seconds = [each.flossing_seconds + each.training_seconds for each in results.runs]
    return sum([*seconds, *(each.seconds for each in results.measurements)], start=0.0)


def _environments(records: Sequence[Record]) -> list[str]:
    found = {
        json.dumps(each.environment, sort_keys=True): each.environment
        for record in records
        for each in (*record.results.runs, *record.results.measurements)
    }
    return [
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in each.items())
        for each in found.values()
    ]
