"""A watcher measures what `lyapunov_spectrum` does, when it is due, and leaves no trace."""

import math
from itertools import pairwise

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
    LostRankWarning,
    NumericalWarning,
    UnsupportedSystemError,
)

STOCK = [nn.RNN, nn.GRU, nn.LSTM]


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def exponents(found, prefix="flossing/"):
    count = sum(name.startswith(f"{prefix}exponent_") for name in found)
    rates = [found[f"{prefix}exponent_{i}"] for i in range(1, count + 1)]
    return torch.tensor(rates, dtype=torch.float64)


def expected_exponents(system, inputs, state=None, **options):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(system, inputs, state, **options).exponents.mean(0)


@pytest.mark.parametrize("module", STOCK)
@pytest.mark.parametrize("batch_first", [False, True])
def test_it_measures_what_lyapunov_spectrum_measures(module, batch_first):
    rnn = module(2, 6, num_layers=2, batch_first=batch_first, dtype=torch.float64)
    inputs = torch.randn(50, 5, 2, dtype=torch.float64)
    given_inputs = inputs.transpose(0, 1) if batch_first else inputs
    part = given_inputs[:2, :30] if batch_first else given_inputs[:30, :2]
    for layer in (None, 1):
        watcher = flossing.watch(rnn, k=3, steps=30, trajectories=2, layer=layer)
        found = watcher(given_inputs)
        torch.testing.assert_close(
            exponents(found), expected_exponents(rnn, part, k=3, layer=layer), rtol=1e-9, atol=1e-9
        )
        assert all(type(number) is float for number in found.values())
        assert watcher.latest == found


def test_what_follows_from_the_exponents():
    rnn = nn.RNN(1, 6, dtype=torch.float64)
    found = flossing.watch(rnn, k=3, condition_horizon=50, horizon_factor=10.0, prefix="")(
        torch.randn(60, 1, 1, dtype=torch.float64)
    )
    first, _, third = exponents(found, "").tolist()
    assert found["condition_rate"] == pytest.approx(first - third)
    condition = math.exp((first - third) * 50)
    assert found["condition_log10"] == pytest.approx(math.log10(condition))
    assert math.exp(abs(first) * found["horizon"]) == pytest.approx(10)
    assert math.exp(abs(third) * found["horizon_all"]) == pytest.approx(10)
    assert set(found) == {
        *(f"exponent_{i}" for i in (1, 2, 3)),
        *("condition_rate", "condition_log10", "horizon", "horizon_all", "seconds", "share"),
    }


def test_orthogonal_dynamics_have_an_infinite_horizon():
    watcher = flossing.watch(lambda state: 1.0 * state.flip(-1), k=2, steps=10)
    found = watcher(state=torch.ones(1, 2))
    assert found["flossing/horizon"] > 1e6
    assert found["flossing/condition_log10"] == pytest.approx(0, abs=1e-3)


def test_states_are_cut_with_the_batch():
    lstm = nn.LSTM(2, 4, dtype=torch.float64)
    inputs = torch.randn(20, 3, 2, dtype=torch.float64)
    state = tuple(torch.randn(1, 3, 4, dtype=torch.float64) for _ in range(2))
    found = flossing.watch(lstm, k=2)(inputs, state)
    own = tuple(block[:, :1] for block in state)
    torch.testing.assert_close(exponents(found), expected_exponents(lstm, inputs[:, :1], own, k=2))


def test_packed_sequences_are_measured_along_the_longest():
    rnn = nn.GRU(2, 4, dtype=torch.float64)
    inputs = torch.randn(20, 3, 2, dtype=torch.float64)
    packed = pack_padded_sequence(inputs, [5, 20, 12], enforce_sorted=False)
    found = flossing.watch(rnn, k=2)(packed)
    torch.testing.assert_close(exponents(found), expected_exponents(rnn, inputs[:, 1:2], k=2))
    two = flossing.watch(rnn, k=2, trajectories=2)(packed)
    pair = pack_padded_sequence(inputs[:, 1:], [20, 12])
    torch.testing.assert_close(exponents(two), expected_exponents(rnn, pair, k=2))
    short = flossing.watch(rnn, k=2, trajectories=2, steps=7)(packed)
    torch.testing.assert_close(exponents(short), expected_exponents(rnn, inputs[:7, 1:], k=2))


def test_cells_callables_and_closed_loops():
    cell = nn.GRUCell(2, 4)
    inputs, state = torch.randn(20, 3, 2), torch.randn(3, 4)
    torch.testing.assert_close(
        exponents(flossing.watch(cell, k=2)(inputs)).float(),
        expected_exponents(cell, inputs[:, :1], k=2),
    )
    found = flossing.watch(lambda x, h: cell(x, h), k=2)(inputs, state)
    expected = expected_exponents(cell, inputs[:, :1], state[:1], k=2)
    torch.testing.assert_close(exponents(found).float(), expected, rtol=1e-4, atol=1e-4)
    loop = flossing.closed_loop(nn.GRU(2, 4), nn.Linear(4, 2))
    start = torch.randn(1, 3, 4)
    found = flossing.watch(loop, k=2, steps=15)(state=start)
    expected = expected_exponents(loop, None, start[:, :1], steps=15, k=2)
    torch.testing.assert_close(exponents(found).float(), expected)


def test_fewer_exponents_than_asked_for():
    found = flossing.watch(nn.RNN(1, 3), k=8)(torch.randn(20, 1, 1))
    assert len(exponents(found)) == 3


def test_half_precision_inputs_as_under_autocast():
    rnn, inputs = nn.GRU(2, 4), torch.randn(20, 1, 2)
    found = flossing.watch(rnn, k=2)(inputs.bfloat16())
    torch.testing.assert_close(
        exponents(found).float(), expected_exponents(rnn, inputs.bfloat16().float(), k=2)
    )


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.Linear(3, 3)
        self.frozen = nn.Dropout(0.5).eval()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_t, state):
        return torch.tanh(self.dropout(self.recurrent(self.frozen(state))) + x_t)


@pytest.mark.parametrize(
    ("system", "state"),
    [
        (nn.LSTM(3, 4, num_layers=2, dropout=0.5), None),
        (Noisy(), torch.zeros(2, 3)),
        (nn.RNN(3, 4), None),
    ],
)
def test_nothing_is_touched(system, state):
    inputs = torch.randn(20, 2, 3, requires_grad=True)
    for parameter in system.parameters():
        parameter.grad = torch.ones_like(parameter)
    parameters = [parameter.detach().clone() for parameter in system.parameters()]
    modes = [module.training for module in system.modules()]
    assert modes[0]
    random_state = torch.get_rng_state()
    assert flossing.watch(system, k=2)(inputs, state)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in system.modules()] == modes
    assert inputs.grad is None
    assert torch.is_grad_enabled()
    for parameter, before in zip(system.parameters(), parameters, strict=True):
        assert torch.equal(parameter, before)
        assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_the_mode_comes_back_after_an_error():
    rnn = nn.GRU(2, 4)
    with pytest.raises(InvalidInputError):
        flossing.watch(rnn)(torch.zeros(5, 1, 3))
    assert rnn.training


def test_every_so_many_calls():
    watcher = flossing.watch(nn.RNN(1, 2), k=1, every=3, share=None)
    inputs = torch.randn(5, 1, 1)
    assert [bool(watcher(inputs)) for _ in range(8)] == [1, 0, 0, 1, 0, 0, 1, 0]


class Slow(nn.RNNCell):
    """A cell that takes the time that a clock is told, once a measurement."""

    def __init__(self, clock, duration):
        super().__init__(1, 2)
        self.clock, self.duration, self.measured = clock, duration, 0

    def modules(self):
        # Looked up once a measurement, for the train mode.
        self.clock.now += self.duration
        self.measured += 1
        return super().modules()


def run_of(clock, watcher, training_steps):
    """Call a watcher after every training step of a second; return the times of measurements."""
    inputs, times = torch.randn(3, 1, 1), []
    for _ in range(training_steps):
        clock.now += 1.0
        before = clock.now
        found = watcher(inputs)
        assert bool(found) == (clock.now > before)
        if found:
            times.append(before)
            assert found["flossing/seconds"] == pytest.approx(clock.now - before)
    return times


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.02, 0.9), duration=st.floats(0.1, 10.0), every=st.integers(1, 30))
def test_the_budget_is_kept(share, duration, every):
    clock = Clock()
    system = Slow(clock, duration)
    watcher = flossing.watch(system, k=1, every=every, share=share, clock=clock)
    times = run_of(clock, watcher, 150)
    begin = 101.0
    for count, time in enumerate(times[1:], start=2):
        assert count * duration <= share * (time + duration - begin) + 1e-9
    assert all(later - earlier >= every for earlier, later in pairwise(times))
    # Not a training step later than both allow.
    for count, (earlier, later) in enumerate(pairwise(times), start=2):
        affordable = begin + count * duration / share - duration
        assert later <= max(earlier + duration + every, affordable + 1) + 1e-9


def test_the_share_is_told():
    clock = Clock()
    watcher = flossing.watch(Slow(clock, 2.0), k=1, every=1, share=0.25, clock=clock)
    times = run_of(clock, watcher, 20)
    # The second one at (2 + 2) / 0.25 = 16 seconds after the first call, itself included.
    assert times[:2] == [101.0, 115.0]
    assert watcher.latest["flossing/share"] == pytest.approx(0.25)


@pytest.mark.parametrize("module", STOCK)
def test_attached_it_sees_the_modules_own_calls(module):
    rnn, found = module(2, 4, num_layers=2), []
    inputs, state = torch.randn(20, 3, 2), torch.randn(2, 3, 4)
    state = (state, -state) if module is nn.LSTM else state
    watcher = flossing.watch(rnn, k=2, every=1, share=None)
    with watcher.attach(found.append):
        result = rnn(inputs, state)
        rnn(input=inputs, hx=state)
        rnn(inputs)
        rnn.eval()
        rnn(inputs)
        rnn.train()
    rnn(inputs)
    # Neither in eval mode nor once it is detached.
    assert len(found) == 3
    assert found[-1] == watcher.latest
    torch.testing.assert_close(result, rnn(inputs, state))
    own = tuple(block[:, :1] for block in state) if module is nn.LSTM else state[:, :1]
    for each, start in zip(found, (own, own, None), strict=True):
        torch.testing.assert_close(
            exponents(each).float(), expected_exponents(rnn, inputs[:, :1], start, k=2)
        )


def test_attached_during_training():
    """The same weights with and without a watcher."""

    def train(watched):
        torch.manual_seed(1)
        rnn, readout = nn.GRU(2, 5, num_layers=2, dropout=0.3), nn.Linear(5, 1)
        optimizer = torch.optim.Adam([*rnn.parameters(), *readout.parameters()])
        found = []
        handle = flossing.watch(rnn, every=2, share=None).attach(found.append) if watched else None
        for _ in range(5):
            optimizer.zero_grad()
            readout(rnn(torch.randn(12, 4, 2))[0]).square().mean().backward()
            optimizer.step()
        if handle is not None:
            handle.remove()
            assert len(found) == 3
        return list(rnn.parameters())

    for watched, alone in zip(train(True), train(False), strict=True):
        assert torch.equal(watched, alone)


def infinite_weights():
    rnn = nn.RNN(2, 4)
    rnn.weight_hh_l0.data.fill_(torch.nan)
    return rnn


def with_nan(tensor):
    tensor = tensor.clone()
    tensor.flatten()[-1] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("system", "inputs", "state"),
    [
        (infinite_weights(), torch.zeros(9, 2, 2), None),
        (nn.RNN(2, 4), with_nan(torch.zeros(9, 2, 2)), None),
        (nn.RNN(2, 4), torch.zeros(9, 2, 2), with_nan(torch.zeros(1, 2, 4))),
        (nn.RNN(2, 4), pack_padded_sequence(with_nan(torch.zeros(9, 2, 2)), [9, 9]), None),
        (lambda x, h: 1e30 * h + x[:, :1], torch.ones(9, 2, 2), torch.ones(2, 4)),
    ],
)
def test_divergence_gives_nan_and_does_not_stop_the_training(system, inputs, state):
    watcher = flossing.watch(system, k=4, every=2, share=None)
    with pytest.warns(NumericalWarning, match="exponents are NaN"):
        found = watcher(inputs, state)
    assert all(math.isnan(found[f"flossing/exponent_{i}"]) for i in (1, 2, 3, 4))
    assert math.isnan(found["flossing/horizon"])
    assert math.isnan(found["flossing/condition_log10"])
    assert found["flossing/seconds"] >= 0
    assert watcher(inputs, state) == {}


def test_lost_rank_is_an_infinite_condition():
    rnn = nn.RNN(1, 4, nonlinearity="relu")
    rnn.weight_hh_l0.data.zero_()
    with pytest.warns(LostRankWarning):
        found = flossing.watch(rnn, k=2)(torch.ones(9, 1, 1))
    assert found["flossing/exponent_1"] == -math.inf
    assert found["flossing/condition_rate"] == math.inf
    assert found["flossing/condition_log10"] == math.inf
    assert found["flossing/horizon"] == 0.0


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"every": 0}, "every is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"trajectories": 0}, "trajectories is 0"),
        ({"condition_horizon": 0}, "condition_horizon is 0"),
        ({"share": 0.0}, "share=0.0 must lie between 0 and 1"),
        ({"share": 5}, "share=5"),
        ({"horizon_factor": 1.0}, "horizon_factor=1.0 must be a number above 1"),
        ({"horizon_factor": math.nan}, "horizon_factor=nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.watch(nn.RNN(1, 2), **options)


def test_wrong_calls_raise():
    with pytest.raises(InvalidInputError, match="3 features, not 2"):
        flossing.watch(nn.RNN(3, 4))(torch.zeros(9, 1, 2))
    with pytest.raises(UnsupportedSystemError, match="a whole sequence, not a GRUCell"):
        flossing.watch(nn.GRUCell(3, 4)).attach(print)
