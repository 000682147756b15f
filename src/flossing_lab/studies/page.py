"""The page of the reproduction: figures, tables, and claims next to what was found."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flossing.report.model import Table
from flossing.report.rendering import markdown_table
from flossing.support.formatting import plural
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.differences import flossing_in_words, task_in_words
from flossing_lab.studies.record import Record
from flossing_lab.studies.study import Finding, Study, group_by, in_released_setup

PAGE = "reproduction.md"
VERDICTS = {True: "agrees", False: "disagrees", None: "undecided"}

INTRODUCTION = """\
# Reproduction of the paper's figures

R. Engelken, *Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians*,
NeurIPS 2023, [arXiv 2312.17306](https://arxiv.org/abs/2312.17306). The paper's claims are given in
our words, each with the mark of where we know it from: the abstract, the released code, a
secondary source (a later paper of the same author), or recollection, which was not checked against
the text; nor were the numbering and the parameters of the figures. What this project claims is
marked so. All verdicts, the figures and this page are computed from the records in
[records/](records/), which hold the configuration, learning curve and environment of every run.

The delay d of a task is its largest lag. A network has solved a task if its accuracy on held-out
data after training is at least 95 %. In the set-up of the released code sequences have 300 steps
and the first answer that counts depends on an input that was not seen, so that 99.8 % is the most
that a network can reach; in our set-up sequences are three delays long, at least 60 steps.

How the statements on figures 1 to 6 are judged: one agrees if the results, or better ones, would
come about by chance alone with a probability p of at most 0.05, disagrees if results as bad would,
and is undecided otherwise. Schedules are compared by the numbers of networks that solved the task,
delay by delay (Fisher's exact test; over several delays that of Cochran, Mantel and Haenszel),
gradients by their ranks (Mann and Whitney), and shares of networks with one half (binomial test).
Intervals are exact 95 % confidence intervals (Clopper and Pearson). Three networks against three
can decide only if all of one kind solve the task and none of the other. Statements are judged one
by one, without a correction for their number."""


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
        (
            "study",
            "size",
            "set-up",
            *VERDICTS.values(),
            "runs",
            "measurements",
            "computing time (s)",
        ),
        tuple(
            (
                study.title,
                record.size,
                "released code" if record.released else "ours",
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
    if study.statement:
        columns = ("what is stated", "known from", "what came out", "verdict")
        rows = [
            (each.claim, each.source or "", each.found, f"*{VERDICTS[each.agrees]}*")
            for each in found
        ]
        yield markdown_table(Table("", columns, tuple(rows)))
    elif found:
        yield "**Findings.**"
        yield "\n".join(f"- *{VERDICTS[each.agrees]}*: {each.claim} {each.found}" for each in found)
    yield f"**Computation.** {_computation(study, record)}"
    missing = _missing(study, record)
    if missing:
        yield f"**Not run** of the {record.size} size:"
        yield "\n".join(f"- {each}" for each in missing)
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


def _missing(study: Study, record: Record) -> list[str]:
    """Return the runs of the record's size that it lacks: delays and numbers of networks."""
    if record.released:
        study = in_released_setup(study)
    known = record.results.by_digest
    lacking = [
        each for each in study.configurations.get(record.size, ()) if each.digest not in known
    ]
    networks = Counter((_kind(each), task_in_words(each)) for each in lacking)
    kinds = group_by(networks, lambda cell: cell[0])
    return [
        f"{kind}: {', '.join(f'{task} ({networks[kind, task]})' for _, task in cells)}"
        for kind, cells in kinds.items()
    ]


def _kind(configuration: Configuration) -> str:
    architecture = configuration.architecture
    return (
        f"{architecture.initialisation} {architecture.cell}, flossing "
        f"{flossing_in_words(configuration).removesuffix(', as released')}"
    )


def _setup(record: Record) -> str:
    configurations = [run.configuration for run in record.results.runs]
    steps = {each.task.steps for each in configurations}
    length = " to ".join(map(str, sorted({min(steps), max(steps)})))
    setup = "the set-up of the released code" if record.released else "our set-up"
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
