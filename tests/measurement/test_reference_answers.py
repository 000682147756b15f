"""Systems whose exponents are known exactly, or to many digits, from theory."""

import math
import warnings

import pytest
import torch
from torch import nn

import flossing


def linear(weight):
    return lambda state: state @ weight.T


def random_matrix(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, dtype=torch.float64, generator=generator) / size**0.5


def random_orthogonal(size, seed=0):
    return torch.linalg.qr(random_matrix(size, seed)).Q


def exponents(system, state, steps, **options):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(system, state=state, steps=steps, **options).exponents


class TestLinearMaps:
    def test_exponents_are_log_moduli_of_eigenvalues(self):
        # Distinct moduli: real eigenvalues, so that the convergence is exponential.
        basis = random_matrix(5, seed=3)
        eigenvalues = torch.tensor([1.5, -1.1, 0.8, 0.5, -0.3], dtype=torch.float64)
        weight = basis @ torch.diag(eigenvalues) @ torch.linalg.inv(basis)
        found = exponents(
            linear(weight), torch.zeros(1, 5, dtype=torch.float64), 600, frame_transient=300
        )
        torch.testing.assert_close(found[0], eigenvalues.abs().log(), atol=1e-12, rtol=0)

    def test_moduli_of_complex_eigenvalues(self):
        weight = random_matrix(6)
        found = exponents(
            linear(weight), torch.zeros(1, 6, dtype=torch.float64), 2000, reorthonormalize=4
        )
        expected = torch.linalg.eigvals(weight).abs().log().sort(descending=True).values
        # Within a complex pair the rates oscillate: the error of the mean is of order 1/steps.
        torch.testing.assert_close(found[0], expected, atol=2e-3, rtol=0)

    @pytest.mark.parametrize("gain", [1.0, 0.7, 2.5])
    def test_scaled_orthogonal_map(self, gain):
        weight = gain * random_orthogonal(7)
        found = exponents(linear(weight), torch.zeros(1, 7, dtype=torch.float64), 50)
        expected = torch.full((1, 7), math.log(gain), dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)

    def test_gradient_of_the_sum_is_the_inverse_transpose(self):
        weight = random_matrix(5).requires_grad_()
        spectrum = flossing.lyapunov_spectrum(
            linear(weight), state=torch.zeros(1, 5, dtype=torch.float64), steps=20
        )
        (gradient,) = torch.autograd.grad(spectrum.exponents.sum(), weight)
        torch.testing.assert_close(
            gradient, torch.linalg.inv(weight.detach()).T, rtol=1e-10, atol=1e-10
        )


class TestFixedPoints:
    def test_tanh_at_the_origin(self):
        weight = 0.7 * random_matrix(5, seed=1)
        rnn = nn.RNN(1, 5, bias=False, dtype=torch.float64)
        rnn.weight_hh_l0.data = weight
        with torch.no_grad():
            spectrum = flossing.lyapunov_spectrum(rnn, torch.zeros(2000, 1, 1, dtype=torch.float64))
        expected = torch.linalg.eigvals(weight).abs().log().sort(descending=True).values
        assert torch.linalg.eigvals(weight).abs().max() < 1
        torch.testing.assert_close(spectrum.exponents[0], expected, atol=2e-3, rtol=0)

    @pytest.mark.parametrize("rate", [0.1, 0.5])
    def test_leaky_network_per_unit_time(self, rate):
        basis = random_matrix(4, seed=2)
        moduli = torch.tensor([0.9, 0.4, -0.2, -0.7], dtype=torch.float64)
        weight = basis @ torch.diag(moduli) @ torch.linalg.inv(basis)

        def leaky(state):
            return (1 - rate) * state + rate * torch.tanh(state @ weight.T)

        found = exponents(
            leaky, torch.zeros(1, 4, dtype=torch.float64), 1500, frame_transient=1000, dt=rate
        )
        expected = ((1 - rate + rate * moduli).abs().log() / rate).sort(descending=True).values
        torch.testing.assert_close(found[0], expected, atol=1e-10, rtol=0)

    def test_scalar_tanh_with_two_fixed_points(self):
        found = exponents(
            lambda h: torch.tanh(1.5 * h),
            torch.tensor([0.5], dtype=torch.float64),
            1000,
            state_transient=300,
        )
        assert found.item() == pytest.approx(-0.930610204, abs=5e-10)

    def test_scalar_tanh_with_period_two(self):
        found = exponents(
            lambda h: torch.tanh(-2 * h),
            torch.tensor([0.5], dtype=torch.float64),
            1000,
            state_transient=300,
            frame_transient=0,
        )
        assert found.item() == pytest.approx(-1.793528507, abs=5e-10)

    def test_gru_without_recurrent_weights_and_input(self):
        gru = nn.GRU(1, 3, dtype=torch.float64)
        nn.init.zeros_(gru.weight_hh_l0)
        update_bias = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
        gru.bias_ih_l0.data[3:6] = update_bias / 4
        gru.bias_hh_l0.data[3:6] = 3 * update_bias / 4
        spectrum = flossing.lyapunov_spectrum(
            gru, torch.zeros(200, 1, 1, dtype=torch.float64), frame_transient=100
        )
        expected = torch.sigmoid(update_bias).log().sort(descending=True).values
        torch.testing.assert_close(spectrum.exponents[0].detach(), expected, atol=1e-10, rtol=0)
        (gradient,) = torch.autograd.grad(spectrum.exponents.sum(), gru.bias_hh_l0)
        torch.testing.assert_close(gradient[3:6], 1 - torch.sigmoid(update_bias), atol=1e-9, rtol=0)


class TestChaoticMaps:
    def test_logistic_map_at_four(self):
        starts = 0.1 + 0.8 * torch.rand(400, 1, dtype=torch.float64)
        with torch.no_grad():
            found = flossing.lyapunov_spectrum(
                lambda x: 4 * x * (1 - x), state=starts, steps=1000
            ).exponents
        error = float(found.std()) / 400**0.5
        assert found.mean().item() == pytest.approx(math.log(2), abs=4 * error)
        assert error < 3e-4

    def test_logistic_map_in_a_periodic_window(self):
        found = exponents(
            lambda x: 3.2 * x * (1 - x),
            torch.tensor([0.3], dtype=torch.float64),
            1000,
            state_transient=500,
            frame_transient=0,
        )
        assert found.item() == pytest.approx(-0.916290732, abs=5e-10)

    def test_henon_map(self):
        def henon(state):
            x, y = state.unbind(-1)
            return torch.stack([1 - 1.4 * x**2 + y, 0.3 * x], dim=-1)

        # Many trajectories in place of a long one: the same average in less time.
        starts = 0.1 * torch.randn(200, 2, dtype=torch.float64)
        with torch.no_grad():
            spectrum = flossing.lyapunov_spectrum(
                henon, state=starts, steps=1200, state_transient=200
            )
        mean, error = spectrum.exponents.mean(0), spectrum.exponents.std(0) / 200**0.5
        expected = torch.tensor([0.419217, -1.623190], dtype=torch.float64)
        assert bool(((mean - expected).abs() < 4 * error + 5e-6).all())
        assert float(error.max()) < 1e-3
        torch.testing.assert_close(
            spectrum.exponents.sum(-1), torch.full((200,), math.log(0.3), dtype=torch.float64)
        )
        assert spectrum.kaplan_yorke_dimension.mean().item() == pytest.approx(1.258267, abs=2e-3)


class TestRandomProducts:
    """Products of Gaussian matrices: λ_i = ½ [ln 2 + ψ((N − i + 1)/2)], and their error bars."""

    STEPS, PRODUCTS = 2000, 60

    @pytest.fixture(scope="class")
    @classmethod
    def spectrum(cls):
        generator = torch.Generator().manual_seed(5)
        jacobians = torch.randn(
            cls.STEPS, cls.PRODUCTS, 4, 4, dtype=torch.float64, generator=generator
        )
        return flossing.log_growth_rates(jacobians, reorthonormalize=1)

    def test_exponents(self, spectrum):
        order = torch.arange(4, 0, -1, dtype=torch.float64)
        expected = 0.5 * (math.log(2) + torch.special.digamma(order / 2))
        published = torch.tensor([0.5579658, 0.3648186, 0.0579658, -0.6351814])
        torch.testing.assert_close(expected.float(), published, atol=1e-6, rtol=0)
        theory = self._theoretical_error() / self.PRODUCTS**0.5
        assert bool(((spectrum.exponents.mean(0) - expected).abs() < 4 * theory).all())

    def test_error_bars(self, spectrum):
        ratio = spectrum.standard_error / self._theoretical_error()
        # Few lags enter, so a single error bar from 2000 intervals scatters by some percent.
        torch.testing.assert_close(
            ratio.mean(0), torch.ones(4, dtype=torch.float64), atol=0.02, rtol=0
        )
        assert float(ratio.std(0).max()) < 0.1

    def test_scatter_between_products_is_what_the_error_bars_say(self, spectrum):
        ratio = spectrum.exponents.std(0) / spectrum.standard_error.mean(0)
        torch.testing.assert_close(ratio, torch.ones(4, dtype=torch.float64), atol=0.35, rtol=0)

    def _theoretical_error(self):
        order = torch.arange(4, 0, -1, dtype=torch.float64)
        return (torch.special.polygamma(1, order / 2) / (4 * self.STEPS)).sqrt()


class TestMeanField:
    """Large random networks driven by white noise: λ₁ = ln(g √⟨φ′²⟩), see docs/mathematics.md."""

    STEPS, TRAJECTORIES = 140, 8

    @pytest.mark.parametrize("form", ["state", "rate"])
    @pytest.mark.parametrize(
        ("gain", "noise"), [(0.5, 0.5), (1.5, 0.2), (1.5, 1.0), (2.0, 0.5), (4.0, 3.0)]
    )
    def test_largest_exponent(self, gain, noise, form):
        found = [self._measured(gain, noise, 1000, seed, form) for seed in range(2)]
        assert sum(found) / 2 == pytest.approx(self._expected(gain, noise), abs=0.01)

    def test_error_is_inversely_proportional_to_the_size(self):
        # For this drive it is large: few units are not saturated.
        expected = self._expected(4.0, 3.0)
        errors = {
            size: sum(self._measured(4.0, 3.0, size, seed) - expected for seed in range(32)) / 32
            for size in (64, 256)
        }
        assert errors[64] < 0
        assert errors[64] / errors[256] == pytest.approx(4, rel=0.25)

    def _expected(self, gain, noise):
        # The trapezoidal rule converges exponentially here. Gauss–Hermite quadrature, whose nodes
        # are further apart, would need thousands of nodes where the variance is large.
        nodes = torch.linspace(-12, 12, 4801, dtype=torch.float64)
        weights = torch.softmax(-(nodes**2) / 2, dim=0)
        variance = gain**2 + noise**2
        for _ in range(500):
            activity = weights @ (variance**0.5 * nodes).tanh() ** 2
            variance = gain**2 * activity.item() + noise**2
        slopes = (variance**0.5 * nodes).cosh() ** -2
        return math.log(gain * (weights @ slopes**2).item() ** 0.5)

    def _measured(self, gain, noise, size, seed, form="state"):
        generator = torch.Generator().manual_seed(seed)
        weight = gain / size**0.5 * torch.randn(size, size, generator=generator)
        inputs = noise * torch.randn(self.STEPS, self.TRAJECTORIES, size, generator=generator)
        start = torch.randn(self.TRAJECTORIES, size, generator=generator)
        if form == "state":
            rnn = nn.RNN(size, size, bias=False)
            rnn.weight_hh_l0.data = weight
            rnn.weight_ih_l0.data = torch.eye(size)
            system, state = rnn, start.unsqueeze(0)
        else:
            system, state = (lambda given, x: given + x.tanh() @ weight.T), start
        with torch.no_grad():
            spectrum = flossing.lyapunov_spectrum(
                system,
                inputs,
                state,
                k=1,
                state_transient=20,
                frame_transient=20,
                generator=generator,
            )
        return spectrum.exponents.mean().item()


class TestCircularLaw:
    """Linear networks: |μ|² of the eigenvalues of W is uniform on [0, g²] at large N."""

    @pytest.mark.parametrize("gain", [0.7, 1.3])
    def test_spectrum_of_a_linear_network(self, gain):
        size = 128
        found = exponents(
            linear(gain * random_matrix(size)),
            torch.zeros(1, size, dtype=torch.float64),
            300,
            frame_transient=150,
        )[0]
        shares = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        expected = math.log(gain) + 0.5 * torch.log1p(-shares)
        # The smallest eigenvalues fluctuate most.
        torch.testing.assert_close(found[:96], expected[:96], atol=0.1, rtol=0)
        assert found[:96].mean().item() == pytest.approx(expected[:96].mean().item(), abs=0.02)

    def test_largest_exponent_approaches_the_logarithm_of_the_gain(self):
        found = {
            size: flossing.log_growth_rates(
                torch.stack([random_matrix(size, seed) for seed in range(8)]).expand(
                    200, -1, -1, -1
                ),
                k=1,
            ).exponents.mean()
            for size in (32, 256)
        }
        assert found[32] > found[256] > 0
        assert found[256] < 0.05


@pytest.mark.parametrize("interval", [1, 4, "auto"])
@pytest.mark.parametrize("system", ["rnn", "gru", "lstm"])
def test_full_spectrum_sums_to_the_mean_log_determinant(system, interval):
    module = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[system](2, 3).double()
    inputs = torch.randn(30, 1, 2, dtype=torch.float64)
    with warnings.catch_warnings():
        # An LSTM forgets some directions within four steps; the interval is then shortened.
        warnings.simplefilter("ignore", flossing.IntervalWarning)
        spectrum = flossing.lyapunov_spectrum(
            module, inputs, reorthonormalize=interval, frame_transient=0
        )
    state, determinants = None, []
    for step in range(30):
        determinants.append(_log_determinant(module, inputs[step : step + 1], state))
        _, state = module(inputs[step : step + 1], state)
    # A longer interval may lose up to half of the digits.
    tolerance = 1e-12 if interval == 1 else 1e-10
    torch.testing.assert_close(
        spectrum.exponents.sum().detach(),
        torch.stack(determinants).mean(),
        rtol=tolerance,
        atol=tolerance,
    )


def _log_determinant(module, inputs, state):
    if state is None:
        zero = torch.zeros(1, 1, 3, dtype=torch.float64)
        state = (zero, zero) if isinstance(module, nn.LSTM) else zero
    flat = (
        torch.cat([block.flatten() for block in state])
        if isinstance(state, tuple)
        else state.flatten()
    )

    def step(vector):
        blocks = tuple(block.reshape(1, 1, 3) for block in vector.split(3))
        _, after = module(inputs, blocks if len(blocks) == 2 else blocks[0])
        return (
            torch.cat([b.flatten() for b in after]) if isinstance(after, tuple) else after.flatten()
        )

    jacobian = torch.autograd.functional.jacobian(step, flat.detach())
    return torch.linalg.slogdet(jacobian).logabsdet
