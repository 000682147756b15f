"""Exponents and their gradients are the same inside regions of autocast."""

import contextlib
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import flossing


def autocast(enabled):
    region = torch.autocast("cpu", dtype=torch.bfloat16)
    return region if enabled else contextlib.nullcontext()


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.Linear(6, 6)
        self.driven = nn.Linear(2, 6)

    def forward(self, inputs, state):
        return torch.tanh(self.recurrent(state) + self.driven(inputs))


def of_spectral_norm():
    return parametrizations.spectral_norm(nn.RNN(2, 6), "weight_hh_l0").eval()


SYSTEMS = {
    "tanh": lambda: nn.RNN(2, 6),
    "gru": lambda: nn.GRU(2, 6),
    "lstm": lambda: nn.LSTM(2, 6, num_layers=2),
    "cell": Cell,
    "computed weight": of_spectral_norm,
}


def outcome(make, *, forward, backward, **options):
    torch.manual_seed(1)
    system, inputs = make(), torch.randn(30, 2, 2, requires_grad=True)
    state = torch.zeros(2, 6) if isinstance(system, Cell) else None
    with autocast(forward):
        loss = flossing.flossing_loss(system, inputs, state, k=3, **options)
    with autocast(backward):
        loss.backward()
        # Of other computations autocast is as it was.
        assert torch.is_autocast_enabled("cpu") == backward
    gradients = [p.grad for p in (*system.parameters(), inputs) if p.grad is not None]
    assert gradients
    return [loss.detach(), *gradients]


@pytest.mark.parametrize("backend", ["torch", "compiled", "reference"])
@pytest.mark.parametrize("make", SYSTEMS.values(), ids=SYSTEMS)
def test_loss_and_gradients(make, backend):
    expected = outcome(make, forward=False, backward=False, backend=backend)
    for forward, backward in [(True, False), (True, True), (False, True)]:
        found = outcome(make, forward=forward, backward=backward, backend=backend)
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    "options", [{"checkpoint_interval": 7}, {"state_gradient": "detach"}, {"state_gradient": 5}]
)
def test_loss_and_gradients_with_options(options):
    expected = outcome(Cell, forward=False, backward=False, **options)
    found = outcome(Cell, forward=True, backward=True, **options)
    assert all(map(torch.equal, found, expected))


def test_a_second_backward_pass_of_one_graph():
    rnn = nn.GRU(2, 6)
    loss = flossing.flossing_loss(rnn, torch.randn(30, 2, 2), k=3, backend="torch")
    (expected,) = torch.autograd.grad(loss, rnn.weight_hh_l0, retain_graph=True)
    for _ in range(2):
        with autocast(True):
            (found,) = torch.autograd.grad(loss, rnn.weight_hh_l0, retain_graph=True)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("piece", [None, 20])
def test_floss(piece):
    def run(enabled):
        torch.manual_seed(1)
        rnn, inputs = nn.GRU(1, 8), torch.randn(40, 2, 1)
        with autocast(enabled):
            history = flossing.floss(rnn, inputs, k=4, steps=3, piece=piece)
        return [history.loss, history.gradient_norm, *rnn.parameters()]

    assert all(map(torch.equal, run(True), run(False)))


def test_watch():
    rnn, inputs = nn.GRU(2, 6), torch.randn(30, 2, 2)

    def exponents():
        found = flossing.watch(rnn, k=3)(inputs)
        return [found[f"flossing/exponent_{index}"] for index in (1, 2, 3)]

    expected = exponents()
    with autocast(True):
        assert exponents() == expected


def mean_square(outputs):
    return outputs[-1].square().mean()


ANALYSES = {
    "spectrum": flossing.lyapunov_spectrum,
    "long-term Jacobian": lambda *given: flossing.long_term_jacobian(*given, horizons=[5, 10]),
    "horizon": lambda *given: flossing.gradient_horizon(*given, loss=mean_square),
    "rank": lambda *given: flossing.effective_rank(*given, loss=mean_square, parameters=["w"]),
    "context": flossing.dynamical_context,
    "closed loop": lambda system, _, state: flossing.lyapunov_spectrum(
        flossing.closed_loop(system, lambda states: states[..., :2].tanh()), state=state, steps=40
    ),
}


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)) / 3)

    def forward(self, inputs, state):
        return torch.tanh(state @ self.w + inputs.repeat(1, 3))


def tensors(found):
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict) or dataclasses.is_dataclass(found):
        for value in (found if isinstance(found, dict) else vars(found)).values():
            yield from tensors(value)


@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)
def test_analyses(analysis):
    inputs = torch.randn(40, 2, 2, generator=torch.Generator().manual_seed(0))
    given = (Weighted(), inputs, torch.zeros(2, 6))
    expected = list(tensors(analysis(*given)))
    with autocast(True):
        found = list(tensors(analysis(*given)))
    assert len(found) == len(expected) > 0
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_angles_of_covariant_vectors():
    inputs = torch.randn(40, 2, 2, generator=torch.Generator().manual_seed(0))
    vectors = flossing.covariant_vectors(Weighted(), inputs, torch.zeros(2, 6), k=4)
    expected = (vectors.angles, vectors.smallest_angle, vectors.subspace_angle(2))
    with autocast(True):
        found = (vectors.angles, vectors.smallest_angle, vectors.subspace_angle(2))
    assert all(map(torch.equal, found, expected))


def test_other_gradients_of_the_same_pass_are_those_of_autocast():
    readout = nn.Linear(6, 1)

    def gradient(backward):
        torch.manual_seed(1)
        rnn, inputs = nn.RNN(2, 6), torch.randn(30, 2, 2)
        readout.zero_grad()
        with autocast(True):
            loss = readout(rnn(inputs)[0]).square().mean()
            loss = loss + flossing.flossing_loss(rnn, inputs, k=3)
        with autocast(backward):
            loss.backward()
        return readout.weight.grad.clone()

    torch.testing.assert_close(gradient(True), gradient(False), rtol=0.02, atol=1e-3)
