"""The fast path equals the slow reference: values and gradients, over random options."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing
from flossing.compiled import compiler

TOLERANCE = 1e-9


class Case(NamedTuple):
    """A system with inputs and state, all leaves that gradients are compared for, and options."""

    measure: object
    leaves: list[torch.Tensor]


class TupleCell(nn.Module):
    """A cell with an uneven two-part state, an output, and couplings both ways."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.fast = nn.Linear(features + 5, 3)
        self.slow = nn.Linear(3, 2)

    def forward(self, inputs, state):
        fast, slow = state
        fast = torch.tanh(self.fast(torch.cat([inputs, fast, slow], dim=-1)))
        slow = 0.8 * slow + 0.3 * torch.sin(self.slow(fast))
        return fast.sum(-1), (fast, slow)


class TensorCell(nn.Module):
    """A leaky rate network: one tensor, no output."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(4, 4)
        self.feedforward = nn.Linear(features, 4, bias=False)

    def forward(self, inputs, state):
        drive = self.recurrent(torch.tanh(state)) + self.feedforward(inputs)
        return 0.7 * state + 0.3 * drive


def _leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@st.composite
def stock_modules(draw):
    features, layers = draw(st.integers(1, 3)), 1
    kind = draw(st.sampled_from(["tanh", "relu", "gru", "lstm", "projected"]))
    as_cell = kind != "projected" and draw(st.booleans())
    bias = draw(st.booleans())
    options = {}
    if as_cell:
        classes = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}
    else:
        classes = {"gru": nn.GRU, "lstm": nn.LSTM, "projected": nn.LSTM}
        layers = draw(st.integers(1, 3))
        options = {"num_layers": layers, "batch_first": draw(st.booleans())}
    # With 9 state variables a frame has more than one block, and more than one vector register.
    # The reference builds the Jacobians of large stacks in minutes.
    wide = [9, 17] if layers == 1 and kind != "projected" else []
    hidden = draw(st.sampled_from([2, 3, 4, *wide]))
    if kind in ("tanh", "relu"):
        options["nonlinearity"] = kind
    if kind == "projected":
        options["proj_size"] = hidden - 1
    default = nn.RNNCell if as_cell else nn.RNN
    module = classes.get(kind, default)(features, hidden, bias=bias, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    layer = draw(st.sampled_from([None, *range(layers)])) if layers > 1 else None

    steps, batch = draw(st.integers(4, 9)), draw(st.integers(1, 3))
    form = draw(st.sampled_from(["batched", "unbatched", "packed"]))
    batch = 1 if form == "unbatched" else batch
    inputs = _leaf(steps, batch, features)
    lengths = [draw(st.integers(4, steps)) for _ in range(batch)]

    def arranged():
        if form == "packed":
            return pack_padded_sequence(inputs, lengths, enforce_sorted=False)
        if form == "unbatched":
            return inputs.squeeze(1)
        return inputs.transpose(0, 1) if options.get("batch_first") else inputs

    sizes = {"lstm": [hidden, hidden], "projected": [hidden - 1, hidden]}.get(kind, [hidden])
    shape = () if as_cell else (layers,)
    shape = shape if form == "unbatched" else (*shape, batch)
    blocks = [_leaf(*shape, size) for size in sizes]
    state = tuple(blocks) if len(blocks) == 2 else blocks[0]
    size = sum(sizes) * (layers if layer is None else 1)

    def measure(**kwargs):
        return flossing.lyapunov_spectrum(module, arranged(), state, layer=layer, **kwargs)

    return Case(measure, [*module.parameters(), inputs, *blocks]), size, 4


@st.composite
def custom_cells(draw):
    features, steps, batch = (
        draw(st.integers(1, 2)),
        draw(st.integers(4, 9)),
        draw(st.integers(1, 3)),
    )
    cell = draw(st.sampled_from([TensorCell, TupleCell]))(features).double()
    unbatched = draw(st.booleans())
    leading = () if unbatched else (batch,)
    inputs = _leaf(steps, *leading, features)
    sizes = [4] if isinstance(cell, TensorCell) else [3, 2]
    blocks = [_leaf(*leading, size) for size in sizes]
    state = blocks[0] if len(blocks) == 1 else tuple(blocks)

    def measure(**kwargs):
        return flossing.lyapunov_spectrum(cell, inputs, state, **kwargs)

    return Case(measure, [*cell.parameters(), inputs, *blocks]), sum(sizes), steps


@st.composite
def jacobian_stacks(draw):
    steps, batch, size = draw(st.integers(4, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 12))
    jacobians = _leaf(steps, batch, size, size)

    def measure(**kwargs):
        kwargs.pop("state_transient")
        kwargs.pop("state_gradient")
        return flossing.log_growth_rates(jacobians, **kwargs)

    return Case(measure, [jacobians]), size, steps


@st.composite
def spectrum_options(draw, size, steps):
    state_transient = draw(st.integers(0, 1))
    return {
        "k": draw(st.integers(1, size)),
        "state_transient": state_transient,
        "frame_transient": draw(st.integers(0, steps - state_transient - 1)),
        "reorthonormalize": draw(st.sampled_from([1, 2, 3, "auto"])),
        "backend": draw(st.sampled_from(["auto", "auto", "torch"])),
        "state_gradient": draw(st.sampled_from(["full", "detach", 1, 2, 5])),
        "checkpoint_interval": draw(st.sampled_from([None, 1, 3])),
        "dt": draw(st.sampled_from([1.0, 0.1])),
    }


@st.composite
def cases(draw):
    torch.manual_seed(draw(st.integers(0, 2**31)))
    case, size, steps = draw(st.one_of(stock_modules(), custom_cells(), jacobian_stacks()))
    return case, draw(spectrum_options(size, steps))


def _value_and_gradients(case, **options):
    spectrum = case.measure(**options)
    # Weighted by column, so that the gradients of all exponents are compared, not of a mean.
    weights = torch.linspace(1.0, 2.0, spectrum.log_growth.numel(), dtype=torch.float64)
    loss = (weights * spectrum.log_growth.flatten()).sum() + spectrum.exponents.square().sum()
    if not loss.requires_grad:
        return spectrum, []
    gradients = torch.autograd.grad(loss, case.leaves, allow_unused=True, materialize_grads=True)
    return spectrum, list(gradients)


def _assert_close(ours, theirs, scale):
    difference = torch.linalg.vector_norm(ours - theirs)
    assert difference <= TOLERANCE * (scale + torch.linalg.vector_norm(theirs))


@settings(max_examples=150, deadline=None)
@given(cases())
@pytest.mark.filterwarnings("ignore:the frame lost rank", "ignore:LSTM with projections")
@pytest.mark.filterwarnings("ignore:the reorthonormalization interval")
@pytest.mark.filterwarnings("ignore:the largest exponent")
def test_fast_path_equals_reference(drawn):
    case, options = drawn
    # What lies below rank is compared in the tests of degenerate frames; what lies at the edge of
    # it, be it in the transient, is ill-conditioned for both.
    with torch.no_grad():
        growth = case.measure(**{**options, "frame_transient": 0})
    assume(bool(growth.log_growth.isfinite().all()))
    # A fixed interval may lose half of the digits, which more than the tolerance allows.
    steps = 1 if options["reorthonormalize"] == "auto" else options["reorthonormalize"]
    assume(float(growth.local.nan_to_num().amin()) * options["dt"] * max(1, steps / 2) > -6)
    fast, gradients = _value_and_gradients(case, **options)
    reference, expected = _value_and_gradients(case, **{**options, "backend": "reference"})
    _assert_close(fast.log_growth, reference.log_growth, 1.0)
    _assert_close(fast.exponents, reference.exponents, 1.0)
    _assert_close(fast.final_frame, reference.final_frame, 1.0)
    assert len(gradients) == len(expected)
    for ours, theirs in zip(gradients, expected, strict=True):
        _assert_close(ours, theirs, 1.0)


@pytest.mark.filterwarnings("ignore:the frame lost rank")
@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_what_comes_after_the_end_of_a_trajectory_does_not_matter(backend):
    # Without input the second trajectory's units are all silent: the frame vanishes.
    cell = nn.RNNCell(1, 3, nonlinearity="relu").double()
    nn.init.eye_(cell.weight_hh)
    nn.init.constant_(cell.weight_ih, 1.0)
    nn.init.constant_(cell.bias_ih, -3.0)
    inputs = torch.full((8, 2, 1), 4.0, dtype=torch.float64)
    packed = pack_padded_sequence(inputs, [8, 3])
    spectrum = flossing.lyapunov_spectrum(cell, packed, k=2, backend=backend)
    (gradient,) = torch.autograd.grad(spectrum.exponents.sum(), [cell.weight_hh])
    assert gradient.isfinite().all()
    assert gradient.any()


def _systems_for_gradcheck():
    yield "rnn", nn.RNN(2, 3), (1, 2, 3)
    yield "gru stack", nn.GRU(2, 3, num_layers=2), (2, 2, 3)
    yield "lstm", nn.LSTM(2, 3), (1, 2, 3)
    yield "custom", TensorCell(2), (2, 4)


@pytest.mark.parametrize(
    ("module", "shape"), [pytest.param(m, s, id=name) for name, m, s in _systems_for_gradcheck()]
)
@pytest.mark.parametrize("interval", [1, 3, "auto"])
def test_flossing_loss_by_finite_differences(module, shape, interval):
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.system = module

        def forward(self, inputs, state):
            return flossing.flossing_loss(
                self.system,
                inputs,
                state,
                k=2,
                target=[0.1, -0.4],
                reorthonormalize=interval,
                frame_transient=2,
            )

    of_module = Loss()
    names = [name for name, _ in of_module.named_parameters()]

    def loss(inputs, first, second, *parameters):
        state = (first, second) if isinstance(module, nn.LSTM) else first
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(of_module, named, (inputs, state))

    leaves = [_leaf(6, 2, 2), _leaf(*shape), _leaf(*shape)]
    parameters = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(loss, (*leaves, *parameters), fast_mode=True, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([nn.RNN, nn.GRU, nn.LSTM, None]),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(1, 5),
)
def test_threads_share_trajectories_and_vectors(kind, units, share, trajectories):
    count = max(1, round(share * units))
    if kind is None:
        leaves = [_leaf(20, trajectories, units, units)]

        def exponents():
            return flossing.log_growth_rates(leaves[0], k=count, backend="compiled").exponents
    else:
        module, inputs = kind(2, units).double(), _leaf(20, trajectories, 2)
        leaves = [*module.parameters(), inputs]

        def exponents():
            spectrum = flossing.lyapunov_spectrum(module, inputs, k=count, backend="compiled")
            return spectrum.exponents

    alone = _with_threads(1, exponents, leaves)
    shared = _with_threads(2, exponents, leaves)
    for ours, theirs in zip(shared, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("units", [24, 48])
def test_widths_that_need_no_padding(units):
    module, inputs = nn.RNN(1, units).double(), torch.randn(20, 1, 1, dtype=torch.float64)
    results = []
    for backend in ("compiled", "torch"):
        values = flossing.lyapunov_spectrum(module, inputs, k=5, backend=backend).exponents
        gradients = torch.autograd.grad(values.square().sum(), list(module.parameters()))
        results.append([values, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def _with_threads(number, exponents, leaves):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    with pytest.MonkeyPatch.context() as patch:
        # However small the work is.
        patch.setattr(compiler, "PARALLEL_WORK", 0)
        try:
            values = exponents()
            gradients = torch.autograd.grad(values.square().sum(), leaves, allow_unused=True)
        finally:
            torch.set_num_threads(before)
    return [values, *gradients]
