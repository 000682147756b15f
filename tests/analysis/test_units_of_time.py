"""Rates per unit of time: with dt they are those per step over dt, in every analysis."""

import math

import pytest
import torch
from torch import nn

import flossing
from flossing import InvalidOptionError
from flossing.plots import (
    plot_condition_number,
    plot_convergence,
    plot_gradient_horizon,
    plot_singular_values,
    plot_weight_spectrum,
)

DT = 0.25


@pytest.fixture(scope="module")
def driven():
    torch.manual_seed(0)
    return nn.GRU(2, 5).double(), torch.randn(80, 2, 2).double()


def both(analyse, driven, **options):
    return analyse(*driven, **options), analyse(*driven, dt=DT, **options)


def test_gradient_horizon(driven):
    per_step, per_time = both(flossing.gradient_horizon, driven, loss=lambda y: y[-1].sum())
    torch.testing.assert_close(per_time.exponent, per_step.exponent / DT)
    for name in ("worst", "random", "error"):
        steps, time = getattr(per_step, name), getattr(per_time, name)
        torch.testing.assert_close(time.slope, steps.slope / DT)
        assert torch.equal(time.log_norm, steps.log_norm)
        assert torch.equal(time.vanishing_lag, steps.vanishing_lag)
    assert (per_step.dt, per_time.dt) == (1.0, DT)
    axes = plot_gradient_horizon(per_time)
    assert axes.get_xlabel() == "lag (units of time)"
    times, heights = axes.lines[0].get_data()
    assert times[-1] == 80 * DT
    # The slope of this line is the exponent, in decades per unit of time.
    slope = per_time.exponent.mean().item() / math.log(10)
    assert heights[-1] / times[-1] == pytest.approx(slope)
    assert plot_gradient_horizon(per_step).lines[0].get_ydata()[-1] == pytest.approx(heights[-1])


def test_long_term_jacobian(driven):
    per_step, per_time = both(flossing.long_term_jacobian, driven, horizons=[10, 20])
    torch.testing.assert_close(per_time.exponents, per_step.exponents / DT)
    assert torch.equal(per_time.log_singular_values, per_step.log_singular_values)
    torch.testing.assert_close(
        per_time.predicted_log10_condition, per_step.predicted_log10_condition
    )
    for draw in (plot_condition_number, plot_singular_values):
        axes = draw(per_time)
        assert axes.get_xlabel() == "horizon s (units of time)"
        assert axes.lines[0].get_xdata().tolist() == [10 * DT, 20 * DT]
        assert draw(per_step).get_xlabel() == "horizon s (steps)"


def test_covariant_vectors(driven):
    per_step, per_time = both(flossing.covariant_vectors, driven, every=3)
    torch.testing.assert_close(per_time.local, per_step.local / DT)
    torch.testing.assert_close(per_time.exponents, per_step.exponents / DT)
    assert torch.equal(per_time.vectors, per_step.vectors)
    assert torch.equal(per_time.steps, per_step.steps)
    assert per_time.dt == DT


def test_dynamical_context(driven):
    per_step, per_time = both(flossing.dynamical_context, driven)
    torch.testing.assert_close(per_time.spectrum.exponents, per_step.spectrum.exponents / DT)
    torch.testing.assert_close(per_time.volume_growth_rate, per_step.volume_growth_rate / DT)
    torch.testing.assert_close(per_time.entropy_rate, per_step.entropy_rate / DT)
    torch.testing.assert_close(per_time.kaplan_yorke_dimension, per_step.kaplan_yorke_dimension)
    # exp(λ₁) is the growth of a step, whatever the unit of time.
    drawn = [plot_weight_spectrum(each).lines[1].get_label() for each in (per_step, per_time)]
    assert drawn[0] == drawn[1]


def test_convergence(driven):
    spectrum = flossing.lyapunov_spectrum(*driven, dt=DT, reorthonormalize=1)
    course = flossing.convergence(spectrum)
    torch.testing.assert_close(course.exponents[-1], spectrum.exponents.detach(), check_dtype=False)
    axes = plot_convergence(course)
    assert axes.get_xlabel() == "counted time (units of time)"
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(72 * DT)
    assert "unit of time" in axes.get_ylabel()


def test_a_closed_loop():
    rnn = nn.RNN(1, 3).double()
    loop = flossing.closed_loop(rnn, lambda output: output[..., :1])
    state = torch.full((1, 1, 3), 0.1).double()
    options = {"state": state, "steps": 60}
    steps = flossing.lyapunov_spectrum(loop, **options)
    time = flossing.lyapunov_spectrum(loop, **options, dt=DT)
    torch.testing.assert_close(time.exponents, steps.exponents / DT)
    slow = flossing.gradient_horizon(loop, **options, dt=DT).exponent
    torch.testing.assert_close(slow, flossing.gradient_horizon(loop, **options).exponent / DT)


def test_a_flow_has_the_rates_of_its_equation():
    # x' = A x by Euler steps: rates are the eigenvalues of A in the limit of small steps.
    rates = torch.tensor([-0.5, -2.0], dtype=torch.float64)
    state = torch.ones(1, 2, dtype=torch.float64)
    for dt in (0.1, 0.05):
        options = {"state": state, "steps": 300, "dt": dt}

        def step(x, dt=dt):
            return x + dt * rates * x

        expected = pytest.approx(rates.tolist(), rel=2 * dt)
        found = flossing.covariant_vectors(step, **options).exponents
        assert sorted(found[0].tolist(), reverse=True) == expected
        found = flossing.dynamical_context(step, **options)
        assert found.volume_growth_rate.item() == pytest.approx(-2.5, rel=2 * dt)


@pytest.mark.parametrize("dt", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "analyse",
    [
        flossing.covariant_vectors,
        flossing.dynamical_context,
        flossing.gradient_horizon,
        flossing.long_term_jacobian,
    ],
)
def test_impossible_durations(driven, analyse, dt):
    with pytest.raises(InvalidOptionError, match="dt must be a positive duration"):
        analyse(*driven, dt=dt)


def test_results_by_position_are_per_step():
    local = torch.zeros(1, 1, 2)
    found = flossing.CovariantVectors(torch.zeros(2, 1, 2, 2), torch.arange(2), local)
    assert found.dt == 1.0
