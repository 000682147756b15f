"""Write docs/results.md from what was recorded.

Run from anywhere: `python docs/make_results.py`. Tables, and all numbers in sentences on results,
come from docs/reproduction/records/, docs/figures/demo*.json and benchmarks/results/.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from flossing.report.model import Table
from flossing.report.rendering import markdown_table
from flossing.support.formatting import plural
from flossing.tasks import DelayedCopy, Task, TemporalXor
from flossing_lab.runs.outcomes import SUCCESS, arms
from flossing_lab.studies.baselines import study as baselines
from flossing_lab.studies.horizon import study as horizon
from flossing_lab.studies.page import PAGE as REPRODUCTION
from flossing_lab.studies.paper.fig2_condition_number import ARMS as FLOSSED_OR_NOT
from flossing_lab.studies.record import Record, read_records
from flossing_lab.studies.registry import FIGURES
from results_of_training import (
    adding_section,
    baselines_section,
    horizon_section,
    input_section,
    schedule_section,
)
from results_words import accuracy, paragraph, percent, read_json

DOCS = Path(__file__).parent
PAGE = DOCS / "results.md"
RECORDS = DOCS / "reproduction" / "records"
README = DOCS.parent / "README.md"
README_START, README_END = (
    "<!-- results: written by docs/make_results.py -->",
    "<!-- end of results -->",
)
README_ROWS = (
    "temporal XOR d=40, N=80",
    "temporal XOR d=70, N=80",
    "temporal XOR d=200, N=256",
    "delayed copy d=200, N=256",
    "spatial XOR d=40, N=80",
    "digits, asked after 60 blank steps, N=128",
    "digits, asked after 500 blank steps, N=128",
    "adding problem, 200 steps, ReLU, N=128",
    "adding problem, 1000 steps, N=128",
)
DEMOS = [DOCS / "figures" / name for name in ("demo.json", "demo-seed-1.json", "demo-seed-2.json")]
BENCHMARKS = DOCS.parent / "benchmarks" / "results"


def page() -> str:
    """Return the page as Markdown."""
    records = read_records(RECORDS)
    runs = {
        run.configuration.digest: run for record in records.values() for run in record.results.runs
    }
    sections = [
        introduction(),
        paper_section(records),
        horizon_section(records[horizon.STUDY.name]),
        schedule_section(runs),
        input_section(runs),
        adding_section(runs),
        baselines_section(records[baselines.STUDY.name]),
        demo_section([read_json(path) for path in DEMOS]),
        speed_section(),
    ]
    return "\n\n".join(sections) + "\n"


def introduction() -> str:
    """Return the title and what the page is made from."""
    return "# Results\n\n" + paragraph(
        f"""
        What flossing reached in recorded experiments, where it failed, and what it cost. This page
        is written by `python docs/make_results.py`; every number in it comes from the [records of
        the studies](reproduction/records/), of the [demo](figures/demo.json) and of the
        [benchmarks](../benchmarks/results/). [All studies](reproduction/{REPRODUCTION}) has the
        full tables and the commands, and [Choosing options](guide.md) draws the conclusions for
        practice. A network has solved a task with an accuracy of at least {percent(SUCCESS, 0)} on
        new data.
        """
    )


def paper_section(records: Mapping[str, Record]) -> str:
    """Return how many statements of the paper agree, and which do not."""
    findings = [
        finding
        for name, study in FIGURES.items()
        for finding in study.findings(records[name].results)
    ]
    agree, disagree, undecided = (
        [each for each in findings if each.agrees is verdict] for verdict in (True, False, None)
    )
    sizes = {records[name].size for name in FIGURES}
    return "\n\n".join(
        (
            "## The paper's figures",
            paragraph(
                f"""
                `flossing reproduce all` runs the six figures of Engelken (NeurIPS 2023) again. Of
                {len(findings)} statements {len(agree)} agree, {len(disagree)} disagree and
                {len(undecided)} are undecided, in the {" and ".join(sorted(sizes))} size. Flossing
                before training carries vanilla networks over longer delays, and flossing during
                training over longer ones still, the further the more exponents are flossed. What
                disagrees ([with numbers](reproduction/{REPRODUCTION})):
                """
            ),
            "\n".join(f"- {each.claim}" for each in disagree),
            paragraph(gated_networks(records["fig6"])),
            "![Temporal and spatial XOR: accuracy against the delay, and the gradient of the first "
            "state, by schedule](reproduction/fig4.png)",
            paragraph(condition_numbers(records["fig2"])),
            "![Condition number and singular values of the long-term Jacobian before and after "
            "flossing](reproduction/fig2.png)",
        )
    )


def gated_networks(record: Record) -> str:
    """Return what flossing did for LSTMs and GRUs."""
    found = [
        arm
        for arm in arms(record.results.runs)
        if arm.configuration.architecture.cell in ("lstm", "gru")
    ]
    copied = [arm for arm in found if isinstance(arm.configuration.task, DelayedCopy)]
    solving = sum(arm.successes for arm in copied)
    at_chance = [
        arm.median_accuracy for arm in found if isinstance(arm.configuration.task, TemporalXor)
    ]
    pairs = [
        f"{_delay(plain.configuration.task)}, {plain.configuration.architecture.cell.upper()}: "
        f"{accuracy(flossed)} rather than {accuracy(plain)}"
        for plain in copied
        if plain.configuration.flossing is None
        for flossed in copied
        if flossed.configuration.flossing is not None
        and flossed.configuration.task == plain.configuration.task
        and flossed.configuration.architecture == plain.configuration.architecture
    ]
    return (
        f"Flossing before training helps LSTMs and GRUs on delayed copy, where {solving} of "
        f"{sum(len(arm.runs) for arm in copied)} networks solve the task, flossed or not. Median "
        f"accuracies: {'; '.join(pairs)}. On temporal XOR they stay at chance with flossing and "
        f"without, between {percent(min(at_chance))} and {percent(max(at_chance))}."
    )


def condition_numbers(record: Record) -> str:
    """Return how ill-conditioned the long-term Jacobian is before and after flossing."""
    measured = record.results.measurements
    most = max(each.setting["k"] for each in measured)
    largest = [each for each in measured if each.setting["k"] == most]
    setting = largest[0].setting

    def over_networks(take: Any) -> list[str]:
        return [
            f"10^{median(take(each.numbers[arm]) for each in largest):.0f}"
            for arm in FLOSSED_OR_NOT
        ]

    condition = over_networks(lambda numbers: numbers["log10_condition_quartiles"][1][-1])
    predicted = over_networks(lambda numbers: numbers["predicted_log10_condition"][-1])
    return f"""
        The long-term Jacobian over s steps of a vanilla network of {setting["network_size"]} units
        under random bits: over {setting["horizons"][-1]} steps its condition number, within the
        subspace of the {most} exponents that are flossed, is {condition[0]} before flossing and
        {condition[1]} after it, in the median over {setting["origins"]} origins in each of
        {plural(len(largest), "network")}. The exponents (dashed) predict {predicted[0]} and
        {predicted[1]}.
        """


def demo_section(demos: list[dict[str, Any]]) -> str:
    """Return the table of the demo."""
    arms_of: dict[str, dict[bool, list[dict[str, Any]]]] = {}
    for run in (run for demo in demos for run in demo["runs"]):
        flossed = run["configuration"]["flossing"] is not None
        name = run["configuration"]["task"]["name"]
        arms_of.setdefault(name, {False: [], True: []})[flossed].append(run)
    rows = [
        (
            _described(runs[True][0]["configuration"]),
            *(
                " / ".join(f"{100 * run['final_accuracy']:.1f}" for run in each)
                for each in runs.values()
            ),
            " + ".join(
                f"{runs[True][0][f'{phase}_seconds']:.0f} s" for phase in ("flossing", "training")
            ),
        )
        for runs in arms_of.values()
    ]
    seeds = " / ".join(str(demo["seed"]) for demo in demos)
    columns = ("task", "without flossing", "flossed before training", "flossing + training, seed 0")
    environment = demos[0]["environment"]
    return "\n\n".join(
        (
            "## The demo",
            "![Two tasks, each learned without flossing and with flossing before training]"
            "(figures/demo.png)",
            f"Accuracy in % on held-out data, for the seeds {seeds} (`make demo`; other seeds by "
            "`flossing demo --seed 1`):",
            markdown_table(Table("", columns, tuple(rows))),
            paragraph(
                f"""
                The XOR is set up as in the paper's released code. Without flossing, results on the
                digits vary much from seed to seed. The {len(demos[0]["runs"])} runs of seed
                {demos[0]["seed"]} took {demos[0]["wall_clock_seconds"]:.0f} s on
                {plural(environment["processors_available"], "core")}.
                """
            ),
        )
    )


def speed_section() -> str:
    """Return speed, accuracy and memory in short."""
    speed, memory = read_json(BENCHMARKS / "speed.json"), read_json(BENCHMARKS / "memory.json")
    names = ("reference / ours", "JAX / ours", "ours / floor")
    columns = ("N, k, T, B", "ms", *names, "error of exponents", "error of gradient")
    rows = [
        (
            ", ".join(map(str, row["N_k_T_B"])),
            f"{1e3 * median(row['seconds']['ours']):.3g}",
            *(f"{median(row['ratios'][name]):.2g}" for name in names),
            *(
                f"{row['errors']['ours'][what]:.0e} ({row['errors']['reference'][what]:.0e})"
                for what in ("exponents", "gradient")
            ),
        )
        for row in speed["speed"]
        if row["kind"] == "RNN"
    ]
    powers = ", ".join(f"{name} {each['exponent']:.2f}" for name, each in speed["scaling"].items())
    size, k, steps, _ = memory["N_k_T_B"]
    whole, saved = (
        memory["results"][f"checkpoint_interval={interval}"] for interval in (None, 300)
    )
    environment = speed["environment"]
    return "\n\n".join(
        (
            "## Speed",
            paragraph(
                f"""
                Value and gradient of the mean squared exponents of a vanilla network, float32,
                {speed["threads"]} threads ([with GRU, LSTM, memory and a breakdown](speed.md), by
                `make benchmark`). The reference is the same products with a graph through
                `torch.linalg.qr` at every step; JAX is a jitted `scan` with `qr` and its `grad`;
                the floor is the matrix products alone. Medians of ratios taken in turns, on a
                shared machine whose speed varied; errors are relative to float64 with a
                factorisation at every step, those of the reference in brackets.
                """
            ),
            markdown_table(Table("", columns, tuple(rows))),
            paragraph(
                f"""
                At the smallest size the time is that of the many small operations of Python and
                PyTorch around the loops, which JAX compiles away: there JAX is faster. At (80, 75)
                single precision needs a factorisation at nearly every step, and these are
                sequential. Time grows as a power of one dimension at a time, with the exponents
                {powers}. With the published schedule, flossing takes
                {percent(median(speed["schedule"]["share"]), 0)} of the time of training. A
                gradient over {steps:,} steps (N = {size}, k = {k}) needs
                {saved["mebibytes"]:.0f} MiB and
                {saved["seconds"]:.0f} s with `checkpoint_interval=300`, and
                {whole["mebibytes"] / 1024:.1f} GiB and {whole["seconds"]:.0f} s without.
                """
            ),
            f"Python {environment['python']}, torch {environment['torch']}, "
            f"{plural(environment['processors_available'], 'core')}.",
        )
    )


def readme() -> str:
    """Return README.md with the rows of the horizon study that it shows."""
    (table,) = horizon.tables(read_records(RECORDS)[horizon.STUDY.name].results)
    shown = [row for row in table.rows if row[0] in README_ROWS]
    columns = [name for name in table.columns if not name.startswith("cost")]
    rows = tuple(row[: len(columns)] for row in shown)
    before, rest = README.read_text(encoding="utf-8").split(README_START)
    _, after = rest.split(README_END)
    lines = markdown_table(Table("", tuple(columns), rows))
    return f"{before}{README_START}\n\n{lines}\n\n{README_END}{after}"


def main() -> None:
    """Write the page, and the table of the README."""
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")


def _delay(task: Task) -> str:
    return f"d = {task.delay}" if isinstance(task, DelayedCopy) else type(task).__name__


def _described(configuration: Mapping[str, Any]) -> str:
    task, size = configuration["task"], configuration["architecture"]["size"]
    if task["name"] == "digits":
        return f"digits pixel by pixel, answer after {task['hold']} blank steps, N = {size}"
    return f"temporal XOR, d = {task['delay']}, N = {size}"


if __name__ == "__main__":
    main()
