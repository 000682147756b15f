import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from flossing.tasks import Digits, TemporalXor
from flossing_lab.demo.demo import (
    FLOSSED,
    Demo,
    demo_configurations,
    records_document,
    results_table,
)
from flossing_lab.demo.figure import DemoRun, demo_figure
from flossing_lab.runs.configuration import Architecture, Training, configuration_from
from flossing_lab.training.trainer import run

DEMO = Demo(output=Path("unused.png"), quick=True)


@pytest.fixture(scope="module")
def records():
    return [
        DemoRun(run=run(configuration), k=12)
        for configuration in demo_configurations(["digits", "xor"], quick=True)
    ]


def shown(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_set_up_is_the_published_one():
    xor, digits = FLOSSED["xor"], FLOSSED["digits"]
    assert xor.task == TemporalXor(delay=40, steps=300)
    assert xor.architecture == Architecture(size=80, gain=1.0, form="rate")
    assert xor.training == Training(
        epochs=1500, batch_size=16, learning_rate=1e-3, max_gradient_norm=0.03
    )
    assert (xor.flossing.k, xor.flossing.time_steps, xor.flossing.sequences) == (75, 55, 1)
    assert (xor.flossing.state_transient, xor.flossing.frame_transient) == (10, 6)
    assert digits.task == Digits(hold=60)
    assert digits.architecture == Architecture(size=128, gain=1.0)
    assert digits.training == Training(
        epochs=1200, batch_size=64, learning_rate=1e-3, max_gradient_norm=1.0
    )
    assert (digits.flossing.k, digits.flossing.time_steps) == (96, 100)
    for each, steps in ((xor, 500), (digits, 400)):
        schedule = each.flossing.schedule
        assert (schedule["before"], schedule["times"]) == (steps, 0)
        assert (schedule["lr"], schedule["training_lr"]) == (1e-3, 1e-3)
        assert schedule["tolerance"] is None


@pytest.mark.parametrize("quick", [False, True])
def test_the_arms_of_a_task_differ_in_flossing_alone(quick):
    without, flossed = demo_configurations(["xor"], quick=quick)
    assert without.flossing is None
    assert without == replace(flossed, flossing=None)


def test_table_fits_a_terminal_and_shows_every_run(records):
    text = shown(results_table(records))
    assert "…" not in text
    lines = (line.strip() for line in text.splitlines())
    rows = [line.split() for line in lines if line.startswith(("digits", "XOR"))]
    assert [row[2] for row in rows] == ["without", "flossed"] * 2
    accuracies = [f"{100 * record.run.final.accuracy:.1f}" for record in records]
    assert [row[3] for row in rows] == accuracies
    first_exponents = [f"{record.run.evaluations[0].exponents[0]:.3f}" for record in records]
    assert [row[5] for row in rows] == first_exponents


def test_table_says_that_it_is_quick(records):
    assert "quick" in shown(results_table(records, quick=True))
    assert "quick" not in shown(results_table(records))


def test_document_is_json_with_all_that_the_numbers_depend_on(records):
    document = json.loads(json.dumps(records_document(records, DEMO, 1.5), allow_nan=False))
    assert document["wall_clock_seconds"] == 1.5
    assert {"python", "torch", "flossing", "processors"} <= document["environment"].keys()
    first = document["runs"][0]
    assert configuration_from(first["configuration"]) == records[0].run.configuration
    assert first["learning_curve"][0].keys() == {"step", "accuracy", "loss", "gradient_norm"}
    assert [each["configuration"]["flossing"] is None for each in document["runs"]] == [
        True,
        False,
    ] * 2
    assert first["exponents"] == list(records[0].run.evaluations[0].exponents)


def test_document_holds_infinite_exponents(records):
    run = records[0].run
    first = replace(run.evaluations[0], exponents=(0.0, -math.inf))
    lost = replace(records[0], run=replace(run, evaluations=(first, *run.evaluations[1:])))
    document = records_document([lost], DEMO, 1.0)
    assert json.loads(json.dumps(document, allow_nan=False))["runs"][0]["exponents"] == [
        0.0,
        "-inf",
    ]


def test_figure_has_a_row_for_each_task(records):
    figure = demo_figure(records)
    assert len(figure.subfigs) == 2
    assert [len(part.axes) for part in figure.subfigs] == [3, 3]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["without flossing", "flossed before training"]
    units = [axes.get_xlabel() for axes in figure.subfigs[0].axes]
    assert units == ["index of the exponent", "lag (steps)", "training step"]


def test_curves_are_told_apart_without_colour(records):
    axes = demo_figure(records[:2]).subfigs[0].axes[2]
    without, flossed = (line for line in axes.lines if not line.get_label().startswith("_"))
    assert without.get_linestyle() != flossed.get_linestyle()
    assert without.get_marker() != flossed.get_marker()


def test_a_written_record_has_what_the_committed_ones_have(records):
    committed = Path(__file__).parents[2] / "docs" / "figures" / "demo.json"
    old = json.loads(committed.read_text(encoding="utf-8"))
    new = records_document(records, DEMO, 1.0)
    assert new.keys() == old.keys()
    assert new["runs"][0].keys() == old["runs"][0].keys()
    assert new["runs"][0]["learning_curve"][0].keys() == old["runs"][0]["learning_curve"][0].keys()
