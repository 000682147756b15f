"""Kaplan–Yorke dimension and entropy, with errors, where exponents are zero or are not."""

import math

import pytest
import torch

import flossing


def spectrum_of(step, state, steps, **options):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(step, state=state, steps=steps, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.1, 1.0, 2.5])
def test_a_rotation_fills_the_plane(dtype, angle):
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=dtype)
    found = spectrum_of(lambda x: x @ matrix.T, torch.ones(1, 2, dtype=dtype), 400)
    assert found.kaplan_yorke_dimension.item() == 2
    assert found.kaplan_yorke_dimension_error.item() == 0
    assert found.entropy_rate.item() == 0
    # Both count as zero, and are known but for rounding.
    assert found.entropy_rate_error.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_an_orthogonal_map_fills_the_space(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q.to(
        dtype
    )
    found = spectrum_of(lambda x: x @ matrix.T, torch.ones(1, 6, dtype=dtype), 300)
    assert found.kaplan_yorke_dimension.item() == 6
    assert found.entropy_rate.item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_limit_cycle_has_one_dimension(dtype):
    # Rotation of the phase, and relaxation of the radius to one.
    def step(x):
        radius = x.square().sum(-1, keepdim=True).sqrt()
        turned = torch.stack([x[..., 0] - 0.3 * x[..., 1], 0.3 * x[..., 0] + x[..., 1]], dim=-1)
        return turned / math.hypot(1, 0.3) * (1 + 0.5 * (1 - radius))

    found = spectrum_of(step, torch.tensor([[0.5, 0.1]], dtype=dtype), 2000)
    assert found.kaplan_yorke_dimension.item() == 1
    # D = 1 + λ_1 / |λ_2|, and λ_1 counts as zero: its error is that of the dimension, scaled.
    first, second = found.standard_error[0, 0].item(), found.exponents[0, 1].item()
    error = found.kaplan_yorke_dimension_error.item()
    assert error == pytest.approx(first / abs(second), rel=1e-4)
    assert found.entropy_rate.item() == 0
    assert found.entropy_rate_error.item() == pytest.approx(first, rel=1e-4)
    assert found.exponents[0, 1].item() == pytest.approx(math.log(0.5), abs=1e-2)


def test_a_stable_cycle_has_no_dimension():
    found = spectrum_of(
        lambda x: 3.2 * x * (1 - x), torch.tensor([[0.3]], dtype=torch.float64), 500
    )
    assert found.kaplan_yorke_dimension.item() == 0
    assert found.kaplan_yorke_dimension_error.item() == 0
    assert found.entropy_rate.item() == 0


@pytest.mark.parametrize("steps", [5_000, 40_000])
def test_the_henon_map(steps):
    def step(x):
        return torch.stack([1 - 1.4 * x[..., 0] ** 2 + x[..., 1], 0.3 * x[..., 0]], dim=-1)

    found = spectrum_of(step, torch.tensor([[0.1, 0.1]], dtype=torch.float64), steps)
    dimension, error = found.kaplan_yorke_dimension, found.kaplan_yorke_dimension_error
    assert abs(dimension.item() - 1.258267) < 3 * error.item()
    # λ_1 + λ_2 = ln 0.3 exactly, so D = 2 − ln 0.3 / λ_2 and its error follows from that of λ_1.
    first, second = found.exponents[0].tolist()
    expected = found.standard_error[0, 0].item() * abs(math.log(0.3)) / second**2
    assert error.item() == pytest.approx(expected, rel=1e-3)
    assert found.entropy_rate.item() == first
    assert found.entropy_rate_error.item() == pytest.approx(found.standard_error[0, 0].item())


def test_too_few_exponents():
    jacobians = torch.diag(torch.tensor([2.0, 1.5, 0.1], dtype=torch.float64)).expand(50, 1, 3, 3)
    found = flossing.log_growth_rates(jacobians, k=2, frame_transient=30)
    with pytest.warns(flossing.NumericalWarning, match="larger k"):
        assert found.kaplan_yorke_dimension.isnan().all()
    assert found.kaplan_yorke_dimension_error.isnan().all()


def test_a_single_interval_has_no_error_bars():
    jacobians = torch.diag(torch.tensor([0.5, 0.25], dtype=torch.float64)).expand(1, 1, 2, 2)
    found = flossing.log_growth_rates(jacobians)
    assert found.kaplan_yorke_dimension_error.isinf().all()
    assert found.entropy_rate_error.isinf().all()


def test_a_direction_that_is_lost():
    jacobians = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64)).expand(50, 1, 2, 2)
    with pytest.warns(flossing.LostRankWarning):
        found = flossing.log_growth_rates(jacobians, frame_transient=30)
    assert found.kaplan_yorke_dimension.item() == 1
    assert found.kaplan_yorke_dimension_error.item() == 0


def test_advice_about_precision_follows_the_precision():
    jacobians = torch.zeros(5, 1, 2, 2)
    with pytest.warns(flossing.LostRankWarning, match="float64") as single:
        flossing.log_growth_rates(jacobians)
    with pytest.warns(flossing.LostRankWarning) as double:
        flossing.log_growth_rates(jacobians.double())
    assert "dtype=torch.float64" in str(single[0].message)
    assert "dtype=" not in str(double[0].message)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_advice_about_an_interval_follows_the_precision(dtype):
    jacobians = torch.diag(torch.tensor([1.0, 1e-3], dtype=dtype)).expand(60, 1, 2, 2)
    with pytest.warns(flossing.IntervalWarning, match="smaller interval") as caught:
        flossing.log_growth_rates(jacobians, reorthonormalize=30)
    told = [each for each in caught if each.category is flossing.IntervalWarning]
    assert ("dtype=torch.float64" in str(told[0].message)) is (dtype == torch.float32)


def test_the_version_is_told():
    assert flossing.__version__
