"""`flossing train`, `sweep` and `report` from the outside."""

import contextlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from flossing.cli import main
from flossing_lab.runs.outcomes import SUCCESS
from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run
from flossing_lab.runs.store import Store
from flossing_lab.sweeps.workers import Processes

GRID = """
task = "temporal-xor:delay=4,steps=20"
seeds = 4
floss = ["none", "published"]
evaluate_every = 10
[architecture]
size = 8
[training]
epochs = 30
"""


def made_up(configuration):
    """A run whose outcome follows from its configuration: flossed it succeeds after 20 epochs."""
    flossed = configuration.flossing is not None
    regression = configuration.task.kind == "regression"
    epochs = configuration.training.epochs
    measured = configuration.measured_exponents

    def evaluation(epoch):
        good = epoch >= 20 and (flossed or configuration.seed == 0)
        return Evaluation(
            epoch=epoch,
            loss=1.0 / (1 + epoch),
            accuracy=None if regression else SUCCESS + 0.03 if good else 0.5,
            exponents=tuple(-0.25 - index for index in range(measured)),
        )

    return Run(
        configuration=configuration,
        epochs=tuple(Epoch(epoch=e, loss=0.5, gradient_norm=1.0) for e in range(1, epochs + 1)),
        episodes=(Episode(epoch=0, loss=(1.0, 0.5), largest_exponent=0.0, smallest_exponent=-1.0),)
        if flossed
        else (),
        evaluations=tuple(
            evaluation(epoch) for epoch in range(0, epochs + 1, configuration.evaluate_every)
        ),
        final=evaluation(epochs),
        flossing_seconds=7.0 if flossed else 0.0,
        training_seconds=3.0,
    )


class Threads(Processes):
    @contextlib.contextmanager
    def executor(self, most):
        with ThreadPoolExecutor(1) as pool:
            yield pool


@pytest.fixture
def quick(monkeypatch):
    """Made-up runs in this process, and a list of those that were asked for."""
    asked = []

    def run_together(configurations, *, checkpoint, report):
        report("training", 1, 1)
        asked.extend(configurations)
        return [made_up(configuration) for configuration in configurations]

    @contextlib.contextmanager
    def opened(workers, dask):
        yield Threads(workers)

    functions = {
        "run_together": run_together,
        "may_run_together": lambda a, b: replace(a, seed=0) == replace(b, seed=0),
    }
    monkeypatch.setattr("flossing_lab.sweeps.sweep.opened", opened)
    for name, function in functions.items():
        monkeypatch.setattr(f"flossing_lab.training.trainer.{name}", function)
    monkeypatch.setenv("COLUMNS", "140")
    return asked


@pytest.fixture
def swept(quick, tmp_path, capsys):
    """A folder with the runs of the grid."""
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    folder = tmp_path / "runs"
    assert main(["sweep", str(tmp_path / "grid.toml"), "--output", str(folder)]) == 0
    return folder


def rows(text):
    """Cells of the lines that begin with the task."""
    lines = (line.strip() for line in text.splitlines())
    return [re.split(r"\s{2,}", line) for line in lines if line.startswith("temporal-xor:")]


EXPECTED = [
    ["temporal-xor:delay=4,steps=20", "none", "25 %", "50.0 %", "4", "–", "–", "–", "3.0 s"],
    [
        "temporal-xor:delay=4,steps=20",
        "published",
        "100 %",
        "98.0 %",
        "4",
        "20",
        "9.0 s",
        "7.0 s",
        "3.0 s",
    ],
]


def test_sweep_keeps_every_run_and_shows_a_table(swept, quick, capsys):
    assert len(list(swept.glob("*.jsonl"))) == 8
    assert len(quick) == 8
    assert {each.flossing.k for each in quick if each.flossing} == {8 * 15 // 16}
    grid = swept.parent / "grid.toml"
    shown = capsys.readouterr().out
    assert main(["sweep", str(grid), "--output", str(swept)]) == 0
    again = capsys.readouterr().out
    assert len(quick) == 8
    for text in (shown, again):
        assert [[cell.strip() for cell in row] for row in rows(text)] == EXPECTED


def test_report_shows_the_same_table_and_writes_pages(swept, tmp_path, capsys):
    capsys.readouterr()
    page, text = tmp_path / "new" / "runs.html", tmp_path / "runs.md"
    assert main(["report", str(swept), "--output", str(page)]) == 0
    assert rows(capsys.readouterr().out) == EXPECTED
    html = page.read_text(encoding="utf-8")
    assert '<th scope="row" class="long">temporal-xor:delay=4,steps=20</th>' in html
    assert html.count("data:image/svg+xml;base64,") == 1
    assert "published flossing: 98.0 % in the median of 4 seeds" in html
    assert main(["report", str(swept), "--output", str(text)]) == 0
    lines = text.read_text(encoding="utf-8").splitlines()
    told = [line.strip("| ").split(" | ") for line in lines if line.startswith("| temporal-xor")]
    assert told == EXPECTED


def test_tables_fit_a_narrow_terminal_with_the_outcomes_first(swept, monkeypatch, capsys):
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["report", str(swept)]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    heading = next(line for line in shown.splitlines() if "success" in line).split()
    assert heading[:5] == ["task", "flossing", "success", "accuracy", "seeds"]
    assert [row[:4] for row in rows(shown)] == [row[:4] for row in EXPECTED]
    assert "Left out for width: " in shown


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_numbers_of_runs_are_written_as_strict_json(swept, tmp_path):
    grid, report, train = (tmp_path / f"{name}.json" for name in ("grid", "report", "train"))
    folder = ["--output", str(swept)]
    assert main(["sweep", str(tmp_path / "grid.toml"), *folder, "--json", str(grid)]) == 0
    assert main(["report", str(swept), "--json", str(report)]) == 0
    assert strict(grid) == strict(report)
    unflossed, flossed = strict(report)["arms"]
    assert (unflossed["success_rate"], flossed["success_rate"]) == (0.25, 1.0)
    assert (unflossed["median_epochs"], flossed["median_epochs"]) == ("inf", 20.0)
    assert strict(report)["not_trusted"] == []
    options = ["--size", "4", "--epochs", "30", "--evaluate-every", "10", "--json", str(train)]
    assert main(["train", "temporal-xor:delay=4,steps=20", *options]) == 0
    (run,) = strict(train)["runs"]
    assert run["configuration"]["architecture"]["size"] == 4


def test_report_lists_what_it_does_not_trust(swept, tmp_path, capsys):
    flossed = sorted(swept.glob("*-flossed-*.jsonl"))
    flossed[0].write_bytes(flossed[0].read_bytes()[:-5])
    flossed[1].rename(swept / "copy-0123456789abcdef.jsonl")
    assert main(["report", str(swept), "--output", str(tmp_path / "runs.md")]) == 0
    shown = capsys.readouterr().out
    assert "is cut off" in shown
    assert "which is not what its name ends in" in shown
    assert [row[4] for row in rows(shown)][-2:] == ["4", "2"]
    assert "**Note:** Not counted: " in (tmp_path / "runs.md").read_text(encoding="utf-8")


def test_report_of_nothing_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 1
    assert "there is no run that can be trusted" in capsys.readouterr().err


def test_train_takes_every_setting_and_keeps_the_runs(quick, tmp_path, capsys):
    options = [
        *("--cell", "leaky", "--size", "6", "--leak", "0.5", "--epochs", "40"),
        *("--learning-rate", "0.01", "--evaluate-every", "20", "--exponents", "3", "--orthogonal"),
        *("--initialisation", "orthogonal"),
        *("--floss", "published", "--k", "2", "--time-steps", "18", "--seed", "5", "--seeds", "2"),
        *("--output", str(tmp_path)),
    ]
    assert main(["train", "temporal-xor:delay=4,steps=20", *options]) == 0
    first, second = quick
    assert (first.seed, second.seed) == (5, 6)
    assert first.architecture.leak == 0.5
    assert (first.architecture.cell, first.architecture.orthogonal) == ("leaky", True)
    assert (first.training.epochs, first.training.learning_rate) == (40, 0.01)
    assert (first.flossing.k, first.flossing.time_steps) == (2, 18)
    assert (first.evaluate_every, first.measured_exponents) == (20, 3)
    shown = capsys.readouterr().out
    assert "-0.250 → -0.250" in shown
    assert "-2.250 → -2.250" in shown
    assert "98.0 %" in shown
    assert [run.configuration for run in Store(tmp_path).runs()[0]] == [first, second]


def test_train_shows_the_error_of_a_regression(quick, capsys):
    arguments = ["train", "adding-problem:steps=20", "--size", "4", "--epochs", "3"]
    assert main([*arguments, "--exponents", "0", "--evaluate-every", "1"]) == 0
    shown = capsys.readouterr().out
    assert "error" in shown
    assert "0.25" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "juggling"], "there is no task 'juggling'"),
        (["train", "digits", "--gain", "1", "--leak", "2"], "leak is 2.0"),
        (["train", "digits", "--cell", "lstm", "--form", "rate"], "only a tanh network has"),
        (["sweep", "nowhere.toml", "--output", "runs"], "there is no file 'nowhere.toml'"),
    ],
)
def test_mistakes_are_told(arguments, message, quick, capsys):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert quick == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "--learning-rate", "-1"], "'-1' is not a positive number"),
        (["train", "digits", "--floss", "often"], "invalid choice: 'often'"),
        (["train", "digits", "--output", __file__], "is a file"),
        (["sweep", "grid.toml"], "--output"),
        (
            ["sweep", "g.toml", "--output", "r", "--workers", "2", "--dask", "tcp://x"],
            "not allowed",
        ),
        (["report", "runs", "--output", "runs.pdf"], "should end in one of .html, .htm, .md"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "sweep", "report"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"  flossing {command} " in capsys.readouterr().out


def test_a_failure_is_told_with_its_configuration(quick, monkeypatch, tmp_path, capsys):
    from flossing.errors import NonFiniteError

    def failing(configurations, *, checkpoint, report):
        raise NonFiniteError("the state is not finite")

    functions = {"run_together": failing, "may_run_together": lambda a, b: False}
    for name, function in functions.items():
        monkeypatch.setattr(f"flossing_lab.training.trainer.{name}", function)
    assert main(["train", "digits:rows=true", "--size", "4", "--output", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "the state is not finite" in told
    assert "digits:rows=true, tanh, size 4, flossing none, seed 0" in told
    assert told.count("\n") == 1
    assert len(told) < 300
