import math

import mpmath
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import flossing

F64 = torch.float64


def seeded_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(size, seed=0):
    noise = torch.randn(size, size, dtype=F64, generator=seeded_generator(seed))
    return torch.linalg.qr(noise).Q


def linear(matrix):
    return lambda h: h @ matrix.mT


def random_state(batch, size, seed=3):
    return torch.randn(batch, size, dtype=F64, generator=seeded_generator(seed))


def last_sum_of_squares(output):
    return output[-1].square().sum()


def explicit_states(step, inputs, state):
    """States with a graph, and the Jacobian of each step, by autograd, one trajectory."""
    states, jacobians = [state.requires_grad_()], []
    for x in inputs:
        jacobians.append(torch.autograd.functional.jacobian(lambda h, x=x: step(x, h), states[-1]))
        states.append(step(x, states[-1]))
    return states, jacobians


STOCK = {
    "tanh": (nn.RNN, {}, False),
    "relu": (nn.RNN, {"nonlinearity": "relu"}, False),
    "gru": (nn.GRU, {}, False),
    "lstm": (nn.LSTM, {}, True),
    "tanh stack": (nn.RNN, {"num_layers": 2}, False),
    "gru stack": (nn.GRU, {"num_layers": 3}, False),
    "lstm stack": (nn.LSTM, {"num_layers": 2}, True),
    "projected lstm": (nn.LSTM, {"num_layers": 2, "proj_size": 2}, True),
}


def flat_step(module):
    """One step of a stock module on the flat state: layer after layer, h before c."""

    def step(x, flat):
        rows = flat.reshape(module.num_layers, 1, -1)
        hidden_size = module.proj_size or module.hidden_size
        if isinstance(module, nn.LSTM):
            h, c = rows[..., :hidden_size].contiguous(), rows[..., hidden_size:].contiguous()
            _, (h, c) = module(x.reshape(1, 1, -1), (h, c))
            return torch.cat([h, c], dim=-1).flatten()
        return module(x.reshape(1, 1, -1), rows)[1].flatten()

    return step


@pytest.mark.parametrize("name", STOCK)
def test_norms_are_those_of_explicit_products_and_of_autograd(name):
    kind, options, has_cells = STOCK[name]
    torch.manual_seed(1)
    module = kind(2, 4, dtype=F64, **options)
    steps, batch = 7, 2
    inputs = torch.randn(steps, batch, 2, dtype=F64)
    weights = torch.randn(steps, batch, module.proj_size or 4, dtype=F64)

    def loss(output):
        return (weights * output.tanh()).sum()

    horizon = flossing.gradient_horizon(module, inputs, loss=loss)
    output_size = module.proj_size or 4
    layer_size = output_size + (4 if has_cells else 0)
    size = module.num_layers * layer_size
    top = slice(size - layer_size, size - layer_size + output_size)
    for row in range(batch):
        step = flat_step(module)
        states, jacobians = explicit_states(step, inputs[:, row], torch.zeros(size, dtype=F64))
        losses = [(weights[t, row] * state[top].tanh()).sum() for t, state in enumerate(states[1:])]
        direct = torch.autograd.grad(losses[-1], states[-1], retain_graph=True)[0]
        product, expected, worst = torch.eye(size, dtype=F64), [], []
        for lag in range(steps + 1):
            if lag:
                product = jacobians[steps - lag].mT @ product
            expected.append((product @ direct).norm().log() - direct.norm().log())
            worst.append(torch.linalg.matrix_norm(product, 2).log())
        assert_close(horizon.error.log_norm[:, row], torch.stack(expected).detach())
        assert_close(horizon.worst.log_norm[:, row], torch.stack(worst), rtol=1e-9, atol=1e-12)
        total = torch.autograd.grad(torch.stack(losses).sum(), states)
        logs = torch.stack([gradient.norm().log() for gradient in total])
        assert_close(horizon.log_total_gradient[:, row], logs)


def test_error_by_lag_is_autograds_for_a_loss_of_the_last_state():
    rnn = nn.RNN(1, 5, dtype=F64)
    inputs = torch.randn(9, 1, 1, dtype=F64)
    horizon = flossing.gradient_horizon(rnn, inputs, loss=last_sum_of_squares)
    states = [torch.zeros(1, 1, 5, dtype=F64, requires_grad=True)]
    for x in inputs:
        states.append(rnn(x.unsqueeze(0), states[-1])[1])
    gradients = torch.autograd.grad(states[-1].square().sum(), states)
    norms = torch.stack([gradient.norm().log() for gradient in gradients])
    assert_close(horizon.error.log_norm.squeeze(1), norms.flip(0) - norms[-1])
    assert_close(horizon.log_total_gradient.squeeze(1), norms)


@pytest.mark.parametrize("gain", [1.0, 0.5, 1.5])
def test_scaled_orthogonal_maps_scale_every_norm_by_the_gain(gain):
    horizon = flossing.gradient_horizon(
        linear(gain * rotation(6)), state=random_state(2, 6), steps=40, loss=last_sum_of_squares
    )
    expected = (horizon.lags.double() * math.log(gain)).unsqueeze(1).expand(-1, 2)
    for reach in (horizon.error, horizon.random, horizon.worst):
        assert_close(reach.log_norm, expected, rtol=0, atol=1e-12)
        assert_close(reach.slope, torch.full((2,), math.log(gain), dtype=F64), rtol=0, atol=1e-12)
    assert_close(horizon.random_quartiles, expected.expand(2, -1, -1), rtol=0, atol=1e-12)
    assert_close(horizon.exponent, torch.full((2,), math.log(gain), dtype=F64))


def test_lag_zero_is_exactly_zero():
    rnn = nn.LSTM(1, 5)
    horizon = flossing.gradient_horizon(rnn, torch.randn(4, 3, 1), loss=last_sum_of_squares)
    for reach in (horizon.error, horizon.random, horizon.worst):
        assert reach.log_norm[0].tolist() == [0.0] * 3


def test_horizons_are_where_the_threshold_is_crossed():
    shrinking = flossing.gradient_horizon(
        linear(0.5 * rotation(3)), state=random_state(1, 3), steps=20, threshold=0.1
    )
    assert shrinking.worst.vanishing_lag.tolist() == [4.0]
    assert shrinking.worst.exploding_lag.tolist() == [math.inf]
    growing = flossing.gradient_horizon(
        linear(2.0 * rotation(3)), state=random_state(1, 3), steps=20, threshold=0.1
    )
    assert growing.random.vanishing_lag.tolist() == [math.inf]
    assert growing.random.exploding_lag.tolist() == [4.0]
    short = flossing.gradient_horizon(
        linear(0.5 * rotation(3)), state=random_state(1, 3), steps=3, threshold=0.1
    )
    assert short.worst.vanishing_lag.tolist() == [math.inf]


def test_a_gradient_that_comes_back_has_not_vanished_for_good():
    gains = torch.tensor([1.0, 0.01, 0.01, 100.0, 0.001]).double().flip(0).reshape(-1, 1, 1)
    horizon = flossing.gradient_horizon(
        lambda x, h: x * h, gains, torch.ones(1, 2, dtype=F64), threshold=0.1
    )
    expected = torch.tensor([1.0, 1.0, 0.01, 1e-4, 1e-2, 1e-5]).double().log()
    assert_close(horizon.worst.log_norm.squeeze(1), expected)
    assert horizon.worst.vanishing_lag.item() == 2
    back = flossing.gradient_horizon(
        lambda x, h: x * h, gains, torch.ones(1, 2, dtype=F64), threshold=1e-3
    )
    assert back.worst.vanishing_lag.item() == 5


def test_logs_go_far_beyond_underflow_and_overflow():
    steps = 1000
    for gain in (0.25, 4.0):
        horizon = flossing.gradient_horizon(
            lambda h, gain=gain: gain * h if gain < 1 else (gain * h).sin(),
            state=torch.full((1, 2), 0.0 if gain > 1 else 1.0),
            steps=steps,
            lags=[steps],
        )
        expected = torch.full((1, 1), steps * math.log(gain), dtype=F64)
        assert_close(horizon.worst.log_norm, expected, rtol=1e-9, atol=0)
        assert_close(horizon.random.log_norm, expected, rtol=1e-9, atol=0)


def test_total_gradient_grows_past_overflow():
    horizon = flossing.gradient_horizon(
        lambda h: (4.0 * h).sin(),
        state=torch.zeros(1, 1, dtype=F64),
        steps=1000,
        loss=lambda states: states.sum(),
        spectral_norm=False,
    )
    # Σ_{j=0}^{T} 4^j for the first step, which the loss does not see: 4 + … + 4^T.
    expected = 1000 * math.log(4) + math.log(4 / 3)
    assert horizon.log_total_gradient[0].item() == pytest.approx(expected, rel=1e-12)
    assert horizon.log_total_gradient[-1].item() == 0.0


def test_a_direction_that_was_far_behind_is_not_lost():
    # First e^-1 against 1, then 1 against e^-2: the second direction wins in the end.
    half = 800
    gains = torch.tensor([[1.0, math.exp(-1)], [math.exp(-2), 1.0]], dtype=F64)
    backward = gains.repeat_interleave(half, dim=0)
    horizon = flossing.gradient_horizon(
        lambda x, h: x * h,
        backward.flip(0).unsqueeze(1),
        torch.zeros(1, 2, dtype=F64),
        lags=[half, 2 * half],
    )
    assert_close(horizon.worst.log_norm.squeeze(1), torch.tensor([0.0, -half], dtype=F64))


def test_spectral_norm_agrees_with_exact_arithmetic():
    with mpmath.workdps(400):
        matrix = rotation(3, 1) @ torch.diag(torch.tensor([2.0, 0.1, 1e-3], dtype=F64))
        matrix = matrix @ rotation(3, 2)
        exact = mpmath.matrix(matrix.tolist()) ** 150
        expected = float(mpmath.log(max(mpmath.svd_r(exact, compute_uv=False))))
    horizon = flossing.gradient_horizon(
        linear(matrix), state=torch.zeros(1, 3, dtype=F64), steps=150, lags=[150]
    )
    assert horizon.worst.log_norm.item() == pytest.approx(expected, rel=1e-12)


def test_slopes_and_exponent_agree_in_a_long_random_trajectory():
    rnn = nn.RNN(1, 6, dtype=F64)
    inputs = torch.randn(800, 2, 1, dtype=F64)
    horizon = flossing.gradient_horizon(
        rnn, inputs, loss=last_sum_of_squares, lags=range(0, 801, 20), directions=4
    )
    for reach in (horizon.error, horizon.random, horizon.worst):
        assert_close(reach.slope, horizon.exponent, rtol=0.03, atol=0)
    spectrum = flossing.lyapunov_spectrum(rnn, inputs, k=1).exponents.detach()
    assert_close(horizon.exponent, spectrum.squeeze(1), rtol=1e-2, atol=0)


def test_worst_bounds_every_direction_and_quartiles_enclose():
    rnn = nn.GRU(2, 6, dtype=F64)
    horizon = flossing.gradient_horizon(
        rnn, torch.randn(30, 3, 2, dtype=F64), loss=last_sum_of_squares, directions=50
    )
    lower, upper = horizon.random_quartiles
    assert bool((lower <= upper).all())
    assert bool((upper <= horizon.worst.log_norm + 1e-12).all())
    assert bool((horizon.error.log_norm <= horizon.worst.log_norm + 1e-12).all())


@pytest.mark.parametrize("directions", [1, 2, 5])
def test_quartiles_of_few_directions(directions):
    horizon = flossing.gradient_horizon(
        linear(torch.diag(torch.tensor([1.0, 0.1])).double()),
        state=torch.zeros(1, 2, dtype=F64),
        steps=3,
        directions=directions,
    )
    lower, upper = horizon.random_quartiles
    assert bool(((lower < upper)[1:] if directions == 5 else lower <= upper).all())


def test_zero_jacobians_are_minus_infinity_not_nan():
    gains = torch.ones(6, 2, 1, dtype=F64)
    gains[2, 0] = 0.0
    horizon = flossing.gradient_horizon(
        lambda x, h: x * h, gains, torch.ones(2, 3, dtype=F64), loss=lambda h: h[-1].sum()
    )
    expected = [0.0] * 4 + [-math.inf] * 3
    for reach in (horizon.error, horizon.random, horizon.worst):
        assert reach.log_norm[:, 0].tolist() == expected
        assert_close(reach.log_norm[:, 1], torch.zeros(7, dtype=F64), rtol=0, atol=1e-14)
        assert reach.slope.tolist() == [-math.inf, pytest.approx(0.0, abs=1e-14)]
        assert reach.vanishing_lag.tolist() == [4.0, math.inf]
    assert horizon.random_quartiles[:, :, 0].tolist() == [expected, expected]
    assert horizon.exponent.tolist() == [-math.inf, pytest.approx(0.0, abs=1e-14)]
    assert horizon.log_total_gradient[:3, 0].tolist() == [-math.inf] * 3


def test_saturated_units_keep_their_tiny_slopes():
    rnn = nn.RNN(1, 4, dtype=F64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.eye(4))
        rnn.bias_ih_l0.fill_(200.0)
        rnn.bias_hh_l0.zero_()
        rnn.weight_ih_l0.zero_()
    state = torch.ones(1, 1, 4, dtype=F64)
    horizon = flossing.gradient_horizon(rnn, torch.zeros(50, 1, 1, dtype=F64), state)
    slope = math.log(4) - 2 * 201  # of 4 e^{-2a}, a = 201
    assert_close(
        horizon.worst.log_norm.squeeze(1), horizon.lags.double() * slope, rtol=1e-12, atol=0
    )
    assert_close(
        horizon.random.log_norm.squeeze(1), horizon.lags.double() * slope, rtol=1e-12, atol=0
    )


def test_total_gradient_where_a_zero_jacobian_forgets_and_later_losses_remain():
    gains = torch.ones(4, 1, 1, dtype=F64)
    gains[2] = 0.0
    horizon = flossing.gradient_horizon(
        lambda x, h: x * h, gains, torch.ones(1, 1, dtype=F64), loss=lambda h: h.sum()
    )
    # δ_4 = 1, δ_3 = 1 + 1, δ_2 = 1 + 0, δ_1 = 1 + 1, δ_0 = 2.
    assert_close(
        horizon.log_total_gradient.squeeze(1).exp(),
        torch.tensor([2.0, 2.0, 1.0, 2.0, 1.0]).double(),
    )


def test_scalar_network_of_one_step():
    horizon = flossing.gradient_horizon(
        lambda h: torch.tanh(1.5 * h), state=torch.tensor([[0.3]], dtype=F64), steps=1
    )
    slope = math.log(1.5) - 2 * math.log(math.cosh(0.45))
    for reach in (horizon.random, horizon.worst):
        assert reach.log_norm.squeeze(1).tolist() == [0.0, pytest.approx(slope, rel=1e-12)]
        assert reach.slope.item() == pytest.approx(slope, rel=1e-12)
    assert horizon.exponent.item() == pytest.approx(slope, rel=1e-12)
    assert horizon.error is None
    assert horizon.log_total_gradient is None


def test_the_exponent_leaves_out_the_first_tenth():
    gains = torch.full((20, 1, 1), 0.5, dtype=F64)
    gains[:2] = 100.0
    horizon = flossing.gradient_horizon(lambda x, h: x * h, gains, torch.ones(1, 2, dtype=F64))
    assert horizon.exponent.item() == pytest.approx(math.log(0.5), rel=1e-12)
