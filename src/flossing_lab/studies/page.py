"""The page of what was rerun: what the paper states, what came out here, and whether both fit."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flossing.report.model import Table
from flossing.report.rendering import markdown_table
from flossing.support.formatting import counted
from flossing_lab.studies.record import Record
from flossing_lab.studies.study import Finding, Study

PAGE = "reproduction.md"
VERDICTS = {True: "agrees", False: "disagrees", None: "undecided"}

INTRODUCTION = """\
# The paper's figures, rerun

R. Engelken, *Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians*,
NeurIPS 2023, [arXiv 2312.17306](https://arxiv.org/abs/2312.17306). What the paper states is given
in our words: "confirmed" is what stands in the abstract or in the released code, "recalled" what
was not checked against the text, numbering and parameters of the figures included. Every verdict
is computed from the records in [records/](records/), which hold each run's configuration, learning
curve and environment; so are the figures and this page.

Delays d are always the largest lag. A network has solved a task if its accuracy after training, on
data that is not trained on, is at least 95 %."""


def picture(study: Study) -> str:
    """Return the name of the file of a study's figure.

    Args:
        study: any.
    """
    return f"{study.name}.png"


def page(records: Mapping[str, Record], studies: Mapping[str, Study]) -> str:
    """Return the page as Markdown.

    Args:
        records: of the studies that were run, by name.
        studies: all of them, in the order of the page.
    """
    there = [(study, records[name]) for name, study in studies.items() if name in records]
    found = {study.name: study.findings(record.results) for study, record in there}
    blocks = [
        INTRODUCTION,
        markdown_table(_overview(there, found)),
        *(block for study, record in there for block in _blocks(study, record, found[study.name])),
        "## Where this was run",
        "\n".join(f"- {each}" for each in _environments([record for _, record in there])),
    ]
    return "\n\n".join(blocks) + "\n"


def write_page(folder: Path, records: Mapping[str, Record], studies: Mapping[str, Study]) -> Path:
    """Write the page into a folder and return its file.

    Args:
        folder: where the figures are.
        records: of the studies that were run, by name.
        studies: all of them, in the order of the page.
    """
    path = folder / PAGE
    path.write_text(page(records, studies), encoding="utf-8")
    return path


def _overview(
    there: Sequence[tuple[Study, Record]], found: Mapping[str, Sequence[Finding]]
) -> Table:
    def verdicts(study: Study) -> tuple[int, ...]:
        return tuple(
            sum(each.agrees is verdict for each in found[study.name]) for verdict in VERDICTS
        )

    return Table(
        "",
        ("study", "size", *VERDICTS.values(), "runs", "measurements", "seconds of computing"),
        tuple(
            (
                study.title,
                record.size,
                *verdicts(study),
                len(record.results.runs),
                len(record.results.measurements),
                f"{_seconds(record):.0f}",
            )
            for study, record in there
        ),
    )


def _blocks(study: Study, record: Record, found: Sequence[Finding]) -> Iterator[str]:
    yield f"## {study.title}"
    if study.draw is not None:
        yield f"![{study.title}]({picture(study)})"
    if study.caption:
        yield study.caption
    if study.statement:
        yield f"**The paper.** {study.statement}"
    if found:
        yield "**Here.**"
        yield "\n".join(f"- *{VERDICTS[each.agrees]}*: {each.claim} {each.found}" for each in found)
    yield f"**How.** {_how(study, record)}"
    for table in study.tables(record.results):
        yield table.caption
        yield markdown_table(table)


def _how(study: Study, record: Record) -> str:
    results = record.results
    seeds = {run.configuration.seed for run in results.runs}
    seeds |= {int(each.setting["seed"]) for each in results.measurements if "seed" in each.setting}
    done = [
        counted(count, noun)
        for count, noun in (
            (len(results.runs), "training run"),
            (len(results.measurements), "measurement"),
        )
        if count
    ]
    epochs = {run.configuration.training.epochs for run in results.runs}
    if epochs:
        done[0] += f" of at most {', '.join(map(str, sorted(epochs)))} epochs"
    count = len(results.runs) + len(results.measurements)
    missing = record.planned - count
    left = f" Of this size {missing} of {record.planned} are not finished." if missing else ""
    there = f", in which it did {record.done} of these; the others were there already"
    return (
        f"Size: {record.size} ({study.extents[record.size]}). {' and '.join(done)}, seeds "
        f"{', '.join(map(str, sorted(seeds)))}; {_seconds(record):.0f} s of flossing, training and "
        f"measuring, summed over all. The last command took {record.wall_clock_seconds:.0f} s"
        f"{there if record.done < count else ''}.{left}"
    )


def _seconds(record: Record) -> float:
    results = record.results
    seconds = [each.flossing_seconds + each.training_seconds for each in results.runs]
    return sum([*seconds, *(each.seconds for each in results.measurements)], start=0.0)


def _environments(records: Sequence[Record]) -> list[str]:
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        for each in (*record.results.runs, *record.results.measurements):
            found.setdefault(json.dumps(each.environment, sort_keys=True), each.environment)
    return [
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in each.items())
        for each in found.values()
    ]
