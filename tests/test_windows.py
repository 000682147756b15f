"""Random windows of a sequence, with the state that the system reaches there."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, unpack_sequence

import flossing
from flossing.batches import sample_window

STEPS = 9
LENGTH = 24


def stock(kind, **options):
    torch.manual_seed(3)
    module = kind(2, 5, **options).double()
    return module, lambda inputs: module(inputs)[1]


def own():
    torch.manual_seed(3)
    cell = nn.Linear(7, 5).double()

    def system(x, state):
        return torch.tanh(cell(torch.cat([x, state], dim=-1)))

    def last(inputs):
        state = torch.zeros(inputs.shape[1], 5, dtype=torch.float64)
        for x in inputs:
            state = system(x, state)
        return state

    return system, last


SYSTEMS = {
    "stack": (*stock(nn.RNN, num_layers=2), (LENGTH, 3, 2), 0, None),
    "lstm, batch first": (*stock(nn.LSTM, batch_first=True), (3, LENGTH, 2), 1, None),
    "gru, unbatched": (*stock(nn.GRU, batch_first=True), (LENGTH, 2), 0, None),
    "callable": (*own(), (LENGTH, 3, 2), 0, torch.zeros(3, 5, dtype=torch.float64)),
}


@pytest.mark.parametrize(
    ("system", "last", "shape", "axis", "state"), SYSTEMS.values(), ids=list(SYSTEMS)
)
def test_a_window_comes_with_the_state_that_the_system_has_there(system, last, shape, axis, state):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, dtype=torch.float64)
    windows = {start: inputs.narrow(axis, start, STEPS) for start in range(LENGTH - STEPS + 1)}
    starts = set()
    for _ in range(200):
        window, before = sample_window(system, inputs, state, steps=STEPS, generator=generator)
        (start,) = [at for at, each in windows.items() if torch.equal(each, window)]
        starts.add(start)
        if not start:
            assert before is state
            continue
        expected = last(inputs.narrow(axis, 0, start))
        torch.testing.assert_close(before, expected)
        leaves = before if isinstance(before, tuple) else (before,)
        assert not any(leaf.requires_grad for leaf in leaves)
    assert starts == windows.keys()


def test_flossing_windows_is_flossing_them_with_the_states_there():
    inputs = torch.randn(LENGTH, 2, 1, dtype=torch.float64)
    first = nn.LSTM(1, 6).double()
    second = copy.deepcopy(first)
    history = flossing.floss(
        first, inputs, k=3, steps=4, piece=STEPS, generator=torch.Generator().manual_seed(5)
    )
    generator = torch.Generator().manual_seed(5)
    losses = []
    optimizer = torch.optim.Adam(second.parameters())
    for _ in range(4):
        start = int(torch.randint(LENGTH - STEPS + 1, (), generator=generator))
        with torch.no_grad():
            state = second(inputs[:start])[1] if start else None
        loss = flossing.flossing_loss(
            second, inputs[start : start + STEPS], state, k=3, generator=generator
        )
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history.loss.tolist() == pytest.approx(losses, rel=1e-6)


def test_a_flosser_samples_windows_of_whole_sequences():
    rnn = nn.RNN(1, 8)
    seen = []
    flosser = flossing.Flosser(
        rnn, k=4, before=3, every=1, piece=STEPS, state=lambda inputs: seen.append(inputs.shape)
    )
    batches = itertools.repeat(torch.randn(LENGTH, 2, 1))
    assert len(flosser.before_training(batches).loss) == 3
    assert flosser.step(1, batches) is not None
    # The function is asked for the state before the whole sequence.
    assert seen == [(LENGTH, 2, 1)] * 4


def test_precision_of_the_state_is_that_of_the_exponents():
    rnn = nn.RNN(1, 8)
    inputs = torch.randn(LENGTH, 2, 1)
    history = flossing.floss(rnn, inputs, k=2, steps=3, piece=STEPS, dtype=torch.float64)
    assert history.loss.isfinite().all()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (torch.randn(8, 2, 1), "piece is 9 .* 8 steps.*piece=None"),
        (pack_padded_sequence(torch.randn(8, 2, 1), [8, 3]), "piece is 9 .* 8 steps.*piece=None"),
        (itertools.repeat(30), "there are none.*piece=None"),
    ],
)
def test_sequences_without_such_windows(batches, message):
    with pytest.raises(flossing.InvalidInputError, match=message):
        flossing.floss(nn.RNN(1, 8), batches, k=2, steps=1, piece=STEPS)


PACKED = {
    "stack": lambda: nn.RNN(2, 5, num_layers=2),
    "LSTM, batch first": lambda: nn.LSTM(2, 5, batch_first=True),
    "GRU": lambda: nn.GRU(2, 5),
}


@pytest.mark.parametrize("make", PACKED.values(), ids=PACKED)
def test_packed_sequences_have_windows_within_their_own_lengths(make):
    torch.manual_seed(3)
    module = make().double()
    # In no order, with one that is as long as the window and one that is shorter.
    sequences = [torch.randn(n, 2, dtype=torch.float64) for n in (14, 24, STEPS, 5, 19)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    generator = torch.Generator().manual_seed(0)
    seen = [set() for _ in sequences]
    for _ in range(150):
        windows, state = sample_window(module, packed, None, steps=STEPS, generator=generator)
        for row, (window, whole) in enumerate(
            zip(unpack_sequence(windows), sequences, strict=True)
        ):
            assert len(window) == min(STEPS, len(whole))
            places = range(len(whole) - len(window) + 1)
            (start,) = [at for at in places if torch.equal(whole[at : at + len(window)], window)]
            seen[row].add(start)
            if state is None:
                assert start == 0
                continue
            before = state if isinstance(state, tuple) else (state,)
            expected = module(whole[:start])[1] if start else tuple(map(torch.zeros_like, before))
            expected = expected if isinstance(expected, tuple) else (expected,)
            for leaf, reached in zip(before, expected, strict=True):
                torch.testing.assert_close(leaf[:, row], reached[:, row] if not start else reached)
    assert seen == [set(range(max(1, len(each) - STEPS + 1))) for each in sequences]


def test_flossing_windows_of_packed_sequences_is_flossing_each_with_its_own_state():
    module = nn.GRU(1, 6).double()
    sequences = [torch.randn(n, 1, dtype=torch.float64) for n in (12, LENGTH, 4)]
    frame = torch.linalg.qr(torch.randn(3, 6, 3, dtype=torch.float64)).Q
    exponents = []
    starts = torch.Generator().manual_seed(2)
    for row, sequence in enumerate(sequences):
        steps = min(STEPS, len(sequence))
        start = int(torch.randint(len(sequence) - steps + 1, (), generator=starts))
        state = module(sequence[:start].unsqueeze(1))[1].detach() if start else None
        window = sequence[start : start + steps].unsqueeze(1)
        spectrum = flossing.lyapunov_spectrum(module, window, state, frame=frame[row : row + 1])
        exponents.append(spectrum.exponents.detach())
    history = flossing.floss(
        module,
        pack_sequence(sequences, enforce_sorted=False),
        k=3,
        steps=1,
        piece=STEPS,
        generator=torch.Generator().manual_seed(2),
        frame=frame,
    )
    torch.testing.assert_close(history.exponents[0, 0], torch.cat(exponents).mean(dim=0))


def test_a_trajectory_may_diverge_after_its_window():
    rnn = nn.RNN(1, 1, nonlinearity="relu", bias=False)
    nn.init.constant_(rnn.weight_hh_l0, 1e4)
    nn.init.ones_(rnn.weight_ih_l0)
    # The first trajectory grows by 1e4 a step, the second stays at zero.
    packed = pack_sequence([torch.ones(4, 1), torch.zeros(100, 1)], enforce_sorted=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        _, state = sample_window(rnn, packed, None, steps=3, generator=generator)
        assert state is None or state.isfinite().all()


@pytest.mark.parametrize("piece", [0, -1, True])
def test_the_length_of_a_window_is_a_number_of_steps(piece):
    with pytest.raises(flossing.InvalidOptionError, match="piece"):
        flossing.Flosser(nn.RNN(1, 8), k=2, piece=piece)


def test_divergence_before_the_window_raises():
    rnn = nn.RNN(1, 4, nonlinearity="relu")
    nn.init.constant_(rnn.weight_hh_l0, 1e9)
    nn.init.constant_(rnn.weight_ih_l0, 1.0)
    generator = torch.Generator().manual_seed(1)
    with pytest.raises(flossing.NonFiniteError, match="became infinite or NaN at step"):
        flossing.floss(rnn, torch.ones(400, 1, 1), k=2, steps=9, piece=3, generator=generator)
