"""Matrices of rate networks, in files of NumPy, MATLAB and PyTorch."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

import flossing
from flossing.cli import main
from flossing.diagnosis.checkpoints import (
    Description,
    load_network,
    rate_network_of,
    read_description,
)
from flossing.errors import FlossingError, InvalidCheckpointError, InvalidOptionError

pytestmark = pytest.mark.usefixtures("own_checks_only")

GENERATOR = np.random.default_rng(0)
W = GENERATOR.normal(size=(12, 12)) * 2 / 12**0.5
U = GENERATOR.normal(size=(12, 3))
B = GENERATOR.normal(size=12)
X = torch.as_tensor(GENERATOR.normal(size=(300, 2, 3)))
DISCRETE = {"product": "Wx", "leak": 1, "nonlinearity": "tanh"}
NAMES = {"recurrent": "W", "inputs": "U", "bias": "b"}


def described(**settings):
    return Description(rate_network=rate_network_of(DISCRETE | settings))


def exponents(network, inputs=X):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(
            network.module, inputs, network.initial_state(inputs.shape[1])
        ).exponents


def by_hand(derivative, states):
    """Exponents of given Jacobians, by QR at each step."""
    frame, total = np.eye(states.shape[-1]), 0
    for state in states:
        frame, triangle = np.linalg.qr(derivative(state) @ frame)
        total = total + np.log(np.abs(np.diag(triangle)))
    return np.sort(total / len(states))[::-1]


def write(folder, suffix, **arrays):
    path = folder / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".mat":
        savemat(path, arrays)
    else:
        torch.save({name: torch.as_tensor(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".pt"])
@pytest.mark.parametrize("product", ["Wx", "xW"])
def test_a_network_in_discrete_time_is_an_rnn(tmp_path, suffix, product):
    rnn = torch.nn.RNN(3, 12, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.as_tensor(W))
        rnn.weight_ih_l0.copy_(torch.as_tensor(U))
        rnn.bias_ih_l0.copy_(torch.as_tensor(B))
        rnn.bias_hh_l0.zero_()
    turned = (W, U) if product == "Wx" else (W.T, U.T)
    path = write(tmp_path, suffix, W=turned[0], U=turned[1], b=B)
    network = load_network(path, described(product=product, **NAMES))
    with torch.no_grad():
        expected = flossing.lyapunov_spectrum(rnn, X, network.initial_state(2)[None]).exponents
    torch.testing.assert_close(exponents(network), expected, rtol=1e-9, atol=1e-9)
    assert network.input_size == 3
    assert network.assumptions == ("first states are standard normal, seed 0",)


def test_a_single_matrix_runs_on_its_own(tmp_path):
    np.save(tmp_path / "W.npy", W)
    network = load_network(tmp_path / "W.npy", described())
    assert network.summary == (
        "rate network: no inputs, 12 units, tanh, leak 1, state is the rate, float64"
    )
    # A saved description says the same; the other product is another network.
    (tmp_path / "model.toml").write_text(
        '[rate_network]\nproduct = "Wx"\nleak = 1\nnonlinearity = "tanh"\n'
    )
    assert read_description(tmp_path / "model.toml") == described()
    silent = torch.zeros(400, 2, 1, dtype=torch.float64)
    other = load_network(tmp_path / "W.npy", described(product="xW"))
    assert not torch.allclose(exponents(network, silent), exponents(other, silent), atol=1e-3)


@pytest.mark.parametrize("variable", ["rate", "current"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "sigmoid", "softplus", "linear"])
def test_the_equations(tmp_path, variable, nonlinearity):
    path = write(tmp_path, ".npz", W=W, U=U, b=B)
    settings = {"leak": "0.2", "variable": variable, "nonlinearity": nonlinearity}
    network = load_network(path, described(**settings, **NAMES))
    phi = {
        "tanh": np.tanh,
        "relu": lambda v: np.maximum(v, 0),
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "softplus": lambda v: np.log1p(np.exp(v)),
        "linear": lambda v: v,
    }[nonlinearity]
    state, x = GENERATOR.normal(size=12), GENERATOR.normal(size=3)
    if variable == "rate":
        expected = 0.8 * state + 0.2 * phi(W @ state + U @ x + B)
    else:
        expected = 0.8 * state + 0.2 * (W @ phi(state) + U @ x + B)
    found = network.module(torch.as_tensor(x[None]), torch.as_tensor(state[None]))
    np.testing.assert_allclose(found.detach().numpy()[0], expected, rtol=1e-12)


def test_masks_and_signs_as_in_psychrnn(tmp_path):
    signs = np.array([1.0] * 9 + [-1.0] * 3)
    mask = (GENERATOR.random((12, 12)) < 0.6).astype(float)
    input_mask = (GENERATOR.random((12, 3)) < 0.6).astype(float)
    path = write(
        tmp_path,
        ".npz",
        **{"W_rec": W / 4, "W_in": U, "b_rec": B, "Dale_rec": np.diag(signs), "W_rec/Adam": W},
        rec_connectivity=mask,
        input_connectivity=input_mask,
        dale_ratio=np.array(None, dtype=object),
    )
    told = {"leak": 0.2, "variable": "current", "nonlinearity": "relu"}
    told |= {"recurrent": "W_rec", "inputs": "W_in", "bias": "b_rec"}
    # W alone would be another network, and each mask is asked for.
    for role, name in (
        ("mask", "rec_connectivity"),
        ("signs", "Dale_rec"),
        ("input_mask", "input_connectivity"),
        ("absolute_inputs", "yes"),
    ):
        with pytest.raises(InvalidOptionError, match=rf"{role}=({name}|yes)"):
            load_network(path, described(**told))
        told[role] = name
    network = load_network(path, described(**told))
    assert network.assumptions[1] == "these tensors of the file do not count: W_rec/Adam"
    effective, inputs = np.abs(W / 4 * mask) @ np.diag(signs), np.abs(U) * input_mask
    state, states = network.initial_state(2)[0].numpy(), []
    for x in X[:, 0].numpy():
        states.append(state)
        state = 0.8 * state + 0.2 * (effective @ np.maximum(state, 0) + inputs @ x + B)
    found = flossing.lyapunov_spectrum(
        network.module, X, network.initial_state(2), frame_transient=0, reorthonormalize=1
    )
    expected = by_hand(lambda s: 0.8 * np.eye(12) + 0.2 * effective * (s > 0), np.array(states))
    assert abs(found.exponents[0].sum().item() - expected.sum()) < 1e-8
    assert abs(found.exponents[0, 0].item() - expected[0]) < 0.05
    # Without them the exponents differ, which shows that they count.
    plain = told | dict.fromkeys(("mask", "signs", "input_mask"), "none")
    other = exponents(load_network(path, described(**plain)))
    assert not torch.allclose(other, found.exponents, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"product": None}, "product of a rate network is None .*'Wx', 'xW'"),
        ({"leak": None}, "leak of a rate network"),
        ({"leak": "fast"}, "leak of a rate network"),
        ({"leak": 1.5}, "of at most 1"),
        ({"leak": 0.1}, "variable of a rate network is None .*'rate', 'current'"),
        ({"nonlinearity": "elu"}, "nonlinearity of a rate network is 'elu'"),
        ({"gain": 2}, "a setting of a rate network is 'gain'"),
        ({"recurrent": "J"}, "recurrent=J, but the file has no array 'J': choose from 'W', 'U'"),
        ({"recurrent": None}, "needs the name of its recurrent weights"),
        ({"product": "xW"}, r"inputs of the rate network has the shape \(12, 3\); .*\(3, 12\) for"),
        ({"recurrent": "U"}, r"recurrent of the rate network has the shape \(12, 3\)"),
        ({"bias": "U"}, "bias of the rate network has the shape"),
        ({"recurrent": "bad"}, "infinite or NaN"),
    ],
)
def test_what_does_not_fit(tmp_path, settings, message):
    path = write(tmp_path, ".npz", W=W, U=U, b=B, bad=W * np.nan)
    with pytest.raises((InvalidOptionError, InvalidCheckpointError), match=message):
        load_network(path, described(**(NAMES | settings)))


def test_a_module_and_a_rate_network_exclude_each_other():
    with pytest.raises(FlossingError, match="omit them"):
        Description(module="GRU", rate_network=rate_network_of(DISCRETE))


def test_a_matrix_without_a_description(tmp_path):
    np.save(tmp_path / "W.npy", W)
    with pytest.raises(InvalidCheckpointError, match=r"an array without a name.*--rate-network"):
        load_network(tmp_path / "W.npy")


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("W.npy", W)
    arguments = ["analyze", "W.npy", "--sections", "spectrum", "--steps", "200", "--rate-network"]
    assert main([*arguments, "product=Wx, leak=1,nonlinearity=tanh"]) == 0
    assert "rate network: no inputs, 12 units" in capsys.readouterr().out
    assert main([*arguments, "product=Wx,leak=1"]) == 1
    assert "nonlinearity of a rate network is None" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "Wx"])
