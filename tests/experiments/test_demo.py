import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from flossing.experiments.demo import (
    FLOSSED,
    Demo,
    demo_configurations,
    records_document,
    results_table,
)
from flossing.experiments.demo_figure import demo_figure
from flossing.experiments.training import run
from flossing.tasks import Digits, TemporalXor

DEMO = Demo(output=Path("unused.png"), quick=True)


@pytest.fixture(scope="module")
def records():
    return [
        run(configuration, seed=0)
        for configuration in demo_configurations(["digits", "xor"], quick=True)
    ]


def shown(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_set_up_is_the_published_one():
    xor, digits = FLOSSED["xor"], FLOSSED["digits"]
    assert xor.task == TemporalXor(delay=40, steps=300)
    assert (xor.architecture.size, xor.architecture.gain, xor.batch_size) == (80, 1.0, 16)
    assert (xor.learning_rate, xor.max_gradient_norm) == (1e-3, 0.03)
    assert (xor.flossing.k, xor.flossing.steps, xor.flossing.time_steps) == (75, 500, 55)
    assert (xor.flossing.state_transient, xor.flossing.frame_transient) == (10, 6)
    assert digits.task == Digits(hold=60)
    assert digits.architecture.initialisation == "gaussian"
    assert (digits.architecture.size, digits.architecture.gain, digits.batch_size) == (128, 1.0, 64)
    assert (digits.learning_rate, digits.max_gradient_norm) == (1e-3, 1.0)
    assert digits.training_steps == 1200
    assert (digits.flossing.k, digits.flossing.steps) == (96, 400)
    assert digits.flossing.time_steps == 100


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
    accuracies = [f"{100 * record.final_accuracy:.1f}" for record in records]
    assert [row[3] for row in rows] == accuracies
    first_exponents = [f"{record.exponents[0]:.3f}" for record in records]
    assert [row[5] for row in rows] == first_exponents


def test_table_says_that_it_is_quick(records):
    assert "quick" in shown(results_table(records, quick=True))
    assert "quick" not in shown(results_table(records))


def test_document_is_json_with_all_that_the_numbers_depend_on(records):
    document = json.loads(json.dumps(records_document(records, DEMO, 1.5), allow_nan=False))
    assert document["wall_clock_seconds"] == 1.5
    assert {"python", "torch", "flossing", "processors"} <= document["environment"].keys()
    first = document["runs"][0]
    assert first["configuration"]["task"] == {
        "name": "Digits",
        "kind": "categorical",
        "hold": 2,
        "filler": "blank",
        "rows": True,
        "test_fraction": 0.2,
        "split_seed": 0,
        "steps": 10,
    }
    assert first["configuration"]["architecture"]["size"] == 16
    assert [each["configuration"]["flossing"] is None for each in document["runs"]] == [
        True,
        False,
    ] * 2
    assert first["exponents"] == list(records[0].exponents)


def test_document_holds_infinite_exponents(records):
    lost = replace(records[0], exponents=(0.0, -math.inf))
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
