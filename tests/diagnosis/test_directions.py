"""The section about covariant vectors."""

import math

import pytest
import torch
from torch import nn

import flossing
from flossing.report.model import Section


def test_numbers_are_those_of_the_analysis(stock_study, section_of):
    torch.manual_seed(0)
    study = stock_study(nn.RNN(1, 5), steps=150, state_transient=10)
    section = section_of("directions", study)
    found = flossing.covariant_vectors(
        study.network.module, study.inputs, k=5, state_transient=10, dtype=torch.float64
    )
    numbers = section.numbers
    assert numbers["points"] == len(found.steps)
    assert numbers["exponents"] == pytest.approx(found.exponents.mean(dim=0).tolist())
    assert numbers["smallest_angle_quantiles"][0] == pytest.approx(
        float(found.smallest_angle.min())
    )
    ratios = found.inverse_participation_ratio.mean(dim=(0, 1))
    assert numbers["inverse_participation_ratio"] == pytest.approx(ratios.tolist())
    assert len(section.figures) == 2
    assert [row[0] for row in section.tables[0].rows] == [1, 2, 3, 5]


def test_the_vectors_of_a_diagonal_map_are_its_axes(linear_study, section_of):
    section = section_of("directions", linear_study([6.0, 0.0, -6.0]))
    assert section.numbers["smallest_angle_quantiles"] == pytest.approx([math.pi / 2] * 5)
    assert section.numbers["inverse_participation_ratio"] == pytest.approx([1.0] * 3)
    assert "is 90°, and 90° at a typical point: none is near a tangency" in section.meaning[0]
    assert "spread over about 1 of the 3 entries" in section.meaning[0]


def test_directions_that_nearly_coincide(linear_study, section_of):
    study = linear_study([0.5, 0.0])
    with torch.no_grad():
        # Eigenvectors (1, 0) and (1, 0.001).
        study.network.module.matrix[0, 1] = (1 - math.exp(0.5)) / 0.001
    section = section_of("directions", study)
    assert section.numbers["smallest_angle_quantiles"][0] == pytest.approx(0.001, rel=1e-3)
    assert "at 100 % of the points some two are less than 0.01 rad apart" in section.meaning[0]


def test_one_direction(linear_study, section_of):
    section = section_of("directions", linear_study([0.0]))
    assert section.meaning == ("A state of one dimension has only one direction.",)


def test_lost_directions_are_noted(linear_study, section_of):
    section = section_of("directions", linear_study([0.0, -math.inf]))
    assert any("rank was lost" in note for note in section.notes)


def test_too_few_steps_are_said(stock_study, section_of):
    section = section_of("directions", stock_study(nn.RNN(1, 3), steps=1))
    assert isinstance(section, Section)
    assert section.heading == "Covariant Lyapunov vectors"
