"""After any public call a module is what it was, to the last bit."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import flossing

INPUTS = torch.randn(24, 2, 3, generator=torch.Generator().manual_seed(1))
STATE = torch.full((2, 4), 0.1)


class BatchNormCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x, h):
        return self.norm(self.cell(x, h))


class CountingCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(3, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x, h):
        h = self.cell(x, h)
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h


class NormalisedCell(nn.Module):
    """A cell of linear maps with computed weights."""

    def __init__(self, normalise):
        super().__init__()
        self.recurrent = normalise(nn.Linear(4, 4))
        self.feedforward = nn.Linear(3, 4)

    def forward(self, x, h):
        return torch.tanh(self.recurrent(h) + self.feedforward(x))


class DropoutCell(BatchNormCell):
    def __init__(self):
        super().__init__()
        self.norm = nn.Dropout(0.5)


def older(function, *arguments):
    def make(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(module, *arguments)

    return make


NAME = "weight_hh_l0"

LAYERS = {
    "RNN": lambda: nn.RNN(3, 4),
    "LSTM of two layers": lambda: nn.LSTM(3, 4, num_layers=2),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.GRU(3, 4), NAME),
    "weight_norm": lambda: parametrizations.weight_norm(nn.LSTM(3, 4), NAME),
    "orthogonal": lambda: parametrizations.orthogonal(nn.RNN(3, 4), NAME),
    "older spectral_norm": lambda: older(nn.utils.spectral_norm, NAME)(nn.GRU(3, 4)),
    "older weight_norm": lambda: older(nn.utils.weight_norm, NAME)(nn.RNN(3, 4)),
    "pruned": lambda: prune.random_unstructured(nn.GRU(3, 4), NAME, 0.4),
}

CELLS = {
    "pruned cell": lambda: prune.random_unstructured(nn.GRUCell(3, 4), "weight_hh", 0.4),
    "cell with spectral_norm": lambda: parametrizations.spectral_norm(
        nn.RNNCell(3, 4), "weight_hh"
    ),
    "batch norm": lambda: BatchNormCell().eval(),
    "batch norm in train mode": BatchNormCell,
    "dropout in train mode": DropoutCell,
    "buffers that change": CountingCell,
    "linear with spectral_norm": lambda: NormalisedCell(parametrizations.spectral_norm),
    "linear with older spectral_norm": lambda: NormalisedCell(older(nn.utils.spectral_norm)),
    "linear with older weight_norm": lambda: NormalisedCell(older(nn.utils.weight_norm)),
    "pruned linear": lambda: NormalisedCell(
        lambda linear: prune.random_unstructured(linear, "weight", 0.4)
    ),
}

CALLS = {
    "lyapunov_spectrum": lambda m, s: flossing.lyapunov_spectrum(m, INPUTS, s),
    "in double precision": lambda m, s: flossing.lyapunov_spectrum(
        m, INPUTS, s, dtype=torch.float64
    ),
    "without gradients": torch.no_grad()(lambda m, s: flossing.lyapunov_spectrum(m, INPUTS, s)),
    "reference": lambda m, s: flossing.lyapunov_spectrum(m, INPUTS, s, backend="reference"),
    "flossing_loss": lambda m, s: flossing.flossing_loss(m, INPUTS, s, k=2),
    "floss": lambda m, s: flossing.floss(m, INPUTS, k=2, steps=2, state=s),
    "long_term_jacobian": lambda m, s: flossing.long_term_jacobian(m, INPUTS, s),
    "gradient_horizon": lambda m, s: flossing.gradient_horizon(m, INPUTS, s),
    "covariant_vectors": lambda m, s: flossing.covariant_vectors(m, INPUTS, s),
    "dynamical_context": lambda m, s: flossing.dynamical_context(m, INPUTS, s),
    "watch": lambda m, s: flossing.watch(m, k=2, share=None)(INPUTS, s),
}


def contents(module):
    """Return all tensors and flags of a module, with copies of the tensors' values."""
    tensors = {}
    for path, each in module.named_modules():
        for name, value in [*each._parameters.items(), *each._buffers.items(), *vars(each).items()]:
            if isinstance(value, torch.Tensor):
                tensors[f"{path}.{name}"] = value
    values = {name: value.detach().clone() for name, value in tensors.items()}
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    training = {path: each.training for path, each in module.named_modules()}
    return tensors, values, gradients, training


CASES = [
    *((make, None) for make in LAYERS.values()),
    *((make, STATE) for make in CELLS.values()),
]


@pytest.mark.filterwarnings("ignore::flossing.NumericalWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("make", "state"), CASES, ids=[*LAYERS, *CELLS])
def test_a_call_leaves_everything_as_it_was(make, state, call):
    module = make()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    tensors, values, gradients, training = contents(module)
    random_state = torch.get_rng_state()
    inputs = INPUTS.clone()
    flossed = call is CALLS["floss"]
    try:
        call(module, state)
    except flossing.UnsupportedSystemError:
        # Refused, as batch statistics and dropout in train mode are: still nothing has changed.
        assert module.training
        flossed = False
    after = contents(module)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(INPUTS, inputs)
    assert after[3] == training
    assert after[0].keys() == tensors.keys()
    # By memory: the older spectral_norm first stores its weight as a view of the original.
    parameters = {parameter.data_ptr() for parameter in module.parameters()}
    for name, tensor in tensors.items():
        assert after[0][name] is tensor, name
        if not (flossed and tensor.data_ptr() in parameters):
            assert torch.equal(after[1][name], values[name]), name
    assert after[2].keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(after[2][name], gradient)
