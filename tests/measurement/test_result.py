"""Error bars, Kaplan–Yorke dimension, entropy rate, and the order of exponents."""

import dataclasses

import pytest
import torch

import flossing
from flossing.measurement.statistics import standard_error


def spectrum_of(exponents, size=None):
    """A spectrum with the given exponents, from diagonal Jacobians."""
    exponents = torch.tensor(exponents, dtype=torch.float64)
    size = size or exponents.shape[-1]
    measured = flossing.log_growth_rates(
        torch.eye(size, dtype=torch.float64).expand(2, len(exponents), size, size),
        exponents.shape[-1],
    )
    return dataclasses.replace(measured, exponents=exponents)


class TestKaplanYorkeDimension:
    @pytest.mark.parametrize(
        ("exponents", "expected"),
        [
            ([[0.9, 0.0, -14.5]], 2 + 0.9 / 14.5),
            ([[-0.1, -0.2]], 0.0),
            ([[0.0, -1.0]], 1.0),
            ([[0.5, -0.5, -1.0]], 2.0),
            ([[0.5, 0.1]], 2.0),
            ([[0.3, -torch.inf]], 1.0),
        ],
    )
    def test_values(self, exponents, expected):
        assert spectrum_of(exponents).kaplan_yorke_dimension.item() == pytest.approx(expected)

    def test_too_few_exponents(self):
        spectrum = spectrum_of([[0.5, -0.1], [0.5, -0.9]], size=5)
        with pytest.warns(flossing.NumericalWarning, match="first 2 of 5.*larger k"):
            dimension = spectrum.kaplan_yorke_dimension
        assert bool(dimension[0].isnan())
        assert dimension[1].item() == pytest.approx(1 + 0.5 / 0.9)


class TestEntropyRate:
    def test_is_the_sum_of_positive_exponents(self):
        spectrum = spectrum_of([[0.5, 0.2, -1.0], [-0.1, -0.2, -torch.inf]])
        torch.testing.assert_close(
            spectrum.entropy_rate, torch.tensor([0.7, 0.0], dtype=torch.float64)
        )

    def test_warns_when_incomplete(self):
        with pytest.warns(flossing.NumericalWarning, match="lower bound.*larger k"):
            assert spectrum_of([[0.5, 0.2]], size=4).entropy_rate.item() == pytest.approx(0.7)


class TestStandardError:
    @pytest.mark.parametrize("memory", [0.0, 0.8, -0.5])
    def test_accounts_for_autocorrelation(self, memory):
        # An AR(1) process, whose mean has the variance (1 + ρ)/(1 − ρ) times that of white noise.
        generator = torch.Generator().manual_seed(2)
        noise = torch.randn(20_000, 4, dtype=torch.float64, generator=generator)
        series = noise.clone()
        for step in range(1, len(series)):
            series[step] += memory * series[step - 1]
        expected = 1 / (1 - memory) / len(series) ** 0.5
        found = standard_error(series, torch.ones(len(series), dtype=torch.long))
        torch.testing.assert_close(
            found, torch.full((4,), expected, dtype=torch.float64), rtol=0.15, atol=0
        )

    def test_intervals_of_different_length(self):
        generator = torch.Generator().manual_seed(3)
        steps = torch.randint(1, 6, (4000,), generator=generator)
        drift = 0.3
        noise = torch.randn(4000, 1, dtype=torch.float64, generator=generator)
        growth = drift * steps.unsqueeze(-1) + steps.sqrt().unsqueeze(-1) * noise
        found = standard_error(growth, steps).item()
        assert found == pytest.approx(float(steps.sum()) ** -0.5, rel=0.1)

    @pytest.mark.parametrize(
        "growth", [torch.ones(1, 2), torch.tensor([[0.0, 1.0], [-torch.inf, 1.0]])]
    )
    def test_unknown_errors_are_infinite(self, growth):
        found = standard_error(growth, torch.ones(len(growth), dtype=torch.long))
        assert bool(torch.isinf(found[0]))

    def test_constant_growth_has_no_error(self):
        assert standard_error(torch.ones(10, 1), torch.ones(10, dtype=torch.long)).item() == 0


class TestOrder:
    def test_exponents_descend_and_everything_follows(self):
        jacobians = torch.randn(7, 3, 5, 5, dtype=torch.float64)
        spectrum = flossing.log_growth_rates(jacobians, reorthonormalize=2)
        assert bool((spectrum.exponents.diff(dim=-1) <= 0).all())
        steps = spectrum.interval_steps.unsqueeze(-1)
        mean = (spectrum.local * steps).sum(0) / steps.sum(0)
        torch.testing.assert_close(mean, spectrum.exponents)
        by_column = spectrum.log_growth.gather(-1, spectrum.order) / 7
        torch.testing.assert_close(by_column, spectrum.exponents)
        assert spectrum.interval_steps[:, 0].tolist() == [2, 2, 2, 1]
        assert spectrum.counted_steps.tolist() == [7, 7, 7]
