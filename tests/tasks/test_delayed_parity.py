"""Delayed copy, temporal and spatial XOR against a loop over steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flossing.errors import InvalidOptionError
from flossing.tasks import DelayedCopy, SpatialXor, TemporalXor


def check_against_loop(task, answer, *, seed):
    """`answer(x, t)` is the target at step t of one sequence x[t][c] of plain integers."""
    batch_size = 3
    batch = task.sample(batch_size, generator=torch.Generator().manual_seed(seed))
    for b in range(batch_size):
        x = batch.inputs[:, b].tolist()
        assert {value for step in x for value in step} <= {0.0, 1.0}
        x = [[int(value) for value in step] for step in x]
        for t in range(task.steps):
            assert bool(batch.mask[t, b]) == (t >= task.delay)
            expected = answer(x, t) if t >= task.delay else 0
            assert batch.targets[t, b].tolist() == [expected]


delays = st.integers(1, 12)
extra_steps = st.integers(1, 25)
seeds = st.integers(0, 2**32)
quick = settings(deadline=None, max_examples=40)


@quick
@given(delay=delays, extra=extra_steps, seed=seeds)
def test_delayed_copy(delay, extra, seed):
    task = DelayedCopy(delay=delay, steps=delay + extra)
    check_against_loop(task, lambda x, t: x[t - delay][0], seed=seed)


@quick
@given(half=delays, extra=extra_steps, seed=seeds)
def test_temporal_xor(half, extra, seed):
    task = TemporalXor(delay=2 * half, steps=2 * half + extra)
    check_against_loop(task, lambda x, t: x[t - half][0] ^ x[t - 2 * half][0], seed=seed)


@quick
@given(spacing=st.integers(1, 4), depth=st.integers(1, 3), extra=extra_steps, seed=seeds)
def test_hierarchical_xor(spacing, depth, extra, seed):
    taps = 2**depth
    delay = spacing * taps
    task = TemporalXor(delay=delay, steps=delay + extra, depth=depth)

    def answer(x, t):
        parity = 0
        for j in range(1, taps + 1):
            parity ^= x[t - delay * j // taps][0]
        return parity

    check_against_loop(task, answer, seed=seed)
    assert task.lags == tuple(delay * j // taps for j in range(1, taps + 1))


@quick
@given(delay=delays, extra=extra_steps, channels=st.integers(2, 5), seed=seeds)
def test_spatial_xor(delay, extra, channels, seed):
    task = SpatialXor(delay=delay, steps=delay + extra, channels=channels)

    def answer(x, t):
        parity = 0
        for c in range(channels):
            parity ^= x[t - delay][c]
        return parity

    check_against_loop(task, answer, seed=seed)


def test_bits_are_fair_and_independent():
    task = SpatialXor(delay=40, steps=300, channels=3)
    batch = task.sample(200, generator=torch.Generator().manual_seed(0))
    bits = batch.inputs
    # Five standard deviations of a mean of fair bits.
    tolerance = 2.5 / bits.numel() ** 0.5
    assert abs(bits.mean().item() - 0.5) < tolerance
    for other in (bits.roll(1, 0), bits.roll(1, 1), bits.roll(1, 2)):
        assert abs((bits == other).float().mean().item() - 0.5) < tolerance
    answers = batch.targets[batch.mask]
    assert abs(answers.mean().item() - 0.5) < 2.5 / answers.numel() ** 0.5


def test_defaults():
    assert (DelayedCopy().delay, DelayedCopy().steps) == (40, 300)
    assert (TemporalXor().delay, TemporalXor().steps, TemporalXor().depth) == (40, 300, 1)
    assert (SpatialXor().delay, SpatialXor().steps, SpatialXor().channels) == (40, 300, 3)
    assert TemporalXor().lags == (20, 40)


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize("task", [DelayedCopy, TemporalXor, SpatialXor])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 2.5}, r"delay is 2\.5 \(float\); expected an int of at least 1: pass"),
        ({"delay": 40.0}, r"delay is 40\.0 \(float\); expected an int of at least 1: pass"),
        ({"delay": True}, r"delay is True \(bool\); expected an int of at least 1: pass"),
        ({"delay": "40"}, r"delay is '40' \(str\); expected an int of at least 1: pass"),
        ({"delay": None}, r"delay is None \(NoneType\); expected an int of at least 1: pass"),
        ({"delay": 0}, r"delay is 0 \(int\); expected an int of at least 1: pass"),
        ({"delay": -4}, r"delay is -4 \(int\); expected an int of at least 1: pass"),
        ({"steps": 300.0}, r"steps is 300\.0 \(float\); expected an int of at least 1: pass"),
        ({"steps": True}, r"steps is True \(bool\); expected an int of at least 1: pass"),
        ({"steps": 0}, r"steps is 0 \(int\); expected an int of at least 1: pass"),
        (
            {"delay": 8, "steps": 8},
            r"steps is 8 and delay is 8, so no step has a target; expected steps > delay: "
            r"pass steps=9 or more",
        ),
        ({"delay": 300}, r"steps is 300 and delay is 300, .* pass steps=301 or more"),
    ],
)
def test_bad_options(task, options, message):
    with pytest.raises(InvalidOptionError, match=message):
        task(**options)


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, r"depth is 0 \(int\); expected an int of at least 1: pass"),
        ({"depth": 1.0}, r"depth is 1\.0 \(float\); expected an int of at least 1: pass"),
        ({"depth": True}, r"depth is True \(bool\); expected an int of at least 1: pass"),
        (
            {"delay": 5},
            r"delay is 5 and depth is 1, so the lags are not whole steps; "
            r"expected a delay divisible by 2\*\*1: pass a multiple of it, or a smaller depth",
        ),
        ({"delay": 20, "depth": 3}, r"delay is 20 and depth is 3, .* divisible by 2\*\*3"),
        ({"depth": 10**9}, r"delay is 40 and depth is 1000000000, .* or a smaller depth"),
    ],
)
def test_bad_temporal_xor(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        TemporalXor(**options)


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize("channels", [1, 0, 3.0, True])
def test_bad_spatial_xor(channels):
    message = rf"channels is {channels} \(\w+\); expected an int of at least 2: pass"
    with pytest.raises(InvalidOptionError, match=message):
        SpatialXor(channels=channels)
