"""Running exponents and their bands, against prefixes of the run and exact standard errors."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing
from flossing.errors import InvalidOptionError

# ψ(j/2) and ψ′(j/2) for j = 2, 1: products of Gaussian 2 × 2 matrices have exact exponents
# ½(ln 2 + ψ) and, with a factorisation at every step, exact standard errors √(ψ′/4T).
DIGAMMA = (-0.5772156649015329, -1.9635100260214235)
TRIGAMMA = (math.pi**2 / 6, math.pi**2 / 2)


def gaussian_products(steps, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, batch, 2, 2, dtype=torch.float64, generator=generator)


def spectrum_of(jacobians, **options):
    return flossing.log_growth_rates(jacobians, reorthonormalize=1, **options)


def test_every_point_is_a_run_that_ended_there():
    jacobians = gaussian_products(60, batch=2)
    course = flossing.convergence(spectrum_of(jacobians), points=8)
    assert course.steps[0].tolist() == [1, 1]
    assert course.steps[-1].tolist() == [60, 60]
    assert bool((course.steps.diff(dim=0) > 0).all())
    order = spectrum_of(jacobians).order
    for steps, exponents, errors in zip(
        course.steps[:, 0].tolist(), course.exponents, course.standard_error, strict=True
    ):
        whole = spectrum_of(jacobians[:steps])
        torch.testing.assert_close(exponents, (whole.log_growth / steps).gather(-1, order))
        columns = whole.standard_error.gather(-1, whole.order.argsort(dim=-1))
        torch.testing.assert_close(errors, columns.gather(-1, order))


def test_standard_errors_are_those_of_theory():
    course = flossing.convergence(spectrum_of(gaussian_products(4000, batch=8)), points=5)
    for steps, errors in zip(course.steps[2:, 0], course.standard_error[2:], strict=True):
        expected = [math.sqrt(trigamma / 4 / float(steps)) for trigamma in TRIGAMMA]
        tolerance = 0.3 if steps < 1000 else 0.1
        assert errors.mean(dim=0).tolist() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_bands_cover_the_truth_as_often_as_they_say(level):
    spectrum = spectrum_of(gaussian_products(300, batch=400))
    course = flossing.convergence(spectrum, points=1, level=level)
    exact = torch.tensor([0.5 * (math.log(2) + each) for each in DIGAMMA], dtype=torch.float64)
    covered = (course.lower[-1] < exact) & (exact < course.upper[-1])
    assert covered.double().mean().item() == pytest.approx(level, abs=0.05)


def test_shorter_trajectories_end_earlier():
    rnn = nn.GRU(1, 3, dtype=torch.float64)
    inputs = torch.randn(50, 2, 1, dtype=torch.float64)
    packed = pack_padded_sequence(inputs, torch.tensor([50, 17]))
    frame = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64)).Q
    options = {"reorthonormalize": 1, "frame_transient": 2}
    spectrum = flossing.lyapunov_spectrum(rnn, packed, frame=frame, **options)
    course = flossing.convergence(spectrum, points=4)
    short = flossing.lyapunov_spectrum(rnn, inputs[:17, 1:], frame=frame[1:], **options)
    assert course.steps[-1].tolist() == [48, 15]
    ended = course.exponents[:, 1, 0].isnan()
    assert ended.tolist() == (course.steps[:, 0] > 15).tolist()
    assert 0 < int(ended.sum()) < len(ended)
    torch.testing.assert_close(course.exponents[~ended][-1, 1], short.exponents[0].detach())
    torch.testing.assert_close(course.standard_error[~ended][-1, 1], short.standard_error[0])
    assert bool(course.upper[ended][:, 1].isnan().all())
    assert not bool(course.exponents[:, 0].isnan().any())


def test_an_exponent_of_minus_infinity_says_nothing_of_its_error():
    jacobians = gaussian_products(20)
    jacobians[10, :, 1] = 0.0
    with pytest.warns(flossing.LostRankWarning):
        spectrum = spectrum_of(jacobians)
    course = flossing.convergence(spectrum, points=20)
    before = course.steps[:, 0] <= 10
    assert bool(course.exponents[before].isfinite().all())
    assert bool(torch.isneginf(course.exponents[~before][:, 0, 1]).all())
    assert bool(torch.isneginf(course.lower[~before][:, 0, 1]).all())
    assert bool(torch.isposinf(course.upper[~before][:, 0, 1]).all())
    assert bool(course.upper[~before][:, 0, 0].isfinite().all())


def test_a_constant_map_has_no_error_from_the_second_interval_on():
    course = flossing.convergence(spectrum_of(0.5 * torch.eye(2).double().expand(9, 1, 2, 2)))
    assert course.steps[:, 0].tolist() == list(range(1, 10))
    assert bool(torch.isinf(course.standard_error[0]).all())
    assert float(course.standard_error[1:].abs().max()) < 1e-9


def test_a_single_interval_and_units_of_time():
    spectrum = spectrum_of(gaussian_products(1), dt=0.1)
    course = flossing.convergence(spectrum)
    torch.testing.assert_close(course.exponents[0], spectrum.exponents)
    assert course.dt == 0.1
    longer = flossing.convergence(replace(spectrum_of(gaussian_products(40), dt=0.1)))
    plain = flossing.convergence(spectrum_of(gaussian_products(40)))
    torch.testing.assert_close(longer.standard_error, plain.standard_error * 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "points is 0"),
        ({"level": 0.0}, "between 0 and 1, not 0.0"),
        ({"level": 95.0}, "between 0 and 1, not 95.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.convergence(spectrum_of(gaussian_products(5)), **options)
