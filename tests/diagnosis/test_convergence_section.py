"""The section about whether the sequence was long enough."""

import math

import pytest
import torch
from torch import nn

import flossing
from flossing.diagnosis.advice import average, count_directions
from flossing.diagnosis.sections.convergence import convergence_section, drifts


def test_a_stationary_map_has_settled():
    spectrum = flossing.lyapunov_spectrum(
        lambda x: 4 * x * (1 - x),
        state=torch.tensor([[0.3], [0.4]], dtype=torch.float64),
        steps=4000,
        reorthonormalize=1,
    )
    course = flossing.convergence(spectrum)
    exponents, _ = average(spectrum)
    (drift,) = drifts(course, exponents).tolist()
    halfway = int((course.steps[:, 0] - course.steps[-1, 0] / 2).abs().argmin())
    moved = exponents[0] - course.exponents[halfway].mean()
    error = course.standard_error[halfway].square().sum().sqrt() / 2
    assert drift == pytest.approx(float(moved / error))
    assert abs(drift) < 3


def test_a_drifting_exponent_is_found(stock_subject, section_of):
    torch.manual_seed(0)
    subject = stock_subject(nn.RNN(1, 3), steps=400)
    # The second half saturates the units.
    subject.inputs[200:] *= 20
    section = section_of("convergence", subject)
    assert "Not all exponents have converged" in section.meaning[0]
    assert max(map(abs, section.numbers["drift"])) > 3


def test_numbers_are_those_of_the_analysis(stock_subject, section_of):
    subject = stock_subject(nn.GRU(1, 4), steps=300)
    section = section_of("convergence", subject)
    course = flossing.convergence(subject.spectrum, points=50)
    exponents, errors = average(subject.spectrum)
    numbers = section.numbers
    assert numbers["largest_standard_error"] == pytest.approx(float(errors.max()))
    assert numbers["steps"] == course.steps[:, 0].tolist()
    assert numbers["running_indices"] == [1, 2, 3, 4]
    assert numbers["running_exponents"][-1] == pytest.approx(exponents.tolist())
    widths = torch.tensor(numbers["half_widths"][-1]) / errors
    torch.testing.assert_close(widths, torch.full((4,), 1.959964, dtype=torch.float64))
    assert "The exponents have converged" in section.meaning[0]
    assert "1080 steps would halve them" in section.meaning[0]


def test_how_many_steps_would_tell(stock_subject):
    torch.manual_seed(0)
    rnn = nn.RNN(1, 20)
    spectrum = stock_subject(rnn, steps=60).spectrum
    exponents, errors = average(spectrum)
    horizon = next(
        each for each in range(1, 400) if count_directions(exponents, errors, each).uncertain
    )
    words = convergence_section(stock_subject(rnn, steps=60, horizon=horizon)).meaning[0]
    distances = (exponents.abs() - math.log(1000) / horizon).abs()
    near = distances < 2 * errors
    factor = float((2 * errors / distances)[near].square().max())
    assert f"would take about {float(f'{54 * factor:.2g}'):.0f} steps" in words


def test_too_few_intervals_tell_nothing(stock_subject, section_of):
    section = section_of("convergence", stock_subject(nn.RNN(1, 3), steps=1))
    assert "too short to judge" in section.meaning[0]
    assert "standard errors are unknown" in section.meaning[0]
    assert section.numbers["largest_standard_error"] == math.inf


def test_a_constant_map_has_no_error_and_no_drift(linear_subject, section_of):
    section = section_of("convergence", linear_subject([0.0, -0.5, -math.inf]))
    assert "The exponents have converged: none of the 2" in section.meaning[0]
    assert math.isnan(section.numbers["drift"][2])
