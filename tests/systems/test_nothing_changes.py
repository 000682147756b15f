"""After any public call a module is what it was, to the last bit."""

import random
import warnings

import numpy as np
import pytest
import sympy  # noqa: F401 - PyTorch imports it late, and it adds a filter of warnings
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import flossing

# The types are checked at random items of lists, with Python's random numbers.
pytestmark = pytest.mark.usefixtures("own_checks_only")

INPUTS = torch.randn(24, 2, 3, generator=torch.Generator().manual_seed(1))
# At the last but two of the steps, for a cell that fails there.
INPUTS[21, 0, 0] = 9.0
STATE = torch.full((2, 4), 0.1)
RANDOM_STATE = torch.Generator().get_state()


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


class LayerNormCell(BatchNormCell):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)


class RaisingCell(CountingCell):
    """A cell that changes its buffers, and fails late in the sequence."""

    def forward(self, x, h):
        h = super().forward(x, h)
        if bool((x == 9).any()):
            raise LookupError("late")
        return h


class WeightDrop(nn.Module):
    """A weight that is computed from another, with dropout, as in AWD-LSTM."""

    def forward(self, weight):
        return nn.functional.dropout(weight, 0.5, self.training)


def hooked(module):
    """A module that counts its own calls, before and after them."""
    module.calls = torch.zeros(2)
    module.register_forward_hook(lambda module, *_: count(module, 0))
    module.register_forward_pre_hook(lambda module, _: count(module, 1))
    return module


def count(module, index):
    module.calls[index] += 1


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
    "weight drop": lambda: with_weight_drop().eval(),
    "weight drop in train mode": lambda: with_weight_drop(),
    "bidirectional": lambda: nn.LSTM(3, 4, bidirectional=True),
    "dropout between layers": lambda: nn.GRU(3, 4, 2, dropout=0.5),
    "hooks": lambda: hooked(nn.GRU(3, 4)),
    "half precision": lambda: nn.GRU(3, 4).bfloat16(),
}


def with_weight_drop():
    layer = nn.LSTM(3, 4)
    parametrize.register_parametrization(layer, NAME, WeightDrop())
    return layer


CELLS = {
    "RNNCell": lambda: nn.RNNCell(3, 4),
    "layer norm": LayerNormCell,
    "cell with hooks": lambda: hooked(nn.GRUCell(3, 4)),
    "raising": RaisingCell,
    "wrapped": lambda: nn.DataParallel(LayerNormCell()),
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


def last_squared(outputs):
    return (outputs[0] if isinstance(outputs, tuple) else outputs)[-1].float().square().sum()


def closed(module, state):
    loop = flossing.closed_loop(module, nn.Linear(4, 3, dtype=INPUTS.dtype))
    torch.set_rng_state(RANDOM_STATE)
    state = loop.warm_up(INPUTS, state)
    torch.set_rng_state(RANDOM_STATE)
    flossing.lyapunov_spectrum(loop, state=state, steps=20)


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
    "gradient_horizon": lambda m, s: flossing.gradient_horizon(m, INPUTS, s, loss=last_squared),
    "covariant_vectors": lambda m, s: flossing.covariant_vectors(m, INPUTS, s),
    "dynamical_context": lambda m, s: flossing.dynamical_context(m, INPUTS, s),
    "effective_rank": lambda m, s: flossing.effective_rank(m, INPUTS, s, loss=last_squared),
    "convergence": lambda m, s: flossing.convergence(flossing.lyapunov_spectrum(m, INPUTS, s)),
    "watch": lambda m, s: flossing.watch(m, k=2, share=None)(INPUTS, s),
    "closed_loop": closed,
    "too many exponents": lambda m, s: flossing.flossing_loss(m, INPUTS, s, k=99),
    "inputs that are not finite": lambda m, s: flossing.lyapunov_spectrum(m, INPUTS / 0, s),
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
    flags = {
        "training": {path: each.training for path, each in module.named_modules()},
        "requires_grad": {name: each.requires_grad for name, each in tensors.items()},
        "keys": list(module.state_dict()),
        "hooks": [(*m._forward_hooks, *m._forward_pre_hooks) for m in module.modules()],
    }
    return tensors, values, gradients, flags


def surroundings():
    """Return what belongs to the process."""
    return {
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002 - the global one
        "torch": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomalies": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
    }


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
    torch.set_rng_state(RANDOM_STATE)
    tensors, values, gradients, flags = contents(module)
    inputs, around = INPUTS.clone(), surroundings()
    flossed = call is CALLS["floss"]
    try:
        call(module, state)
    except flossing.FlossingError:
        # Refused, as dropout in train mode is, or failed in the middle: still nothing has changed.
        flossed = False
    after = contents(module)
    assert surroundings() == around
    assert torch.equal(INPUTS, inputs)
    assert after[3] == flags
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
