"""A closed loop is the driven system with its own readout as input, in every convention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing
from flossing import (
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    UnsupportedSystemError,
)
from flossing.analysis.linearisation import linearise

MODULES = {
    "rnn": lambda: nn.RNN(2, 4),
    "relu": lambda: nn.RNN(2, 4, nonlinearity="relu"),
    "gru": lambda: nn.GRU(2, 4),
    "lstm": lambda: nn.LSTM(2, 4),
    "projected": lambda: nn.LSTM(2, 4, proj_size=3),
    "stack": lambda: nn.GRU(2, 4, num_layers=2),
    "lstm stack": lambda: nn.LSTM(2, 4, num_layers=2),
    "projected stack": lambda: nn.LSTM(2, 4, num_layers=2, proj_size=3),
    "batch first": lambda: nn.LSTM(2, 4, num_layers=2, batch_first=True),
    "rnn cell": lambda: nn.RNNCell(2, 4),
    "gru cell": lambda: nn.GRUCell(2, 4),
    "lstm cell": lambda: nn.LSTMCell(2, 4),
}


def make(name, dtype=torch.float64):
    module = MODULES[name]().to(dtype)
    if name == "relu":
        # All units stay active, so that no rank is lost.
        module.bias_ih_l0.data += 5
        module.weight_hh_l0.data *= 0.3
    outputs = getattr(module, "proj_size", 0) or 4
    readout = nn.Sequential(nn.Linear(outputs, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)
    return module, readout, flossing.closed_loop(module, readout)


def random_state(module, batch, dtype=torch.float64):
    """A state in the module's own convention; without a batch dimension for batch=None."""
    rows = () if batch is None else (batch,)
    layers = (module.num_layers,) if isinstance(module, nn.RNNBase) else ()
    hidden = torch.randn(*layers, *rows, getattr(module, "proj_size", 0) or 4, dtype=dtype)
    if not isinstance(module, nn.LSTM | nn.LSTMCell):
        return hidden
    return hidden, torch.randn(*layers, *rows, 4, dtype=dtype)


def blocks(state):
    return state if isinstance(state, tuple) else (state,)


def one_step(module, inputs, state):
    """The module's own forward, from rows of inputs and a state with a batch dimension."""
    if not isinstance(module, nn.RNNBase):
        return module(inputs, state)
    return module(inputs.unsqueeze(1 if module.batch_first else 0), state)[1]


def output(module, state):
    hidden = blocks(state)[0]
    return hidden[-1] if isinstance(module, nn.RNNBase) else hidden


def flat(module, state):
    """One trajectory's state as the library lays it: layer after layer, h before c."""
    if isinstance(module, nn.RNNBase):
        return torch.cat([block[:, 0] for block in blocks(state)], dim=-1).flatten()
    return torch.cat([block[0] for block in blocks(state)])


def unflat(module, vector):
    layers = module.num_layers if isinstance(module, nn.RNNBase) else 1
    sizes = [getattr(module, "proj_size", 0) or 4]
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        sizes.append(4)
    pieces = vector.reshape(layers, 1, -1).split(sizes, dim=-1)
    if not isinstance(module, nn.RNNBase):
        pieces = [piece[0] for piece in pieces]
    return tuple(pieces) if len(pieces) == 2 else pieces[0]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("batch", [1, 3])
def test_one_step_is_the_modules_own_with_its_readout_as_input(name, batch):
    module, readout, loop = make(name)
    state = random_state(module, batch)
    expected = one_step(module, readout(output(module, state)), state)
    for ours, theirs in zip(blocks(loop(state)), blocks(expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(loop.feedback(state), readout(output(module, state)))


@pytest.mark.parametrize("name", MODULES)
def test_jacobian_is_that_of_state_plus_input_times_readout(name):
    module, readout, loop = make(name)
    state = random_state(module, 1)
    here = flat(module, state).detach()
    fed = readout(output(module, state)).detach()
    jacobian = torch.autograd.functional.jacobian
    to_state = jacobian(lambda h: flat(module, one_step(module, fed, unflat(module, h))), here)
    to_input = jacobian(lambda x: flat(module, one_step(module, x[None], state)), fed[0])
    of_readout = jacobian(lambda h: readout(output(module, unflat(module, h)))[0], here)
    closed = linearise(loop, state=state, steps=1).jacobian(0)[0]
    torch.testing.assert_close(closed, to_state + to_input @ of_readout)
    assert (closed - to_state).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODULES)
def test_jacobian_is_the_limit_of_finite_differences(name):
    module, _, loop = make(name)
    state = random_state(module, 1)
    here, step = flat(module, state), 1e-6
    columns = [
        flat(module, loop(unflat(module, here + step * unit)))
        - flat(module, loop(unflat(module, here - step * unit)))
        for unit in torch.eye(len(here), dtype=torch.float64)
    ]
    expected = torch.stack(columns, dim=-1).detach() / (2 * step)
    closed = linearise(loop, state=state, steps=1).jacobian(0)[0]
    torch.testing.assert_close(closed, expected, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("name", MODULES)
def test_batched_and_unbatched_states(name):
    module, _, loop = make(name)
    state = random_state(module, 2)
    axis = 1 if isinstance(module, nn.RNNBase) else 0
    with torch.no_grad():
        both = flossing.lyapunov_spectrum(loop, state=state, steps=12, frame_transient=0)
        for row in range(2):
            rows = tuple(block.select(axis, row) for block in blocks(state))
            own = rows if isinstance(state, tuple) else rows[0]
            # The same first frame: its columns span all, so the sum of the exponents is free of it.
            alone = flossing.lyapunov_spectrum(loop, state=own, steps=12, frame_transient=0)
            torch.testing.assert_close(alone.exponents[0].sum(), both.exponents[row].sum())
            ends = zip(
                blocks(alone.final_state), blocks(both.final_state), blocks(loop(own)), strict=True
            )
            for lonely, together, stepped in ends:
                torch.testing.assert_close(lonely, together.select(axis, row))
                assert stepped.shape == lonely.shape


@pytest.mark.parametrize("name", MODULES)
def test_warm_up_and_generate_follow_the_module(name):
    module, readout, loop = make(name)
    past, state = torch.randn(6, 3, 2, dtype=torch.float64), random_state(module, 3)
    batch_first = getattr(module, "batch_first", False)
    warm = loop.warm_up(past.transpose(0, 1) if batch_first else past, state)
    expected = state
    for inputs in past:
        expected = one_step(module, inputs, expected)
    for ours, theirs in zip(blocks(warm), blocks(expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    made = loop.generate(warm, steps=5)
    assert made.shape == ((3, 5, 2) if batch_first else (5, 3, 2))
    for inputs in made.transpose(0, 1) if batch_first else made:
        torch.testing.assert_close(inputs, readout(output(module, expected)))
        expected = one_step(module, inputs, expected)
    # Under what it made for itself, the driven system goes where the loop goes.
    with torch.no_grad():
        driven = flossing.lyapunov_spectrum(module, made, warm, k=2)
        free = flossing.lyapunov_spectrum(loop, state=warm, steps=5, k=2)
    for theirs, ours in zip(blocks(driven.final_state), blocks(free.final_state), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (driven.exponents - free.exponents).abs().max() > 1e-3


def test_warm_up_ends_where_each_packed_sequence_does():
    module, _, loop = make("lstm stack")
    inputs, lengths = torch.randn(7, 3, 2, dtype=torch.float64), [4, 7, 2]
    packed = pack_padded_sequence(inputs, lengths, enforce_sorted=False)
    for ours, theirs in zip(loop.warm_up(packed), module(packed)[1], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_state_is_the_zero_state_of_one_trajectory():
    _, _, loop = make("stack")
    zero = torch.zeros(2, 4, dtype=torch.float64)
    torch.testing.assert_close(loop(None), loop(zero))
    assert loop(None).shape == (2, 4)
    torch.testing.assert_close(loop.generate(steps=3), loop.generate(zero, steps=3))
    assert loop.generate(steps=3).shape == (3, 2)
    with torch.no_grad():
        assert flossing.lyapunov_spectrum(loop, steps=9).exponents.shape == (1, 8)


@pytest.mark.parametrize("name", ["rnn", "lstm stack", "projected", "gru cell"])
def test_gradients_reach_module_and_readout(name):
    module, readout, loop = make(name)
    state = random_state(module, 2)
    assert len(list(loop.parameters())) == len([*module.parameters(), *readout.parameters()])
    loss = flossing.flossing_loss(loop, state=state, steps=8, k=3)
    loss.backward()
    for parameter in [*module.parameters(), *readout.parameters()]:
        if parameter.grad is None:
            continue
        direction, at = torch.randn_like(parameter), parameter.data.clone()
        values = []
        for sign in (1, -1):
            parameter.data = at + sign * 1e-6 * direction
            with torch.no_grad():
                values.append(flossing.flossing_loss(loop, state=state, steps=8, k=3))
        parameter.data = at
        slope = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close((parameter.grad * direction).sum(), slope, atol=1e-7, rtol=1e-5)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in readout.parameters())
    assert module.get_parameter("weight_ih_l0" if "cell" not in name else "weight_ih").grad.any()


def test_flossing_changes_the_closed_loop():
    module, readout, loop = make("rnn", torch.float32)
    state = random_state(module, 1, torch.float32)
    before = readout[0].weight.detach().clone()
    history = flossing.floss(loop, [40], k=2, steps=25, lr=0.01, state=state)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert not torch.equal(readout[0].weight, before)


@pytest.mark.parametrize("name", ["gru", "lstm", "stack"])
def test_single_precision_and_the_dtype_option(name):
    module, _, loop = make(name, torch.float32)
    state = random_state(module, 2, torch.float32)
    options = {"steps": 20, "k": 3, "frame_transient": 0}
    single = flossing.lyapunov_spectrum(loop, state=state, **options)
    assert single.exponents.dtype == torch.float32
    single.exponents.sum().backward()
    double = flossing.lyapunov_spectrum(loop, state=state, dtype=torch.float64, **options)
    assert double.exponents.dtype == torch.float64
    torch.testing.assert_close(single.exponents.double(), double.exponents, atol=1e-4, rtol=1e-4)
    loop.double()
    doubled = tuple(block.double() for block in blocks(state))
    expected = flossing.lyapunov_spectrum(
        loop, state=doubled if len(doubled) == 2 else doubled[0], **options
    )
    torch.testing.assert_close(double.exponents, expected.exponents)


def kicked(x_t, state):
    return {"a": 1 - 1.4 * state["a"] ** 2 + x_t, "b": state["a"]}


@pytest.mark.parametrize(("batch", "with_output"), [((), True), ((2,), False)])
def test_a_callable_closed_is_the_henon_map(batch, with_output):
    def system(x_t, state):
        return (x_t, kicked(x_t, state)) if with_output else kicked(x_t, state)

    loop = flossing.closed_loop(system, lambda state: 0.3 * state["b"])
    zero = torch.zeros(*batch, 1, dtype=torch.float64)
    state = {"a": zero, "b": zero}
    free = flossing.lyapunov_spectrum(loop, state=state, steps=1500, state_transient=100)
    torch.testing.assert_close(
        free.exponents.mean(0), torch.tensor([0.419217, -1.623190]).double(), atol=0.05, rtol=0
    )
    sums = free.exponents.sum(-1)
    torch.testing.assert_close(sums, torch.tensor(0.3).double().log().expand_as(sums))
    made = loop.generate(state, steps=3)
    assert made.shape == (3, *batch, 1)
    torch.testing.assert_close(made.flatten(1)[:, 0], torch.tensor([0.0, 0.0, 0.3]).double())


def test_warm_up_of_a_callable():
    loop = flossing.closed_loop(kicked, lambda state: 0.3 * state["b"])
    state = {name: torch.zeros(2, 1) for name in "ab"}
    warm = loop.warm_up(torch.ones(3, 2, 1), state)
    expected = state
    for _ in range(3):
        expected = kicked(torch.ones(2, 1), expected)
    torch.testing.assert_close(warm, expected)


class Leaky(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.Linear(3, 3)

    def forward(self, x_t, state):
        return 0.5 * state + 0.5 * torch.tanh(self.recurrent(state) + x_t)


def test_a_module_of_ones_own_with_the_dtype_option():
    loop = flossing.closed_loop(Leaky(), nn.Linear(3, 3))
    state = torch.randn(2, 3)
    spectrum = flossing.lyapunov_spectrum(loop, state=state, steps=10, dtype=torch.float64)
    assert spectrum.exponents.dtype == torch.float64
    spectrum.exponents.sum().backward()
    assert len(list(loop.parameters())) == 4
    assert all(parameter.grad.abs().max() > 0 for parameter in loop.parameters())


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(MODULES)),
    batch=st.sampled_from([None, 1, 2]),
    k=st.integers(1, 4),
    steps=st.integers(1, 9),
)
def test_every_combination_agrees_with_the_loop_written_by_hand(name, batch, k, steps):
    module, _, loop = make(name)
    state = random_state(module, batch)
    spectrum = flossing.lyapunov_spectrum(loop, state=state, steps=steps, k=k, frame_transient=0)
    assert spectrum.exponents.shape == (batch or 1, k)
    assert bool(spectrum.exponents.isfinite().all())
    with torch.no_grad():
        for _ in range(steps):
            state = loop(state)
    for ours, theirs in zip(blocks(spectrum.final_state), blocks(state), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("own_checks_only")
class TestBadInput:
    def test_systems_and_readouts(self):
        with pytest.raises(UnsupportedSystemError, match="the system must be.*not a str"):
            flossing.closed_loop("rnn", nn.Linear(4, 2))
        with pytest.raises(UnsupportedSystemError, match="the readout must be.*not a Tensor"):
            flossing.closed_loop(nn.RNN(2, 4), torch.zeros(2, 4))
        bidirectional = flossing.closed_loop(nn.RNN(2, 4, bidirectional=True), nn.Linear(8, 2))
        with pytest.raises(UnsupportedSystemError, match="bidirectional"):
            flossing.lyapunov_spectrum(bidirectional, steps=5)

    @pytest.mark.parametrize(
        ("readout", "message"),
        [
            (nn.Linear(4, 3), r"\(rows, input_size\) = \(1, 2\).*returned \(1, 3\)"),
            (nn.Linear(5, 2), r"readout fails on tensor \(1, 4\)"),
            (lambda output: None, "a tensor, not a NoneType"),
            (lambda output: output[:, :2] + torch.randn(len(output), 2), "random, or the rows"),
            (lambda output: output[:1, :2], r"\(rows, input_size\) = \(2, 2\)"),
        ],
    )
    def test_readouts_that_fit_nothing(self, readout, message):
        loop = flossing.closed_loop(nn.GRU(2, 4), readout)
        with pytest.raises(UnsupportedSystemError, match=message):
            flossing.lyapunov_spectrum(loop, steps=5)

    def test_states(self):
        loop = flossing.closed_loop(nn.GRU(2, 4, num_layers=2), nn.Linear(4, 2))
        with pytest.raises(InvalidStateError, match=r"\(2, 3, 4\) for a batch of 3"):
            flossing.lyapunov_spectrum(loop, state=torch.zeros(1, 3, 4), steps=5)
        with pytest.raises(InvalidStateError, match="infinite or NaN"):
            flossing.lyapunov_spectrum(loop, state=torch.full((2, 3, 4), torch.nan), steps=5)
        with pytest.raises(InvalidStateError, match="needs an initial state"):
            flossing.lyapunov_spectrum(flossing.closed_loop(kicked, lambda s: s["b"]), steps=5)

    def test_options(self):
        loop = flossing.closed_loop(nn.GRU(2, 4), nn.Linear(4, 2))
        with pytest.raises(InvalidInputError, match="makes its own inputs"):
            flossing.lyapunov_spectrum(loop, torch.zeros(5, 1, 2))
        with pytest.raises(InvalidInputError, match="number of steps is unknown"):
            flossing.lyapunov_spectrum(loop)
        with pytest.raises(InvalidOptionError, match="layer=0"):
            flossing.lyapunov_spectrum(loop, steps=5, layer=0)
        with pytest.raises(InvalidOptionError, match="steps is 0"):
            loop.generate(steps=0)
