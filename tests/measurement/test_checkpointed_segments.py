"""Checkpoints: the same results, and no step computed once more for every derivative."""

import pytest
import torch
from torch import nn

import flossing
from flossing.systems.stock import StockRecurrence

STEPS = 24
INTERVALS = [1, 2, 3, 7, 24]


class Counted(nn.Module):
    """A cell that counts its calls, which the derivatives are taken through."""

    def __init__(self, size=5):
        super().__init__()
        self.inner = nn.Linear(size, size, dtype=torch.float64)
        self.calls = 0

    def forward(self, inputs, state):
        self.calls += 1
        return torch.tanh(self.inner(state) + inputs)


def measured(system, interval, size=5, steps=STEPS, **options):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(steps, 2, size, dtype=torch.float64, generator=generator)
    state = torch.zeros(2, size, dtype=torch.float64)
    spectrum = flossing.lyapunov_spectrum(
        system, inputs, state, checkpoint_interval=interval, **options
    )
    forward = getattr(system, "calls", 0)
    gradients = torch.autograd.grad(spectrum.exponents.square().sum(), system.parameters())
    return spectrum.exponents, gradients, forward


def compared(system, interval, **options):
    """Return the calls of a forward pass without and with checkpoints, and all of the latter."""
    plain, expected, calls = measured(system, None, **options)
    system.calls = 0
    checkpointed, gradients, forward = measured(system, interval, **options)
    torch.testing.assert_close(checkpointed, plain, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradients, expected, rtol=1e-8, atol=1e-11)
    return calls, forward, system.calls


@pytest.mark.parametrize("backend", ["torch", "compiled", "reference"])
@pytest.mark.parametrize("interval", INTERVALS)
def test_a_cell_is_called_little_more_often(backend, interval):
    plain, forward, all_calls = compared(Counted(), interval, k=3, backend=backend)
    assert forward <= 1.5 * plain
    # And once more in the backward pass.
    assert all_calls <= 2 * forward


@pytest.mark.parametrize("interval", [1, 6])
def test_long_trajectories(interval):
    options = {"k": 2, "size": 3, "steps": 100, "backend": "torch", "reorthonormalize": 2}
    plain, forward, _ = compared(Counted(3), interval, **options)
    assert forward <= 1.5 * plain


@pytest.mark.parametrize("interval", [1, 3])
def test_states_too_large_for_explicit_jacobians(interval):
    options = {"k": 2, "size": 70, "backend": "torch", "state_gradient": "detach"}
    plain, forward, all_calls = compared(Counted(70), interval, **options)
    assert forward <= 1.5 * plain
    assert all_calls <= 2.5 * forward


@pytest.mark.parametrize("interval", [1, 3])
def test_a_callable_without_batch_dimension(interval):
    weight = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    calls = []

    def step(state):
        calls.append(state)
        return torch.tanh(state @ weight)

    def forward(checkpoint_interval):
        calls.clear()
        state = torch.ones(4, dtype=torch.float64)
        options = {"steps": STEPS, "k": 2, "checkpoint_interval": checkpoint_interval}
        exponents = flossing.lyapunov_spectrum(step, None, state, **options).exponents
        return exponents, len(calls)

    expected, plain = forward(None)
    found, checkpointed = forward(interval)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert checkpointed <= 1.5 * plain


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("interval", [1, 3])
def test_a_layer_with_projection(backend, interval, monkeypatch):
    calls = []
    step = StockRecurrence.step
    monkeypatch.setattr(
        StockRecurrence, "step", lambda *arguments: calls.append(1) or step(*arguments)
    )

    lstm = nn.LSTM(2, 3, proj_size=2, dtype=torch.float64)
    inputs = torch.randn(STEPS, 2, 2, dtype=torch.float64)
    found = []
    for each in (None, interval):
        calls.clear()
        options = {"k": 3, "backend": backend, "checkpoint_interval": each}
        exponents = flossing.lyapunov_spectrum(lstm, inputs, **options).exponents
        forward = len(calls)
        gradients = torch.autograd.grad(exponents.square().sum(), lstm.parameters())
        found.append((exponents, gradients, forward))
    (plain, expected, calls_without), (checkpointed, gradients, calls_with) = found
    torch.testing.assert_close(checkpointed, plain, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradients, expected, rtol=1e-8, atol=1e-11)
    # The states are those of PyTorch's own loop: all calls of the step are for derivatives.
    assert calls_with <= (1.5 * calls_without if backend == "reference" else STEPS)


def test_rows_that_depend_on_one_another_are_noticed_later_in_the_run():
    # Only from the eleventh step on: the check is made of steps all along the run.
    def step(inputs, state):
        coupled = torch.tanh(state + inputs) + inputs[..., :1] * state.mean(0)
        return torch.where(inputs > 1, coupled, torch.tanh(state + inputs))

    inputs = torch.linspace(0, 2, 20, dtype=torch.float64)[:, None, None].expand(20, 3, 2)
    state = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(flossing.UnsupportedSystemError, match="depend on one another"):
        flossing.lyapunov_spectrum(step, inputs, state, checkpoint_interval=4, backend="torch")
