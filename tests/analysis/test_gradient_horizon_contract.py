"""What `gradient_horizon` takes, gives to the loss, refuses and leaves alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import flossing
from flossing import InvalidOptionError, NonFiniteError

F64 = torch.float64


def last_sum_of_squares(output):
    return output[-1].square().sum()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_loss_sees_what_the_module_returns(kind):
    inputs = torch.randn(6, 3, 2, dtype=F64)
    for options in ({}, {"batch_first": True}, {"num_layers": 2}, {"proj_size": 2}):
        if "proj_size" in options and kind is not nn.LSTM:
            continue
        module = kind(2, 4, dtype=F64, **options)
        own = inputs.transpose(0, 1) if module.batch_first else inputs
        for given_inputs in (own, own[0] if module.batch_first else own[:, 0]):
            seen = []
            flossing.gradient_horizon(
                module, given_inputs, loss=lambda y, seen=seen: seen.append(y.detach()) or y.sum()
            )
            assert_close(seen[0], module(given_inputs)[0].detach())


def test_the_loss_sees_the_selected_layer_after_the_transient():
    stack = nn.LSTM(2, 4, num_layers=2, dtype=F64)
    inputs = torch.randn(9, 2, 2, dtype=F64)
    seen = []

    def loss(output):
        seen.append(output.detach())
        return output.square().sum()

    horizon = flossing.gradient_horizon(stack, inputs, loss=loss, layer=0, state_transient=4)
    bottom = nn.LSTM(2, 4, dtype=F64)
    bottom.load_state_dict({k: v for k, v in stack.state_dict().items() if k.endswith("_l0")})
    output, _ = bottom(inputs)
    assert_close(seen[0], output[4:].detach())
    _, state = bottom(inputs[:4])
    alone = flossing.gradient_horizon(bottom, inputs[4:], state, loss=loss)
    assert_close(horizon.log_total_gradient, alone.log_total_gradient)
    assert_close(horizon.worst.log_norm, alone.worst.log_norm)


def test_the_loss_sees_hidden_states_of_cells_and_structures_of_callables():
    cell = nn.LSTMCell(2, 3, dtype=F64)
    inputs = torch.randn(5, 2, 2, dtype=F64)
    seen = []
    flossing.gradient_horizon(cell, inputs, loss=lambda y: seen.append(y) or y.sum())
    assert seen[0].shape == (5, 2, 3)

    def step(x, state):
        h, c = cell(x, (state["h"], state["c"]))
        return {"h": h, "c": c}

    zero = torch.zeros(2, 3, dtype=F64)
    by_hand = flossing.gradient_horizon(
        step, inputs, {"h": zero, "c": zero}, loss=lambda y: seen.append(y["h"]) or y["h"].sum()
    )
    assert_close(seen[1], seen[0])
    stock = flossing.gradient_horizon(cell, inputs, loss=lambda y: y.sum())
    assert_close(by_hand.error.log_norm, stock.error.log_norm)
    assert_close(by_hand.worst.log_norm, stock.worst.log_norm)


def test_a_large_callable_goes_without_explicit_jacobians():
    cell = nn.RNNCell(1, 100, dtype=F64)
    inputs, zero = torch.randn(6, 2, 1, dtype=F64), torch.zeros(2, 100, dtype=F64)
    options = {"loss": last_sum_of_squares, "spectral_norm": False, "directions": 2}
    found = flossing.gradient_horizon(lambda x, h: cell(x, h), inputs, zero, **options)
    stock = flossing.gradient_horizon(cell, inputs, **options)
    assert_close(found.error.log_norm, stock.error.log_norm)
    assert_close(found.random.log_norm, stock.random.log_norm)
    assert_close(found.log_total_gradient, stock.log_total_gradient)
    assert_close(found.exponent, stock.exponent)


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]),
    layers=st.integers(1, 2),
    steps=st.integers(1, 6),
    batch=st.integers(1, 3),
    transient=st.integers(0, 2),
    directions=st.integers(0, 3),
    spectral_norm=st.booleans(),
    dtype=st.sampled_from([torch.float32, F64]),
    with_loss=st.booleans(),
)
def test_every_combination_is_finite_and_shaped(
    kind, layers, steps, batch, transient, directions, spectral_norm, dtype, with_loss
):
    module = kind(1, 3, num_layers=layers)
    horizon = flossing.gradient_horizon(
        module,
        torch.randn(steps + transient, batch, 1),
        loss=last_sum_of_squares if with_loss else None,
        directions=directions,
        spectral_norm=spectral_norm,
        dtype=dtype,
        state_transient=transient,
    )
    assert horizon.lags.tolist() == list(range(steps + 1))
    expected = (with_loss, directions > 0, spectral_norm)
    reaches = (horizon.error, horizon.random, horizon.worst)
    for reach, present in zip(reaches, expected, strict=True):
        assert (reach is not None) == present
        if reach is not None:
            assert reach.log_norm.shape == (steps + 1, batch)
            assert bool(reach.log_norm.isfinite().all())
            assert bool(reach.slope.isfinite().all())


def test_lags_select_among_all():
    rnn, inputs = nn.RNN(1, 4, dtype=F64), torch.randn(12, 2, 1, dtype=F64)
    whole = flossing.gradient_horizon(rnn, inputs)
    some = flossing.gradient_horizon(rnn, inputs, lags=[7, 3, 7])
    assert some.lags.tolist() == [3, 7]
    for name in ("random", "worst"):
        ours, theirs = getattr(some, name), getattr(whole, name)
        assert_close(ours.log_norm, theirs.log_norm[[3, 7]], rtol=0, atol=0)
    one = flossing.gradient_horizon(rnn, inputs, lags=[6])
    assert_close(one.worst.slope, whole.worst.log_norm[6] / 6)


def test_random_directions_follow_the_generator_and_leave_the_global_state():
    rnn, inputs = nn.RNN(1, 4), torch.randn(5, 1, 1)
    before = torch.get_rng_state()
    fixed = [flossing.gradient_horizon(rnn, inputs).random.log_norm for _ in range(2)]
    other = flossing.gradient_horizon(
        rnn, inputs, generator=torch.Generator().manual_seed(5)
    ).random.log_norm
    assert torch.equal(fixed[0], fixed[1])
    assert not torch.equal(fixed[0], other)
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_of_the_module_is_touched():
    rnn, inputs = nn.GRU(1, 4), torch.randn(5, 1, 1)
    with torch.inference_mode():
        horizon = flossing.gradient_horizon(rnn, inputs, loss=last_sum_of_squares)
    assert all(parameter.grad is None for parameter in rnn.parameters())
    assert not horizon.worst.log_norm.requires_grad
    again = flossing.gradient_horizon(rnn, inputs, loss=last_sum_of_squares)
    assert_close(horizon.worst.log_norm, again.worst.log_norm)


def test_autocast_does_not_lower_the_precision():
    rnn, inputs = nn.RNN(1, 4), torch.randn(20, 1, 1)
    expected = flossing.gradient_horizon(rnn, inputs, loss=last_sum_of_squares)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = flossing.gradient_horizon(rnn, inputs, loss=last_sum_of_squares)
    assert_close(found.worst.log_norm, expected.worst.log_norm, rtol=0, atol=0)
    assert_close(found.error.log_norm, expected.error.log_norm, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"threshold": math.nan}, "between 0 and 1"),
        ({"directions": -1}, "directions"),
        ({"lags": [9]}, "from 0 to 8"),
        ({"lags": [1.5]}, "expected an int"),
        ({"lags": []}, "or None"),
        ({"lags": [0]}, "or None"),
        ({"loss": lambda y: y}, "scalar"),
        ({"loss": lambda y: 1.0}, "scalar"),
        ({"loss": lambda y: y.detach().sum()}, "autograd"),
        ({"loss": lambda y: y[:-1].sum()}, r"trajectories \[0, 1\]"),
        ({"loss": lambda y: y[:, 0].sum()}, r"trajectories \[1\]"),
    ],
)
@pytest.mark.usefixtures("own_checks_only")
def test_bad_options_are_named(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.gradient_horizon(nn.RNN(1, 3), torch.randn(8, 2, 1), **options)


def test_losses_that_are_not_finite_are_refused():
    rnn, inputs = nn.RNN(1, 3), torch.randn(8, 2, 1)
    with pytest.raises(NonFiniteError, match="loss is nan"):
        flossing.gradient_horizon(rnn, inputs, loss=lambda y: y.sum() * math.nan)
    with pytest.raises(NonFiniteError, match="gradient of the loss"):
        flossing.gradient_horizon(rnn, inputs, loss=lambda y: (y - y.detach()).sqrt().sum())


def test_infinite_jacobians_are_refused():
    with pytest.raises(NonFiniteError, match="Jacobian"):
        flossing.gradient_horizon(lambda h: h.sqrt(), state=torch.zeros(1, 2), steps=4)
