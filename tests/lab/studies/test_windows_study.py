"""The study of window lengths: measured on tiny networks, drawn, tabulated and judged."""

from dataclasses import asdict

import pytest

from flossing_lab.studies.study import Measurement, Results
from flossing_lab.studies.windows import study as windows
from flossing_lab.studies.windows.study import Way

WAYS = [
    Way("published", 30, 30, 0),
    Way("published", 18, 18, 4),
    Way("published", 18, 30, 4),
    Way("published", 30, 30, 4),
    Way("published", 30, 30, 2),
    Way("small", 30, 30, 4),
    Way("small", 30, 30, 8),
]
SETTINGS = windows.settings(
    WAYS,
    seeds=6,
    k=(2,),
    network_size=6,
    horizons=(5, 10),
    origins=2,
    analysed=40,
    transient=5,
)


def results(condition):
    """Results in which log10 of the condition number is `condition(setting)`."""
    return Results(
        measurements=tuple(
            Measurement(
                setting=asdict(each),
                numbers={"log10_condition": [1.0, condition(each)]},
                seconds=2.0,
            )
            for each in SETTINGS
        )
    )


def ideal(setting):
    if not setting.steps:
        return 100.0
    return 4.0 if setting.window == 30 else 40.0 if setting.length == 30 else 50.0


def test_every_way_is_measured_for_one_seed_before_the_next():
    assert [(each.seed, each.window, each.steps) for each in SETTINGS[:8]] == [
        *((0, way.window, way.steps) for way in WAYS),
        (1, 30, 0),
    ]
    quick = windows.settings()
    assert len(quick) == len(set(quick))
    # As many time steps in long windows as in short ones.
    assert {way.window * way.steps for way in windows.ways() if 0 < way.steps < 500} == {92 * 300}


def test_flossing_changes_what_is_measured():
    settings = [each for each in SETTINGS if each.seed == 0]
    found = [windows.measure(each) for each in settings]
    assert len({tuple(each["log10_condition"]) for each in found}) == len(WAYS)
    assert all(len(each["exponents"]) == 2 for each in found)


# Of "published": whether the limit holds; of "small": the same, after 4 steps and after 8; whole
# sequences against the first steps, and against random windows.
@pytest.mark.parametrize(
    ("condition", "agrees"),
    [
        (ideal, [True, True, True, True, True]),
        # One network of one way above the limit.
        (
            lambda each: 5.1 if (each.step_size, each.seed) == ("small", 3) else ideal(each),
            [True, False, False, True, True],
        ),
        # One of six pairs is the other way round: a fair coin does as well with 11 %.
        (
            lambda each: 3.0 if (each.length, each.seed) == (18, 3) else ideal(each),
            [True, True, True, None, True],
        ),
        (lambda each: 3.0 if each.window == 18 else 4.0, [True, True, True, False, False]),
    ],
)
def test_findings(condition, agrees):
    assert [each.agrees for each in windows.findings(results(condition))] == agrees


def test_table_and_figure():
    (table,) = windows.tables(results(ideal))
    assert [row[:3] for row in table.rows] == [
        ("not flossed", "–", "0"),
        ("first 18 steps", "0.001", "4"),
        ("random 18 steps", "0.001", "4"),
        ("whole sequences", "0.001", "4"),
        ("whole sequences", "0.001", "2"),
        ("whole sequences", "0.003 to 0.001", "4"),
        ("whole sequences", "0.003 to 0.001", "8"),
    ]
    assert [row[3] for row in table.rows][:2] == ["100 (100 to 100)", "50 (50 to 50)"]
    (axes,) = windows.draw(results(ideal)).axes
    curve = next(line for line in axes.lines if line.get_label() == "4 × 0.001")
    assert curve.get_xydata().tolist() == [[18.0, 40.0], [30.0, 4.0]]
