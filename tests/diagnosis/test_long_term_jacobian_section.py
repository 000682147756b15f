"""The section about the long-term Jacobian."""

import math

import pytest
import torch
from torch import nn

import flossing


def test_a_map_whose_singular_values_are_known(linear_subject, section_of):
    section = section_of("conditioning", linear_subject([0.1, -0.1, -0.3], horizon=10))
    numbers = section.numbers
    assert numbers["horizons"] == [1, 2, 3, 4, 6, 8, 10, 12, 16, 20]
    assert numbers["directions"] == 3
    expected = [0.4 * steps / math.log(10) for steps in numbers["horizons"]]
    assert numbers["log10_condition_quartiles"][1] == pytest.approx(expected)
    # The exponents are those of a random frame that is still turning.
    assert numbers["predicted_log10_condition"] == pytest.approx(expected, rel=0.1)
    logs = torch.tensor(numbers["median_log_singular_values"])
    torch.testing.assert_close(logs[6], torch.tensor([1.0, -1.0, -3.0]), rtol=1e-4, atol=0)
    # exp(0.4 · 10) = 54.6
    assert "Over 10 steps, the median condition number is 55" in section.meaning[0]
    assert "In float64, the contributions of 3 of" in section.meaning[0]
    assert len(section.tables[0].rows) == 10
    assert section.notes == ()


def test_numbers_are_those_of_the_analysis(stock_subject, section_of):
    torch.manual_seed(0)
    subject = stock_subject(nn.LSTM(1, 4), steps=120)
    numbers = section_of("conditioning", subject).numbers
    expected = flossing.long_term_jacobian(
        subject.network.module,
        subject.inputs,
        horizons=numbers["horizons"],
        k=4,
        origins=4,
        dtype=torch.float64,
    )
    assert numbers["directions"] == 4
    assert numbers["horizons"][-1] == 40
    assert numbers["origins"] == expected.origins.tolist()
    assert numbers["log10_condition_quartiles"] == expected.log10_condition_quartiles.tolist()


def test_directions_below_the_rounding_are_counted(linear_subject, section_of):
    # float64 carries 36.04 nats: 10 steps of −4 are beyond, those of −3 are not.
    section = section_of("conditioning", linear_subject([0.0, -3.0, -4.0], horizon=10))
    assert "In float64, the contributions of 2 of" in section.meaning[0]


def test_a_sequence_shorter_than_the_horizon(linear_subject, section_of):
    section = section_of("conditioning", linear_subject([0.0, -0.1], horizon=100))
    assert section.numbers["horizons"][-1] == 25
    assert "Over 25 steps" in section.meaning[0]
    # exp(0.1 · 100)
    assert (
        "horizon of 100 steps the exponents predict a condition number of 10⁴"
        in (section.meaning[0])
    )


def test_lost_directions(linear_subject, section_of):
    section = section_of("conditioning", linear_subject([0.0, -math.inf], horizon=10))
    assert "lost completely" in section.meaning[0]
    assert section.numbers["log10_condition_quartiles"][1][-1] == math.inf
    assert any("the Jacobians lose rank" in note for note in section.notes)


def test_one_direction(linear_subject, section_of):
    section = section_of("conditioning", linear_subject([0.0]))
    assert "single direction" in section.meaning[0]
    assert section.numbers == {}
