"""Parameters that exponents do not depend on have no gradient, whichever loops compute it.

With AdamW, a gradient of zero would change them, and none would not: results would depend on
whether compiled code was ready.
"""

import pytest
import torch
from torch import nn

import flossing

LAYERS = {
    "relu": lambda: nn.RNN(2, 4, nonlinearity="relu"),
    "two relu layers": lambda: nn.RNN(2, 4, num_layers=2, nonlinearity="relu"),
    "relu cell": lambda: nn.RNNCell(2, 4, nonlinearity="relu"),
    "tanh": lambda: nn.RNN(2, 4),
    "gru": lambda: nn.GRU(2, 4),
    "lstm": lambda: nn.LSTM(2, 4),
}


def active(name):
    """Return a layer whose units are all active."""
    torch.manual_seed(0)
    module = LAYERS[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_().add_(0.1)
    return module


def with_gradient(name, backend, state_gradient):
    module = active(name)
    flossing.flossing_loss(
        module, torch.rand(12, 1, 2), k=2, backend=backend, state_gradient=state_gradient
    ).backward()
    return {each for each, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("state_gradient", ["full", "detach", 3])
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_parameters_have_gradients(name, state_gradient):
    expected = {
        each
        for each, _ in LAYERS[name]().named_parameters()
        if "relu" not in name or each.startswith("weight_hh")
    }
    assert with_gradient(name, "torch", state_gradient) == expected
    assert with_gradient(name, "compiled", state_gradient) == expected


@pytest.mark.parametrize("backend", ["torch", "compiled"])
def test_weight_decay_does_not_touch_them(backend):
    module = active("relu")
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    flossing.floss(
        module,
        torch.rand(12, 1, 2),
        k=2,
        steps=3,
        backend=backend,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.5),
    )
    changed = {n for n, each in module.named_parameters() if not torch.equal(each, before[n])}
    assert changed == {"weight_hh_l0"}
