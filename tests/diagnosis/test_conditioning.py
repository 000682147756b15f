"""The section about the long-term Jacobian."""

import math

import pytest
import torch
from torch import nn

import flossing


def test_a_map_whose_singular_values_are_known(linear_study, section_of):
    section = section_of("conditioning", linear_study([0.1, -0.1, -0.3], horizon=10))
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
    assert "Over 10 steps errors along the last of the 3 leading directions" in section.meaning[0]
    assert "55 times weaker" in section.meaning[0]
    assert "3 of these directions stand out" in section.meaning[0]
    assert len(section.tables[0].rows) == 10
    assert section.notes == ()


def test_numbers_are_those_of_the_analysis(stock_study, section_of):
    torch.manual_seed(0)
    study = stock_study(nn.LSTM(1, 4), steps=120)
    numbers = section_of("conditioning", study).numbers
    expected = flossing.long_term_jacobian(
        study.network.module,
        study.inputs,
        horizons=numbers["horizons"],
        k=4,
        origins=4,
        dtype=torch.float64,
    )
    assert numbers["directions"] == 4
    assert numbers["horizons"][-1] == 40
    assert numbers["origins"] == expected.origins.tolist()
    assert numbers["log10_condition_quartiles"] == expected.log10_condition_quartiles.tolist()


def test_directions_below_the_rounding_are_counted(linear_study, section_of):
    # float64 carries 36.04 nats: 10 steps of −4 are beyond, those of −3 are not.
    section = section_of("conditioning", linear_study([0.0, -3.0, -4.0], horizon=10))
    assert "2 of these directions stand out" in section.meaning[0]


def test_a_sequence_shorter_than_the_horizon(linear_study, section_of):
    section = section_of("conditioning", linear_study([0.0, -0.1], horizon=100))
    assert section.numbers["horizons"][-1] == 25
    assert "leaves room for 25 steps only" in section.meaning[0]
    # exp(0.1 · 100)
    assert "a condition number of 10⁴ expect" in section.meaning[0]


def test_lost_directions(linear_study, section_of):
    section = section_of("conditioning", linear_study([0.0, -math.inf], horizon=10))
    assert "the last of the 2 leading directions is lost entirely" in section.meaning[0]
    assert section.numbers["log10_condition_quartiles"][1][-1] == math.inf
    assert any("the Jacobians lose rank" in note for note in section.notes)


def test_one_direction(linear_study, section_of):
    section = section_of("conditioning", linear_study([0.0]))
    assert section.meaning == ("A state of one dimension has only one direction.",)
