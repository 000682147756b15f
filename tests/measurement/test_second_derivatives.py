"""Second derivatives are right (reference backend) or refused: never a part of them."""

import pytest
import torch
from torch import nn
from torch.autograd import functional

import flossing
from flossing import UnsupportedDerivativeError


class Cell(nn.Module):
    """A cell that the library knows nothing about."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x, state):
        return torch.tanh(self.linear(torch.cat([x, state], dim=-1)))


class Wide(nn.Module):
    """More units than explicit Jacobians are built for."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 70)
        self.recurrent = nn.Linear(70, 70)

    def forward(self, x, state):
        return torch.tanh(self.inner(x) + self.recurrent(state))


def positive(module):
    """Keep all units active, by weights and biases above zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_().add_(0.3)
    return module


SYSTEMS = {
    "RNN": lambda: nn.RNN(2, 3),
    "ReLU": lambda: positive(nn.RNN(2, 3, nonlinearity="relu")),
    "GRU": lambda: nn.GRU(2, 3),
    "LSTM": lambda: nn.LSTM(2, 3),
    "GRUCell": lambda: nn.GRUCell(2, 3),
    "two layers": lambda: nn.GRU(2, 3, num_layers=2),
    "projected": lambda: nn.LSTM(2, 4, proj_size=2),
    "own cell": Cell,
    # Too large for explicit Jacobians: products are taken one step at a time.
    "large own cell": Wide,
}
FAST = ["torch", "compiled"]


def loss_of_weight(name, **options):
    """Return the flossing loss as a function of a weight, and that weight."""
    torch.manual_seed(0)
    module = SYSTEMS[name]().double()
    size = 70 if name == "large own cell" else 3
    custom = "own cell" in name
    inputs = torch.rand(8, 1, 2, dtype=torch.float64)
    state = torch.zeros(1, size, dtype=torch.float64) if custom else None
    # Exponents of ReLU networks do not depend on the input weights, between kinks.
    names = dict(module.named_parameters())
    key = next((each for each in names if "weight_hh" in each), next(iter(names)))
    weight = names[key]

    def loss(value):
        with torch.nn.utils.stateless._reparametrize_module(module, {key: value}):
            return flossing.flossing_loss(module, inputs, state, k=2, **options)

    return loss, weight.detach().clone()


WAYS = {
    "create_graph": lambda loss, x, v: torch.autograd.grad(
        (torch.autograd.grad(loss(x), x, create_graph=True)[0] * v).sum(), x
    ),
    "hvp": lambda loss, x, v: functional.hvp(loss, x, v),
    "vhp": lambda loss, x, v: functional.vhp(loss, x, v),
    "jvp": lambda loss, x, v: functional.jvp(loss, x, v),
    "backward twice": lambda loss, x, v: (
        (torch.autograd.grad(loss(x), x, create_graph=True)[0] * v).sum().backward()
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", SYSTEMS)
def test_fast_backends_refuse(name, backend, way):
    loss, weight = loss_of_weight(name, backend=backend)
    weight.requires_grad_()
    with pytest.raises(UnsupportedDerivativeError, match="backend='reference'"):
        WAYS[way](loss, weight, torch.ones_like(weight))


@pytest.mark.parametrize("state_gradient", ["detach", 3])
@pytest.mark.parametrize("backend", FAST)
def test_refused_with_a_truncated_state_gradient(backend, state_gradient):
    loss, weight = loss_of_weight("GRU", backend=backend, state_gradient=state_gradient)
    with pytest.raises(UnsupportedDerivativeError):
        functional.hvp(loss, weight, torch.ones_like(weight))


@pytest.mark.parametrize("backend", FAST)
def test_refused_beside_other_terms_and_over_segments(backend):
    loss, weight = loss_of_weight("LSTM", backend=backend, checkpoint_interval=3)
    with pytest.raises(UnsupportedDerivativeError):
        functional.hvp(lambda x: loss(x) + x.square().sum(), weight, torch.ones_like(weight))


@pytest.mark.parametrize("backend", FAST)
def test_explicit_jacobians_are_refused(backend):
    jacobians = torch.randn(6, 1, 3, 3, dtype=torch.float64)

    def loss(stack):
        return flossing.log_growth_rates(stack, backend=backend).exponents.square().sum()

    with pytest.raises(UnsupportedDerivativeError):
        functional.hvp(loss, jacobians, torch.ones_like(jacobians))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_graph_that_is_not_followed_changes_nothing(name, backend):
    loss, weight = loss_of_weight(name, backend=backend)
    weight.requires_grad_()
    (plain,) = torch.autograd.grad(loss(weight), weight)
    (with_graph,) = torch.autograd.grad(loss(weight), weight, create_graph=True)
    assert torch.equal(plain, with_graph.detach())


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "large own cell"])
def test_the_reference_differentiates_twice(name):
    loss, weight = loss_of_weight(name, backend="reference")
    weight.requires_grad_()
    # The fast mode compares random combinations of all entries; all of them take half a minute.
    fast = name != "RNN"
    assert torch.autograd.gradgradcheck(loss, (weight,), atol=1e-6, rtol=1e-4, fast_mode=fast)


def test_the_reference_differentiates_explicit_jacobians_twice():
    jacobians = torch.randn(4, 1, 3, 3, dtype=torch.float64, requires_grad=True)

    def loss(stack):
        return flossing.log_growth_rates(stack, backend="reference").exponents.square().sum()

    assert torch.autograd.gradgradcheck(loss, (jacobians,), atol=1e-6, rtol=1e-4)
