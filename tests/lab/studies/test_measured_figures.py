"""Figures 1, 2 and the lower half of 6: measured on tiny networks, drawn and judged."""

from dataclasses import replace

import pytest

from flossing_lab.studies.measuring import measurement_document, measurement_from
from flossing_lab.studies.paper import (
    fig1_controlled_exponents,
    fig2_condition_number,
    fig6_architectures,
)
from flossing_lab.studies.study import Measurement, Results

EXPONENTS = fig1_controlled_exponents.settings(
    networks=5, spectra=5, k=(1, 2), steps=3, network_size=4, spectrum_size=8, spectrum_steps=40
)
CONDITION = fig2_condition_number.settings(
    seeds=3,
    k=(2, 5),
    network_size=6,
    flossing_steps=5,
    long_window=60,
    horizons=(1, 5, 10),
    origins=3,
    steps=60,
    transient=10,
)


def measured(study, settings):
    documents = [
        {
            "setting": setting.__dict__,
            "numbers": study.measure(setting),
            "seconds": 1.0,
            "environment": {},
        }
        for setting in settings
    ]
    # As read from a file.
    found = [measurement_from(measurement_document(measurement_from(d))) for d in documents]
    return Results(measurements=tuple(found))


@pytest.fixture(scope="module")
def exponents():
    return measured(fig1_controlled_exponents.STUDY, EXPONENTS)


@pytest.fixture(scope="module")
def condition():
    return measured(fig2_condition_number.STUDY, CONDITION)


def test_every_target_and_k_is_measured(exponents):
    settings = [(each.setting["k"], each.setting["target"]) for each in exponents.measurements]
    driven = [(1, target) for target in (-1.0, -0.5, 0.0) for _ in range(5)]
    assert settings == [*driven, *((k, 0.0) for k in (1, 2) for _ in range(5))]
    gains = {each.numbers["gain"] for each in exponents.measurements}
    assert len(gains) == 6
    assert all(0 < gain <= 1 for gain in gains)
    assert {each.numbers["gain"] for each in exponents.measurements[15:]} == {1.0}


def test_flossing_moves_the_largest_exponent_to_its_target():
    setting = fig1_controlled_exponents.ExponentSetting(
        seed=1, k=1, target=-1.0, gain=None, steps=60, network_size=8, spectrum_steps=60
    )
    numbers = fig1_controlled_exponents.measure(setting)
    assert len(numbers["spectrum_after"]) == 8
    assert numbers["steps"] == list(range(60))
    assert abs(numbers["largest"][-1] + 1) < 0.5 * abs(numbers["largest"][0] + 1)
    assert numbers["loss"][-1] < 0.25 * numbers["loss"][0]


def test_exponents_are_drawn(exponents):
    figure = fig1_controlled_exponents.draw(exponents)
    lines, losses, spectra = figure.axes
    # Five networks and the target itself, for three targets.
    assert len(lines.lines) == 3 * (5 + 1)
    assert len(losses.lines) == 3
    assert [text.get_text() for text in spectra.get_legend().get_texts()] == [
        "before flossing",
        "after, k = 1",
        "after, k = 2",
    ]


def ideal(measurement, *, miss=0.0, cliff=0):
    """Numbers as the paper claims them, or with exponents or the cliff off."""
    k, target = measurement.setting["k"], measurement.setting["target"]
    numbers = dict(measurement.numbers)
    numbers["largest"] = [-2.0] + [target + miss] * 20
    numbers["loss"] = [1.0] + [1e-4 + miss**2] * 20
    numbers["spectrum_before"] = [-1.0 - index for index in range(8)]
    numbers["spectrum_after"] = [
        (miss if i < k else -0.04) if i < k + cliff else -1.0 - 0.1 * i for i in range(8)
    ]
    return replace(measurement, numbers=numbers)


@pytest.mark.parametrize(("cliff", "agrees"), [(0, True), (1, True), (2, False)])
def test_a_cliff_one_index_off_is_a_cliff(exponents, cliff, agrees):
    told = Results(measurements=tuple(ideal(each, cliff=cliff) for each in exponents.measurements))
    *_, two, near = fig1_controlled_exponents.findings(told)
    assert (two.agrees, near.agrees) == (agrees, True)


@pytest.mark.parametrize(("miss", "agrees"), [(0.0, True), (0.7, False)])
def test_verdicts_on_exponents_follow_from_the_numbers(exponents, miss, agrees):
    told = Results(measurements=tuple(ideal(each, miss=miss) for each in exponents.measurements))
    findings = fig1_controlled_exponents.findings(told)
    assert [finding.agrees for finding in findings] == [agrees, agrees, True, True, agrees]
    shown = "0 of 5 (0 to 52 %), at most 0.7" if miss else "5 of 5 (48 to 100 %), at most 0"
    assert f"−1: {shown} away; −0.5: {shown} away; 0: {shown} away." in findings[0].found


def test_condition_numbers_repeat_and_flossing_changes_them(condition):
    first = condition.measurements[2]
    again = fig2_condition_number.measure(CONDITION[2])
    assert again == first.numbers
    assert len({str(first.numbers[arm]) for arm in fig2_condition_number.ARMS}) == 4
    assert len({each.setting["seed"] for each in condition.measurements}) == 6
    assert len(first.numbers["before"]["exponents"]) == 2


def test_condition_numbers_are_drawn(condition):
    figure = fig2_condition_number.draw(condition)
    *above, before, after, long = figure.axes
    for panel in above:
        # For every k a median and a prediction; and the legend's line.
        assert len(panel.lines) == 2 * 2 + 1
    assert len(before.lines) == len(after.lines) == len(long.lines) == 5
    assert before.get_ylim() == after.get_ylim() == long.get_ylim()


def grown(measurement, after, long, *, predicted):
    ends = {"before": 100.0, "after": after, "again": after, "long": long}
    return Measurement(
        setting=measurement.setting,
        numbers={
            arm: {
                "log10_condition_quartiles": [[0.0, end / 2, end]] * 3,
                "predicted_log10_condition": [0.0, end / 2, end * predicted],
            }
            for arm, end in ends.items()
        },
        seconds=0.0,
    )


@pytest.mark.parametrize(
    ("after", "long", "predicted", "agrees"),
    [
        (20.0, 5.0, 1.1, [True, False, True, True]),
        (6.0, 8.0, 1.1, [True, True, False, True]),
        (120.0, 5.0, 0.7, [False, False, True, False]),
    ],
)
def test_verdicts_on_condition_numbers_follow_from_the_numbers(
    condition, after, long, predicted, agrees
):
    told = [grown(each, after, long, predicted=predicted) for each in condition.measurements]
    findings = fig2_condition_number.findings(Results(measurements=tuple(told)))
    assert [finding.agrees for finding in findings] == agrees
    assert f"k = 5: 10^100 before, 10^{after:.3g} after windows" in findings[0].found


@pytest.mark.parametrize("name", fig6_architectures.ARCHITECTURES)
def test_singular_values_of_the_gradient(name):
    setting = fig6_architectures.GradientSetting(
        name=name, seed=0, network_size=6, delay=4, steps=20, flossing_steps=5
    )
    numbers = fig6_architectures.measure(setting)
    for arm in fig6_architectures.ARMS:
        values = numbers[arm]["singular_values"]
        assert len(values) == 6
        assert values == sorted(values, reverse=True)
        assert values[0] > 0
        squares = [value**2 for value in values]
        ratio = sum(squares) ** 2 / sum(each**2 for each in squares)
        assert numbers[arm]["participation_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert numbers["none"] != numbers["before"]
