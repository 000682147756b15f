"""The section about covariant vectors."""

import math

import pytest
import torch
from torch import nn

import flossing


def test_numbers_are_those_of_the_analysis(stock_subject, section_of):
    torch.manual_seed(0)
    subject = stock_subject(nn.RNN(1, 5), steps=150, state_transient=10)
    section = section_of("directions", subject)
    found = flossing.covariant_vectors(
        subject.network.module, subject.inputs, k=5, state_transient=10, dtype=torch.float64
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


def test_the_vectors_of_a_diagonal_map_are_its_axes(linear_subject, section_of):
    section = section_of("directions", linear_subject([6.0, 0.0, -6.0]))
    assert section.numbers["smallest_angle_quantiles"] == pytest.approx([math.pi / 2] * 5)
    assert section.numbers["inverse_participation_ratio"] == pytest.approx([1.0] * 3)
    assert section.numbers["share_near_tangency"] == 0
    assert "a median of 90° and a minimum of 90°" in section.meaning[0]
    assert "nowhere below 0.01 rad" in section.meaning[0]
    assert "about 1 of the 3 components" in section.meaning[0]


def test_directions_that_nearly_coincide(linear_subject, section_of):
    subject = linear_subject([0.5, 0.0])
    with torch.no_grad():
        # Eigenvectors (1, 0) and (1, 0.001).
        subject.network.module.matrix[0, 1] = (1 - math.exp(0.5)) / 0.001
    section = section_of("directions", subject)
    assert section.numbers["smallest_angle_quantiles"][0] == pytest.approx(0.001, rel=1e-3)
    assert section.numbers["share_near_tangency"] == 1
    assert "at 100 % of the points" in section.meaning[0]


def test_one_direction(linear_subject, section_of):
    section = section_of("directions", linear_subject([0.0]))
    assert "single direction" in section.meaning[0]
    assert section.numbers == {}


def test_lost_directions_are_noted(linear_subject, section_of):
    section = section_of("directions", linear_subject([0.0, -math.inf]))
    assert any("rank was lost" in note for note in section.notes)


def test_a_single_step(stock_subject, section_of):
    section = section_of("directions", stock_subject(nn.RNN(1, 3), steps=1))
    assert section.heading == "Covariant Lyapunov vectors"
    assert section.numbers["directions"] == 3
