"""Layers of Keras, against a plain implementation of Keras's equations."""

import numpy as np
import pytest
import torch

import flossing
from flossing import InvalidInputError, InvalidOptionError

pytestmark = pytest.mark.usefixtures("own_checks_only")

D, N = 3, 5
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(2, 30, D))


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def simple_step(x, state, kernel, recurrent, bias):
    (h,) = state
    return (np.tanh(x @ kernel + h @ recurrent + bias),)


def lstm_step(x, state, kernel, recurrent, bias):
    h, c = state
    z = x @ kernel + h @ recurrent + bias
    i, f, new, o = np.split(z, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
    return sigmoid(o) * np.tanh(c), c


def gru_step(x, state, kernel, recurrent, bias):
    (h,) = state
    x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3, axis=-1)
    r_z, r_r, r_h = np.split(h @ recurrent + bias[1], 3, axis=-1)
    z, r = sigmoid(x_z + r_z), sigmoid(x_r + r_r)
    return (z * h + (1 - z) * np.tanh(x_h + r * r_h),)


LAYERS = {
    "SimpleRNN": (simple_step, 1, (N,), torch.nn.RNN),
    "GRU": (gru_step, 3, (2, 3 * N), torch.nn.GRU),
    "LSTM": (lstm_step, 4, (4 * N,), torch.nn.LSTM),
}


def weights_of(gates, bias):
    return [GENERATOR.normal(size=shape) for shape in ((D, gates * N), (N, gates * N), bias)]


@pytest.mark.parametrize(("step", "gates", "bias", "kind"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("biased", [True, False])
def test_the_layer_computes_what_keras_does(step, gates, bias, kind, biased):
    weights = weights_of(gates, bias)
    used = weights if biased else [*weights[:2], np.zeros(bias)]
    layer = flossing.keras_layer(weights if biased else weights[:2], reset_after=True)
    assert type(layer) is kind
    state = (np.zeros((2, N)),) * (2 if gates == 4 else 1)
    expected = []
    for t in range(X.shape[1]):
        state = step(X[:, t], state, *used)
        expected.append(state[0])
    found = layer(torch.as_tensor(X))[0].detach().numpy()
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("step", "gates", "bias", "kind"), LAYERS.values(), ids=LAYERS)
def test_its_exponents_are_those_of_the_equations(step, gates, bias, kind):
    weights = weights_of(gates, bias)
    layer = flossing.keras_layer(weights)
    with torch.no_grad():
        found = flossing.lyapunov_spectrum(layer, torch.as_tensor(X), k=1, frame_transient=0)
    # The growth of the sum of all exponents, from finite differences of the plain equations.
    size = N * (2 if gates == 4 else 1)
    state, total = np.zeros(size), 0.0
    for x in X[0]:
        parts = lambda flat: tuple(np.split(flat, size // N))  # noqa: E731
        after = lambda flat: np.concatenate(step(x, parts(flat), *weights))  # noqa: B023, E731
        columns = [(after(state + e) - after(state - e)) / 2e-6 for e in 1e-6 * np.eye(size)]
        total += np.linalg.slogdet(np.stack(columns, axis=1))[1] / X.shape[1]
        state = after(state)
    with torch.no_grad():
        every = flossing.lyapunov_spectrum(layer, torch.as_tensor(X), frame_transient=0).exponents
    assert abs(every[0].sum().item() - total) < 1e-4
    assert found.exponents.shape == (2, 1)


def test_precision_and_nonlinearity():
    weights = [weight.astype(np.float16) for weight in weights_of(1, (N,))]
    before = torch.get_rng_state()
    layer = flossing.keras_layer(weights, nonlinearity="relu")
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.weight_hh_l0.dtype == torch.float32
    assert layer.nonlinearity == "relu"


def test_an_older_gru_is_refused():
    weights = weights_of(3, (3 * N,))
    with pytest.raises(InvalidOptionError, match="reset_after=False"):
        flossing.keras_layer(weights)
    with pytest.raises(InvalidOptionError, match="does not tell its reset_after"):
        flossing.keras_layer(weights[:2])
    with pytest.raises(InvalidOptionError, match="reset_after=False"):
        flossing.keras_layer(weights[:2], reset_after=False)


@pytest.mark.parametrize(
    "weights",
    [
        [],
        [np.zeros((D, N))],
        [np.zeros((D, 2 * N)), np.zeros((N, 2 * N))],
        [np.zeros((4 * N, D)), np.zeros((4 * N, N)), np.zeros(4 * N)],
        [np.zeros((D, 4 * N)), np.zeros((N, 4 * N)), np.zeros((2, 4 * N))],
        [np.zeros((D, N)), np.zeros((N, N)), np.full(N, np.nan)],
        [np.zeros((D, N), int), np.zeros((N, N), int)],
        [np.zeros((0, N)), np.zeros((N, N))],
        weights_of(4, (4 * N,)) * 2,
    ],
)
def test_what_is_no_layer(weights):
    with pytest.raises(InvalidInputError, match="Keras"):
        flossing.keras_layer(weights)
