"""Modules around a recurrent one, transforms around a call, and numbers and arrays of NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import flossing
from flossing import (
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    UnsupportedDerivativeError,
    UnsupportedSystemError,
)

pytestmark = [
    pytest.mark.usefixtures("own_checks_only"),
    # PyTorch's compiler and forward mode use it when they are imported.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]

INPUTS = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(1))


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4)
        self.readout = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.readout(self.rnn(inputs)[0])


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.Linear(4, 4)
        self.feedforward = nn.Linear(3, 4)

    def forward(self, x, h):
        return torch.tanh(self.recurrent(h) + self.feedforward(x))


def distributed(module):
    # Without a process group: only its attribute is needed.
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = module
    return wrapper


WRAPPERS = [
    torch.compile,
    nn.DataParallel,
    AveragedModel,
    distributed,
    lambda module: nn.DataParallel(torch.compile(module)),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_are_looked_through(wrap):
    module = nn.GRU(3, 4, num_layers=2, batch_first=True)
    inputs = INPUTS.transpose(0, 1)
    wrapped = wrap(module)
    inner = wrapped.module if isinstance(wrapped, AveragedModel) else module
    expected = flossing.lyapunov_spectrum(module, inputs).exponents
    assert torch.equal(flossing.lyapunov_spectrum(wrapped, inputs).exponents, expected)
    expected = flossing.flossing_loss(module, inputs, k=2)
    assert torch.equal(flossing.flossing_loss(wrapped, inputs, k=2), expected)
    before = inner.weight_hh_l0.detach().clone()
    flossing.floss(wrapped, inputs, k=2, steps=2, piece=20)
    assert not torch.equal(inner.weight_hh_l0, before)


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_of_own_modules_are_looked_through(wrap):
    module, state = Cell(), torch.zeros(2, 4)
    expected = flossing.lyapunov_spectrum(module, INPUTS, state).exponents
    found = flossing.lyapunov_spectrum(wrap(module), INPUTS, state).exponents
    assert torch.equal(found, expected)


def test_a_watcher_attaches_to_the_module_inside():
    module, log = nn.GRU(3, 4), []
    with flossing.watch(nn.DataParallel(module), every=1, share=None).attach(log.append):
        module(INPUTS)
    assert len(log) == 1


@pytest.mark.parametrize("state", [None, torch.zeros(2, 4), torch.zeros(1, 2, 4)])
def test_a_whole_model_is_told_what_to_pass(state):
    with pytest.raises(UnsupportedSystemError, match=r"nn\.LSTM at \.rnn: pass model\.rnn"):
        flossing.lyapunov_spectrum(Tagger(), INPUTS, state)


def test_several_layers_are_listed():
    model = nn.Sequential(*[nn.GRU(3, 3) for _ in range(6)])
    message = r"nn\.GRU at \.0, .*\.3 and 2 more: pass model\.get_submodule\('0'\)"
    with pytest.raises(UnsupportedSystemError, match=message):
        flossing.lyapunov_spectrum(model, INPUTS)


def test_scripted_layers_are_refused_and_scripted_cells_are_served():
    with pytest.raises(UnsupportedSystemError, match=r"nn\.RNN.*pass the Python module"):
        flossing.lyapunov_spectrum(torch.jit.script(nn.RNN(3, 4)), INPUTS)
    cell, state = nn.GRUCell(3, 4), torch.zeros(2, 4)
    found = flossing.lyapunov_spectrum(torch.jit.script(cell), INPUTS, state).exponents
    expected = flossing.lyapunov_spectrum(cell, INPUTS, state).exponents
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


RNN = nn.RNN(3, 4)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.grad(f)(INPUTS),
        lambda f: torch.func.jvp(f, (INPUTS,), (INPUTS,)),
        lambda f: torch.vmap(f)(INPUTS.unsqueeze(0)),
        lambda f: torch.func.jacrev(f)(INPUTS),
    ],
)
def test_transforms_are_refused(transform):
    with pytest.raises(UnsupportedDerivativeError, match=r"torch\.func\.grad.*backward"):
        transform(lambda inputs: flossing.lyapunov_spectrum(RNN, inputs).exponents.sum())


def test_functional_call_serves_as_the_advice_says():
    class Measured(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = RNN

        def forward(self, inputs):
            return flossing.lyapunov_spectrum(self.rnn, inputs).exponents.sum()

    module = Measured()
    given = {n: (0.5 * p).detach().requires_grad_() for n, p in module.named_parameters()}
    found = torch.autograd.grad(
        torch.func.functional_call(module, given, (INPUTS,)), list(given.values())
    )
    other = nn.RNN(3, 4)
    other.load_state_dict({name.removeprefix("rnn."): p for name, p in given.items()})
    flossing.lyapunov_spectrum(other, INPUTS).exponents.sum().backward()
    for gradient, parameter in zip(found, other.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, torch.tensor])
def test_integers_of_other_libraries(integer):
    two = integer(2)
    options = {"k": 2, "reorthonormalize": 2, "state_gradient": 2, "frame_transient": 2}
    found = flossing.lyapunov_spectrum(
        nn.RNN(3, 4, num_layers=3), INPUTS, layer=two, checkpoint_interval=two, **options
    )
    assert found.exponents.shape == (2, 2)
    others = dict.fromkeys(options, two)
    expected = flossing.lyapunov_spectrum(RNN, INPUTS, **options).exponents
    assert torch.equal(flossing.lyapunov_spectrum(RNN, INPUTS, **others).exponents, expected)
    assert "flossing/exponent_2" in flossing.watch(RNN, k=two, share=None)(INPUTS)


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), 2.0, np.float64(2), "2", np.array([1, 2])]
)
@pytest.mark.parametrize("name", ["k", "reorthonormalize", "state_transient"])
def test_what_is_no_integer_is_refused(name, value):
    with pytest.raises(InvalidOptionError, match=f"{name} "):
        flossing.lyapunov_spectrum(RNN, INPUTS, **{name: value})


@pytest.mark.parametrize("layer", [True, 0.0, np.float64(0), 1, -1, "0"])
def test_layers_are_integers(layer):
    with pytest.raises(InvalidOptionError, match="layer must be from 0 to 0"):
        flossing.lyapunov_spectrum(RNN, INPUTS, layer=layer)


def test_arrays_are_refused_with_what_to_do():
    with pytest.raises(InvalidInputError, match=r"ndarray.*torch\.from_numpy"):
        flossing.lyapunov_spectrum(RNN, INPUTS.numpy())
    array = np.zeros((2, 4), np.float32)
    with pytest.raises(InvalidStateError, match=r"ndarray.*torch\.from_numpy"):
        flossing.lyapunov_spectrum(RNN, INPUTS, array[None])
    with pytest.raises(InvalidStateError, match=r"ndarray.*torch\.from_numpy"):
        flossing.lyapunov_spectrum(
            lambda x, s: (torch.tanh(s[0]), s[1]), INPUTS, (torch.zeros(2, 4), array)
        )


def test_complex_states_and_the_meta_device_are_refused():
    with pytest.raises(InvalidStateError, match="view_as_real"):
        flossing.lyapunov_spectrum(lambda x, h: h, INPUTS, torch.zeros(2, 4, dtype=torch.complex64))
    with pytest.raises(InvalidInputError, match=r"meta device.*to_empty"):
        flossing.lyapunov_spectrum(nn.RNN(3, 4, device="meta"), INPUTS.to("meta"))
