"""`flossing reproduce` from the outside, on given runs."""

import shutil
from dataclasses import dataclass, replace

import pytest
from made_up import made_up, opened

from flossing.cli import main
from flossing.errors import DamagedRunWarning, UnreadableFileError
from flossing.report.model import Table
from flossing_lab.runs.setups import as_released
from flossing_lab.studies import measuring
from flossing_lab.studies.page import page
from flossing_lab.studies.paper import fig3_before_training
from flossing_lab.studies.paper.fig3_before_training import configurations
from flossing_lab.studies.record import Record, read_record, read_records, write_record
from flossing_lab.studies.registry import STUDIES
from flossing_lab.studies.study import Finding, Measurement, Results, Study
from flossing_lab.studies.training_runs import TrainingSize

SMALL = TrainingSize(delays=(20, 40), seeds=3, epochs=4, network_size=16, evaluate_every=2)


@dataclass(frozen=True)
class Setting:
    seed: int


def measure(setting):
    return {"square": setting.seed**2}


def findings(results):
    total = sum(each.numbers["square"] for each in results.measurements)
    return [Finding("The sum is large.", f"It is {total}.", agrees=total > 100)]


SQUARES = Study(
    name="squares",
    title="Squares",
    settings={"quick": list(map(Setting, range(3))), "full": list(map(Setting, range(9)))},
    measure=measure,
    tables=lambda results: (Table("Sums", ("what", "sum"), (("squares", 1),)),),
    findings=findings,
)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A small figure 3, a study that measures, and the list of the configurations that were run."""
    run = []

    def run_together(configurations, *, checkpoint, report):
        report("training", 1, 1)
        run.extend(configurations)
        return [made_up(each, lambda each: 40 if each.flossing else 20) for each in configurations]

    monkeypatch.setattr("flossing_lab.sweeps.sweep.opened", opened)
    monkeypatch.setattr("flossing_lab.training.trainer.run_together", run_together)
    monkeypatch.setattr(measuring, "opened", opened)
    small = configurations(SMALL)
    study = replace(fig3_before_training.STUDY, configurations={"quick": small, "full": small})
    monkeypatch.setitem(STUDIES, "fig3", study)
    monkeypatch.setitem(STUDIES, "squares", SQUARES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return run


def test_runs_draws_and_writes_the_page(asked, tmp_path, capsys):
    assert main(["reproduce", "fig3"]) == 0
    folder = tmp_path / "reproduction"
    assert len(asked) == 2 * 2 * 2 * 3
    assert (folder / "fig3.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "reproduction.md").read_text(encoding="utf-8")
    assert "![Figure 3: flossing before training](fig3.png)" in text
    assert text.count("| *agrees* |") == 4
    our_way = "our set-up, sequences of 60 to 120 steps"
    assert f"24 training runs (at most 4 epochs, {our_way}), seeds 0, 1, 2; 60 s" in text
    assert "| 24 | 0 | 60 |" in text
    assert "existed already" not in text
    assert "- torch made up" in text
    shown = capsys.readouterr().out
    assert "agrees: Delayed copy, d = 40" in shown
    assert "Page: reproduction/reproduction.md" in shown


def test_the_set_up_of_the_released_code(asked, tmp_path):
    assert main(["reproduce", "fig3", "--setup", "released"]) == 0
    assert len(asked) == 24
    assert all(as_released(each) == each for each in asked)
    assert {each.training.epochs for each in asked} == {4}
    text = (tmp_path / "reproduction/reproduction.md").read_text(encoding="utf-8")
    assert "(at most 4 epochs, the set-up of the released code, sequences of 300 steps)" in text
    assert "| quick | released code | 4 | 0 | 0 |" in text


@pytest.mark.parametrize(
    "others", [["horizon"], ["fig3", "schedule"], ["fig3", "--from", "somewhere"]]
)
def test_the_set_up_of_the_released_code_is_for_figures(asked, others, capsys):
    assert main(["reproduce", *others, "--setup", "released"]) != 0
    assert "fig1 … fig6" in capsys.readouterr().err
    assert not asked


def test_nothing_is_run_twice(asked, tmp_path):
    for _ in range(2):
        assert main(["reproduce", "fig3"]) == 0
    assert len(asked) == 24
    text = (tmp_path / "reproduction/reproduction.md").read_text(encoding="utf-8")
    assert "did 0 of these; the others existed already" in text


def test_runs_that_are_recorded_are_not_run_again(asked, monkeypatch, tmp_path):
    assert main(["reproduce", "fig3"]) == 0
    shutil.rmtree(tmp_path / "reproduction/runs")
    more = configurations(replace(SMALL, seeds=4))
    monkeypatch.setitem(STUDIES, "fig3", replace(STUDIES["fig3"], configurations={"full": more}))
    assert main(["reproduce", "fig3", "--full"]) == 0
    assert len(asked) == 32
    assert len({each.digest for each in asked}) == 32
    record = read_record(tmp_path / "reproduction/records/fig3.jsonl")
    assert [each.configuration for each in record.results.runs] == more
    assert record.done == 8


def test_a_damaged_record_is_set_aside_and_its_runs_are_run_again(asked, tmp_path):
    assert main(["reproduce", "fig3"]) == 0
    shutil.rmtree(tmp_path / "reproduction/runs")
    path = tmp_path / "reproduction/records/fig3.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"accuracy": 0.99', b'"accuracy": 0.98', 1))
    with pytest.warns(DamagedRunWarning, match=r"fig3.jsonl' is not a whole record .*set aside"):
        assert main(["reproduce", "fig3"]) == 0
    assert len(asked) == 48
    assert len(path.read_bytes().splitlines()) == len(whole.splitlines())
    assert path.with_name("fig3.jsonl.damaged").exists()


def test_page_and_figures_follow_from_the_records(asked, tmp_path):
    assert main(["reproduce", "fig3", "squares", "--output", "first"]) == 0
    again = ["reproduce", "squares", "fig3", "--from", "first/records", "--output", "second"]
    assert main(again) == 0
    assert len(asked) == 24
    first, second = tmp_path / "first", tmp_path / "second"
    names = {"reproduction.md", "records/fig3.jsonl", "records/squares.jsonl", "fig3.png"}
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert not (second / "runs").exists()
    # In place, too.
    assert main(["reproduce", "fig3", "--from", "second/records", "--output", "second"]) == 0


def test_a_study_without_a_figure_is_on_the_page(asked, tmp_path):
    for arguments in (["squares"], ["squares", "--full"]):
        assert main(["reproduce", *arguments]) == 0
        record = read_record(tmp_path / "reproduction/records/squares.jsonl")
        assert record.done == len(record.results.measurements) - 3 * (record.size == "full")
    text = (tmp_path / "reproduction/reproduction.md").read_text(encoding="utf-8")
    assert "| what | sum |" in text
    assert "*agrees*: The sum is large. It is 204." in text
    assert "![Squares]" not in text
    assert "**Paper.**" not in text


def test_bad_names_and_missing_records(asked, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "fig7"])
    assert "there is no 'fig7': choose among fig1" in capsys.readouterr().err
    assert main(["reproduce", "all", "--from", str(tmp_path)]) == 1
    assert "there is no record of fig1, fig2" in capsys.readouterr().err


def test_what_is_finished(asked, monkeypatch, tmp_path, capsys):
    assert main(["reproduce", "squares"]) == 0
    five = replace(SQUARES, settings={"quick": list(map(Setting, range(5)))})
    monkeypatch.setitem(STUDIES, "squares", five)
    assert main(["reproduce", "squares", "--finished"]) == 1
    error = capsys.readouterr().err
    assert "3 of 5 runs and measurements of squares are finished, and all are needed" in error
    monkeypatch.setitem(STUDIES, "squares", replace(five, partial=True))
    assert main(["reproduce", "squares", "--finished"]) == 0
    text = (tmp_path / "reproduction/reproduction.md").read_text(encoding="utf-8")
    assert "It is 5." in text
    assert "2 of the 5 planned are not finished." in text
    assert len(list((tmp_path / "reproduction/measurements").iterdir())) == 3
    assert main(["reproduce", "squares", "--finished", "--output", "empty"]) == 1
    assert "0 of 5" in capsys.readouterr().err
    assert main(["reproduce", "fig3", "--finished"]) == 1
    assert asked == []


def test_missing_runs_are_named(asked, monkeypatch, tmp_path):
    assert main(["reproduce", "fig3"]) == 0
    more = configurations(replace(SMALL, delays=(20, 40, 70), seeds=4))
    monkeypatch.setitem(STUDIES, "fig3", replace(STUDIES["fig3"], configurations={"full": more}))
    assert main(["reproduce", "fig3", "--full", "--finished"]) == 0
    assert len(asked) == 24
    text = (tmp_path / "reproduction/reproduction.md").read_text(encoding="utf-8")
    assert "24 of the 48 planned are not finished." in text
    missing = ", ".join(
        f"{task}:delay={delay},steps={steps} ({networks})"
        for task in ("delayed-copy", "temporal-xor")
        for delay, steps, networks in ((20, 60, 1), (40, 120, 1), (70, 210, 4))
    )
    assert f"- gaussian tanh, flossing before: {missing}" in text


def test_a_cut_record_is_refused(tmp_path):
    results = Results(measurements=(Measurement(setting={"seed": 0}, numbers={}, seconds=1.0),))
    record = Record(
        study="squares", size="quick", results=results, planned=3, done=1, wall_clock_seconds=2.0
    )
    path = tmp_path / "squares.jsonl"
    write_record(path, record)
    assert read_record(path) == record
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for damaged in (lines[0], whole[:-9], whole.replace(b"2.0", b"3.0"), b""):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableFileError, match="not a whole record"):
            read_record(path)


def test_a_renamed_study_is_found_under_its_former_name(asked, monkeypatch, tmp_path):
    former = Record(
        study="rivals", size="full", results=Results(), planned=0, done=0, wall_clock_seconds=0.0
    )
    folder = tmp_path / "former"
    write_record(folder / "rivals.jsonl", former)
    monkeypatch.setitem(STUDIES, "baselines", replace(SQUARES, name="baselines"))
    assert main(["reproduce", "rivals", "--from", "former"]) == 0
    assert read_record(tmp_path / "reproduction/records/baselines.jsonl").size == "full"
    # A newer record under the new name replaces it.
    write_record(folder / "baselines.jsonl", replace(former, study="baselines", size="quick"))
    assert read_records(folder)["baselines"].size == "quick"


def test_undecided_findings_are_called_so():
    study = replace(SQUARES, findings=lambda results: [Finding("So.", "Who knows.", None)])
    record = Record(
        study="squares", size="quick", results=Results(), planned=0, done=0, wall_clock_seconds=0.0
    )
    text = page({"squares": record}, {"squares": study})
    assert "- *undecided*: So. Who knows." in text
    assert "| Squares | quick | ours | 0 | 0 | 1 | 0 | 0 | 0 |" in text
