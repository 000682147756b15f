"""Exponents within 1 / horizon of the target contribute nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flossing

INPUTS = torch.randn(30, 3, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = {
    "number": -0.4,
    "for each exponent": torch.tensor([-0.1, -0.3, -0.6, -1.0], dtype=torch.float64),
    "for each trajectory": torch.linspace(-1.0, 0.2, 12, dtype=torch.float64).reshape(3, 4),
}


def network(seed=0):
    torch.manual_seed(seed)
    rnn = nn.RNN(1, 6).double()
    nn.init.normal_(rnn.weight_hh_l0, std=6**-0.5)
    return rnn


def plain(exponent, target, horizon):
    """The formula of one exponent: its loss, and the derivative with respect to it."""
    deviation = exponent - target
    beyond = max(abs(deviation) - 1 / horizon, 0.0)
    return beyond**2, 2 * beyond * math.copysign(1.0, deviation)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 9), horizon=st.floats(0.5, 1e4))
def test_loss_and_gradient_are_those_of_the_formula(target, seed, horizon):
    rnn = network(seed)
    # One backend for both: another rounds differently, which counts at the edge of the band.
    options = {"k": 4, "backend": "torch"}
    loss = flossing.flossing_loss(rnn, INPUTS, target=target, horizon=horizon, **options)
    (found,) = torch.autograd.grad(loss, rnn.weight_hh_l0)
    exponents = flossing.lyapunov_spectrum(rnn, INPUTS, **options).exponents
    targets = torch.as_tensor(target, dtype=torch.float64).expand(3, 4).tolist()
    pairs = [
        plain(exponent, aim, horizon)
        for row, aims in zip(exponents.tolist(), targets, strict=True)
        for exponent, aim in zip(row, aims, strict=True)
    ]
    losses, slopes = torch.tensor(pairs, dtype=torch.float64).T
    torch.testing.assert_close(loss, losses.mean())
    weights = slopes.reshape(3, 4) / 12
    (expected,) = torch.autograd.grad(exponents, rnn.weight_hh_l0, weights)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_layers_have_a_band_each():
    gru = nn.GRU(1, 4, num_layers=2).double()
    options = {"k": 2, "reduction": "none"}
    without = flossing.flossing_loss(gru, INPUTS, **options)
    found = flossing.flossing_loss(gru, INPUTS, horizon=3.0, **options)
    torch.testing.assert_close(found, (without.sqrt() - 1 / 3).clamp(min=0).square())
    assert found.shape == (2, 3, 2)


def test_the_horizon_is_a_time_where_steps_last():
    rnn = network()
    in_steps = flossing.flossing_loss(rnn, INPUTS, k=4, horizon=4.0)
    in_time = flossing.flossing_loss(rnn, INPUTS, k=4, horizon=2.0, dt=0.5)
    torch.testing.assert_close(in_time, 4 * in_steps)


def test_an_exponent_of_minus_infinity_leaves_the_gradient_finite():
    weight = torch.diag(torch.tensor([0.5, 0.0], dtype=torch.float64)).requires_grad_()
    state = torch.ones(1, 2, dtype=torch.float64)
    gradients = []
    for horizon in (None, 1e9, 2.0):
        with pytest.warns(flossing.LostRankWarning):
            loss = flossing.flossing_loss(
                lambda s: s @ weight, None, state, k=2, steps=20, horizon=horizon
            )
        assert loss.isinf()
        gradients.append(torch.autograd.grad(loss, weight)[0])
        assert gradients[-1].isfinite().all()
    torch.testing.assert_close(*gradients[:2])
    # ln ½ is −0.69: 0.19 beyond a band of 0.5.
    share = (math.log(2) - 0.5) / math.log(2)
    torch.testing.assert_close(gradients[2], share * gradients[0])


def test_flossing_stops_changing_weights_at_the_edge_of_the_band():
    weight = torch.tensor([[0.5]], requires_grad=True)
    options = {"k": 1, "parameters": [weight], "state": torch.ones(1, 1)}
    options["optimizer"] = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.5)
    history = flossing.floss(lambda s: s @ weight, lambda: 20, steps=200, horizon=10.0, **options)
    assert float(history.loss[-1]) == 0.0
    assert not history.converged
    assert -0.1 <= math.log(weight.item()) <= 0.1
    before = weight.detach().clone()
    flosser = flossing.Flosser(
        lambda s: s @ weight, before=5, every=1, tolerance=None, horizon=10.0, **options
    )
    assert flosser.before_training(lambda: 20).gradient_norm.tolist() == [0.0] * 5
    flosser.step(1, lambda: 20)
    assert torch.equal(weight, before)


def test_episodes_within_the_band_are_idle():
    rnn = network()
    flosser = flossing.Flosser(rnn, k=4, every=2, horizon=0.1, drift=None)
    assert len(flosser.step(2, INPUTS).loss) == 1
    # The pause before the next has doubled.
    assert [flosser.step(epoch, INPUTS) is None for epoch in (4, 6)] == [True, False]


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize("number", [np.float32, np.array, torch.tensor, int])
def test_numbers_of_all_kinds(number):
    expected = flossing.flossing_loss(network(), INPUTS, k=2, horizon=3.0)
    found = flossing.flossing_loss(network(), INPUTS, k=2, horizon=number(3))
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize("horizon", [0, -1.0, math.inf, math.nan, "70", True])
def test_a_horizon_is_a_positive_time(horizon):
    rnn = network()
    for call in (
        lambda: flossing.flossing_loss(rnn, INPUTS, k=2, horizon=horizon),
        lambda: flossing.floss(rnn, INPUTS, k=2, steps=1, horizon=horizon),
        lambda: flossing.Flosser(rnn, k=2, horizon=horizon),
    ):
        with pytest.raises(flossing.InvalidOptionError, match="horizon"):
            call()
