"""Kaplan–Yorke dimensions of systems whose dimension is known, from ten initial states each."""

import math

import pytest
import torch

import flossing


def found_from(step, states, steps, **options):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(step, state=states, steps=steps, **options)


def initial_states(size, *, around=0.0, spread=1.0, dtype=torch.float64):
    noise = torch.randn(10, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (around + spread * noise).to(dtype)


def runge_kutta(rate, dt):
    def step(x):
        first = rate(x)
        second = rate(x + dt / 2 * first)
        third = rate(x + dt / 2 * second)
        return x + dt / 6 * (first + 2 * second + 2 * third + rate(x + dt * third))

    return step


def lorenz(x):
    x, y, z = x.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], dim=-1)


def rossler(x):
    x, y, z = x.unbind(-1)
    return torch.stack([-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)], dim=-1)


def van_der_pol(x):
    x, y = x.unbind(-1)
    return torch.stack([y, 2 * (1 - x * x) * y - x], dim=-1)


def henon(x):
    return torch.stack([1 - 1.4 * x[..., 0] ** 2 + x[..., 1], 0.3 * x[..., 0]], dim=-1)


def two_cycles(x):
    """Return two limit cycles side by side, of incommensurate frequencies: a torus."""
    points = x.unflatten(-1, (2, 2))
    radius = points.square().sum(-1, keepdim=True).sqrt()
    angle = torch.tensor([0.3, 0.3 * math.sqrt(2)], dtype=x.dtype)
    first, second = points.unbind(-1)
    turned = torch.stack(
        [angle.cos() * first - angle.sin() * second, angle.sin() * first + angle.cos() * second],
        dim=-1,
    )
    return (turned * (1 + 0.5 * (1 - radius))).flatten(-2)


def coupled_phases(x):
    first, second, third = x.unbind(-1)
    return torch.stack(
        [
            first + 0.7 + 0.3 * second.sin(),
            second + 0.7 * math.sqrt(2) + 0.2 * first.sin(),
            0.5 * third + first.cos(),
        ],
        dim=-1,
    )


def standard_map(kick):
    def step(x):
        angle, momentum = x.unbind(-1)
        momentum = momentum + kick * angle.sin()
        return torch.stack([angle + momentum, momentum], dim=-1).remainder(2 * math.pi)

    return step


def froeschle_map(x):
    first, momentum, second, other = x.unbind(-1)
    shared = 0.3 * (first + second).sin()
    momentum = momentum + 1.5 * first.sin() + shared
    other = other + 1.2 * second.sin() + shared
    new = torch.stack([first + momentum, momentum, second + other, other], dim=-1)
    return new.remainder(2 * math.pi)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_limit_cycles_make_a_torus(dtype):
    found = found_from(two_cycles, initial_states(4, dtype=dtype), 600)
    assert found.kaplan_yorke_dimension.tolist() == [2] * 10
    assert (found.kaplan_yorke_dimension_error < 1e-6).all()


def test_coupled_phases_make_a_torus():
    found = found_from(coupled_phases, initial_states(3), 1500)
    assert found.kaplan_yorke_dimension.tolist() == [2] * 10
    assert (found.kaplan_yorke_dimension_error < 0.01).all()
    assert (found.kaplan_yorke_dimension_error > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("step", "size", "around"),
    [
        pytest.param(standard_map(0.5), 2, torch.tensor([math.pi, 0.0]), id="regular"),
        pytest.param(standard_map(7.0), 2, 0.0, id="chaotic"),
        pytest.param(froeschle_map, 4, 0.0, id="two degrees of freedom"),
    ],
)
def test_a_conservative_map_fills_its_space(step, size, around, dtype):
    states = initial_states(size, around=around, spread=0.3, dtype=dtype)
    found = found_from(step, states, 1000)
    assert found.kaplan_yorke_dimension.tolist() == pytest.approx([size] * 10, abs=1e-6)
    # Volumes are conserved: that is known, whatever the errors of single exponents.
    assert (found.kaplan_yorke_dimension_error < 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_limit_cycle_of_an_equation(dtype):
    found = found_from(
        runge_kutta(van_der_pol, 0.05), initial_states(2, dtype=dtype), 3000, state_transient=400
    )
    assert found.kaplan_yorke_dimension.tolist() == [1] * 10
    assert found.entropy_rate.tolist() == [0] * 10
    # Whether λ_1 is zero is known up to its error, which the entropy inherits.
    assert torch.equal(found.entropy_rate_error > 0, torch.ones(10, dtype=torch.bool))


@pytest.mark.parametrize(
    ("step", "size", "dt", "steps", "dimension"),
    [
        pytest.param(henon, 2, 1.0, 6000, 1.258, id="Henon"),
        pytest.param(runge_kutta(lorenz, 0.02), 3, 0.02, 6000, 2.062, id="Lorenz"),
        pytest.param(runge_kutta(rossler, 0.05), 3, 0.05, 12000, 2.013, id="Rossler"),
    ],
)
def test_strange_attractors(step, size, dt, steps, dimension):
    states = initial_states(size, spread=0.1)
    found = found_from(step, states, steps, dt=dt, state_transient=500)
    error = found.kaplan_yorke_dimension_error
    assert ((found.kaplan_yorke_dimension - dimension).abs() < 3 * error).all()
    # An error bar that is too wide says nothing either.
    assert (error < 0.02).all()
