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
    with pytest.raises(UnsupportedSystemError, match=r"nn\.RNN.*pass the module from which"):
        flossing.lyapunov_spectrum(torch.jit.script(nn.RNN(3, 4)), INPUTS)
    cell, state = nn.GRUCell(3, 4), torch.zeros(2, 4)
    found = flossing.lyapunov_spectrum(torch.jit.script(cell), INPUTS, state).exponents
    expected = flossing.lyapunov_spectrum(cell, INPUTS, state).exponents
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


class Looped(nn.Module):
    """A layer written as a loop over a cell."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, inputs):
        state = None
        for x in inputs:
            state = self.cell(x, state)
        return state


class Lightning(nn.Module):
    """A module around a compiled model."""

    def __init__(self):
        super().__init__()
        self.model = Tagger()
        self.model.rnn = torch.compile(self.model.rnn)

    def training_step(self, batch):
        return self.model(batch)


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (Looped, "nn.LSTMCell at .cell: pass model.cell,"),
        (Lightning, "nn.LSTM at .model.rnn: pass model.model.rnn,"),
        (lambda: nn.Sequential(Looped()), "nn.LSTMCell at .0.cell: pass model.get_submodule('0.c"),
    ],
)
@pytest.mark.parametrize("state", [None, (torch.zeros(2, 4), torch.zeros(2, 4))])
def test_models_around_cells_and_models_are_told_what_to_pass(make, advice, state):
    with pytest.raises(UnsupportedSystemError) as caught:
        flossing.lyapunov_spectrum(make(), INPUTS, state)
    assert advice in str(caught.value)


CALLS = {
    "flossing_loss": lambda model: flossing.flossing_loss(model, INPUTS, k=2),
    "floss": lambda model: flossing.floss(model, INPUTS, k=2, steps=1),
    "pieces": lambda model: flossing.floss(model, INPUTS, k=2, steps=1, piece=20),
    "Flosser": lambda model: flossing.Flosser(model, k=2, before=1).before_training(INPUTS),
    "watch": lambda model: flossing.watch(model)(INPUTS),
    "attach": lambda model: flossing.watch(model).attach(print),
    "long_term_jacobian": lambda model: flossing.long_term_jacobian(model, INPUTS),
    "gradient_horizon": lambda model: flossing.gradient_horizon(model, INPUTS),
    "covariant_vectors": lambda model: flossing.covariant_vectors(model, INPUTS),
    "dynamical_context": lambda model: flossing.dynamical_context(model, INPUTS),
    "effective_rank": lambda model: flossing.effective_rank(model, INPUTS, loss=torch.sum),
    "warm_up": lambda model: flossing.closed_loop(model, model.readout).warm_up(INPUTS),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_tells_what_to_pass(call):
    with pytest.raises(UnsupportedSystemError, match=r"nn\.LSTM at \.rnn: pass model\.rnn"):
        call(Tagger())


def test_steps_that_run_are_not_told_to_pass_a_part_of_them():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(3, 4)

        def forward(self, x, h):
            h += self.cell(x, h)
            return h

    with pytest.raises(UnsupportedSystemError, match=r"in place.*h\.clone\(\)$"):
        flossing.lyapunov_spectrum(Step(), INPUTS, torch.zeros(2, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_layers_are_refused():
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(3, 4)))
    with pytest.raises(UnsupportedSystemError, match=r"this nn\.LSTM is a torch\.ao.*quantization"):
        flossing.lyapunov_spectrum(quantised[0], INPUTS)


# What PyTorch's compiler does itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_steps_do_not_stop_the_gradient():
    module, state = Cell(), torch.zeros(2, 4)
    expected = flossing.flossing_loss(module, INPUTS, state, k=2)
    compiled = torch.compile(lambda x, h: module(x, h))
    assert torch.equal(flossing.flossing_loss(compiled, INPUTS, state, k=2), expected)
    # Compiled in its place, a module cannot be told from what it was; the advice works.
    module.compile()
    with pytest.raises(UnsupportedSystemError, match=r"set_stance\('force_eager'\)"):
        flossing.flossing_loss(module, INPUTS, state, k=2)
    with torch.compiler.set_stance("force_eager"):
        loss = flossing.flossing_loss(module, INPUTS, state, k=2)
    assert torch.equal(loss, expected)
    loss.backward()


def test_exported_steps_need_a_batch_of_any_size():
    module, state = Cell(), torch.zeros(2, 4)
    fixed = torch.export.export(module, (INPUTS[0], state)).module()
    with pytest.raises(UnsupportedSystemError, match=r"any batch size.*dynamic_shapes=\(\{0: Dim"):
        flossing.lyapunov_spectrum(fixed, INPUTS, state)
    batch = {0: torch.export.Dim.AUTO}
    free = torch.export.export(module, (INPUTS[0], state), dynamic_shapes=(batch, batch)).module()
    found = flossing.flossing_loss(free, INPUTS, state, k=2)
    torch.testing.assert_close(found, flossing.flossing_loss(module, INPUTS, state, k=2))


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


@pytest.mark.parametrize(
    "measure",
    [
        lambda x: flossing.log_growth_rates(torch.eye(3) * x.sum() ** 0).exponents.sum(),
        lambda x: flossing.watch(RNN, share=None)(x) and x.sum(),
        lambda x: flossing.long_term_jacobian(RNN, x) and x.sum(),
        lambda x: flossing.floss(RNN, x, k=2, steps=1) and x.sum(),
    ],
)
def test_transforms_are_refused_by_every_call(measure):
    with pytest.raises(UnsupportedDerivativeError, match=r"torch\.func\.grad.*backward"):
        torch.func.grad(measure)(INPUTS)


def test_forward_mode_is_refused():
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(INPUTS, torch.ones_like(INPUTS))
        with pytest.raises(UnsupportedDerivativeError, match="forward-mode"):
            flossing.lyapunov_spectrum(lambda x, h: torch.tanh(h + x), dual, torch.zeros(2, 3))


def test_transforms_inside_a_step_are_served():
    def potential(h):
        return (h**4).sum()

    def by_transform(x, h):
        return h - 0.1 * torch.vmap(torch.func.grad(potential))(h) + 0.01 * x

    def by_hand(x, h):
        return h - 0.4 * h**3 + 0.01 * x

    state = torch.full((2, 3), 0.5, requires_grad=True)
    found, expected = (
        flossing.flossing_loss(step, INPUTS, state, k=2) for step in (by_transform, by_hand)
    )
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, state)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


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


def test_complex_states_are_refused_and_the_advice_works():
    factor = torch.tensor([0.5 + 0.5j, 0.2j])
    state = torch.randn(1, 2, dtype=torch.complex64)
    with pytest.raises(InvalidStateError, match=r"view_as_real\(state\)\.flatten\(-2\)"):
        flossing.lyapunov_spectrum(lambda h: factor * h, state=state, steps=40)

    def step(h):
        h = torch.view_as_complex(h.unflatten(-1, (-1, 2)))
        return torch.view_as_real(factor * h).flatten(-2)

    real = torch.view_as_real(state).flatten(-2)
    found = flossing.lyapunov_spectrum(step, state=real, steps=40).exponents[0]
    expected = factor.abs().log().repeat_interleave(2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


REFUSED = {
    "complex": (INPUTS.to(torch.complex64), "view_as_real"),
    "sparse": (INPUTS.to_sparse(), r"to_dense\(\)"),
    "meta": (INPUTS.to("meta"), r"meta device.*to_empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_of_inputs_are_refused(name):
    inputs, message = REFUSED[name]
    for system, state in ((RNN, None), (Cell(), torch.zeros(2, 4))):
        with pytest.raises(InvalidInputError, match=message):
            flossing.lyapunov_spectrum(system, inputs, state)


@pytest.mark.parametrize("make", [nn.RNN, nn.GRUCell])
def test_modules_on_the_meta_device_are_refused(make):
    with pytest.raises(InvalidInputError, match=r"parameters.*meta device.*to_empty"):
        flossing.lyapunov_spectrum(make(3, 4, device="meta"), INPUTS)


def test_jacobians_that_are_not_real_numbers_are_refused():
    jacobians = torch.eye(3).repeat(9, 1, 1)
    with pytest.raises(InvalidInputError, match="meta device"):
        flossing.log_growth_rates(jacobians.to("meta"))
    turned = jacobians * torch.tensor(0.3 + 0.4j)
    with pytest.raises(InvalidInputError, match=r"Re J, −Im J"):
        flossing.log_growth_rates(turned)
    blocks = [[turned.real, -turned.imag], [turned.imag, turned.real]]
    real = torch.cat([torch.cat(row, dim=-1) for row in blocks], dim=-2)
    exponents = flossing.log_growth_rates(real).exponents
    torch.testing.assert_close(exponents, torch.full((1, 6), 0.5).log())


class DTensor(torch.Tensor):
    """Stands for a distributed tensor, which needs a process group."""


def test_distributed_tensors_are_refused():
    module = nn.GRU(3, 4)
    for name, parameter in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(parameter.detach().as_subclass(DTensor)))
    with pytest.raises(UnsupportedSystemError, match=r"parameters are distributed.*full_tensor"):
        flossing.lyapunov_spectrum(module, INPUTS)
    with pytest.raises(InvalidInputError, match="inputs are distributed"):
        flossing.lyapunov_spectrum(RNN, INPUTS.as_subclass(DTensor))
