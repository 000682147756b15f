"""Parameters that exponents do not depend on have no gradient, whichever backend computes it.

With AdamW, a gradient of zero would change them, and none would not: results would depend on
whether compiled code was ready.
"""

import pytest
import torch
from torch import nn

import flossing

BACKENDS = ["torch", "compiled", "reference"]
OPTIONS = [
    {},
    {"state_gradient": "detach"},
    {"state_gradient": 4},
    {"checkpoint_interval": 7},
]


def active(kind=nn.RNN, **options):
    """Return a module that keeps its units active, so that no frame loses rank."""
    module = kind(2, 6, **options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name:
                parameter.add_(3)
            elif "weight_hh" in name:
                nn.init.normal_(parameter, std=0.4)
    return module


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.Linear(6, 6)
        self.driven = nn.Linear(2, 6)
        nn.init.constant_(self.recurrent.bias, 3)

    def forward(self, inputs, state):
        return torch.relu(self.recurrent(state) + self.driven(inputs))


def with_gradients(module, backend, layer=None, **options):
    inputs = torch.randn(20, 2, 2, requires_grad=True)
    result = flossing.lyapunov_spectrum(
        module, inputs, k=2, layer=layer, backend=backend, **options
    )
    result.exponents.square().mean().backward()
    named = [*module.named_parameters(), ("inputs", inputs)]
    assert all(p.grad is None or bool(p.grad.any()) for _, p in named)
    return {name for name, p in named if p.grad is not None}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_relu(backend, options):
    relu = {"nonlinearity": "relu"}
    assert with_gradients(active(**relu), backend, **options) == {"weight_hh_l0"}
    assert with_gradients(active(nn.RNNCell, **relu), backend, **options) == {"weight_hh"}
    stack = active(**relu, num_layers=2)
    # The states are pieces of one whole: W_ih of layer 1 carries tangent vectors upwards.
    whole = {"weight_hh_l0", "weight_ih_l1", "weight_hh_l1"}
    assert with_gradients(stack, backend, **options) == whole
    for layer in (0, 1):
        stack.zero_grad()
        assert with_gradients(stack, backend, layer, **options) == {f"weight_hh_l{layer}"}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_layers_above_a_selected_one(kind, backend, options):
    found = with_gradients(active(kind, num_layers=2), backend, 0, **options)
    weights = {f"{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    assert found - {"inputs"} == weights


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_all_weights_of_other_layers_have_influence(kind, backend):
    stack = active(kind, num_layers=2)
    assert with_gradients(stack, backend) - {"inputs"} == {n for n, _ in stack.named_parameters()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_that_happens_to_be_zero(backend):
    """The exponents of an identity are on target: a step, not an error."""
    rnn = nn.RNN(2, 4, nonlinearity="relu")
    nn.init.eye_(rnn.weight_hh_l0)
    history = flossing.floss(rnn, torch.rand(12, 1, 2), k=2, steps=2, lr=1e-8, backend=backend)
    assert bool((history.loss < 1e-10).all())


def test_tied_weights_have_gradients_where_they_have_influence():
    stack = nn.GRU(6, 6, num_layers=2)
    stack.weight_ih_l1, stack.weight_hh_l1 = stack.weight_ih_l0, stack.weight_hh_l0
    gradients = []
    for backend in BACKENDS:
        inputs = torch.randn(20, 1, 6, generator=torch.Generator().manual_seed(0))
        result = flossing.lyapunov_spectrum(stack, inputs, k=2, layer=0, backend=backend)
        gradients.append(torch.autograd.grad(result.exponents.sum(), stack.weight_hh_l0)[0])
    for each in gradients[1:]:
        torch.testing.assert_close(each, gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_decay_in_training(backend):
    rnn = active(nonlinearity="relu")
    before = {name: p.detach().clone() for name, p in rnn.named_parameters()}
    optimizer = torch.optim.AdamW(rnn.parameters(), weight_decay=0.5)
    flossing.flossing_loss(rnn, torch.randn(20, 2, 2), k=2, backend=backend).backward()
    optimizer.step()
    changed = {name for name, p in rnn.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"weight_hh_l0"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("make", "moved"),
    [(lambda: active(nonlinearity="relu"), {"weight_hh_l0"}), (Cell, {"recurrent.weight"})],
)
def test_weight_decay_in_floss(make, moved, backend):
    system = make()
    before = {name: p.detach().clone() for name, p in system.named_parameters()}
    flossing.floss(
        system,
        torch.randn(20, 2, 2),
        k=2,
        steps=2,
        state=torch.zeros(2, 6) if isinstance(system, Cell) else None,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.5),
        backend=backend,
    )
    changed = {name for name, p in system.named_parameters() if not torch.equal(p, before[name])}
    assert changed == moved
