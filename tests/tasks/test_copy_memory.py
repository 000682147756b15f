"""Copy memory against a loop over steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flossing.errors import InvalidOptionError
from flossing.tasks import CopyMemory


@settings(deadline=None, max_examples=60)
@given(
    delay=st.integers(1, 12),
    length=st.integers(1, 6),
    symbols=st.integers(2, 9),
    recall_only=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_step(delay, length, symbols, recall_only, seed):
    task = CopyMemory(delay=delay, length=length, symbols=symbols, recall_only=recall_only)
    assert task.steps == delay + 2 * length
    batch_size = 2
    batch = task.sample(batch_size, generator=torch.Generator().manual_seed(seed))
    for b in range(batch_size):
        word = []
        for t in range(task.steps):
            channels = batch.inputs[t, b].tolist()
            assert sorted(channels) == [0.0] * (symbols + 1) + [1.0]
            shown, asked = channels.index(1.0), int(batch.targets[t, b])
            recalling = t >= length + delay
            if t < length:
                assert 1 <= shown <= symbols
                word.append(shown)
            elif t == length + delay - 1:
                assert shown == symbols + 1
            else:
                assert shown == 0
            assert asked == (word[t - length - delay] if recalling else 0)
            assert bool(batch.mask[t, b]) == (recalling or not recall_only)


def test_symbols_are_uniform():
    task = CopyMemory(delay=1, length=10, symbols=4)
    batch = task.sample(2000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(batch.targets[batch.mask], minlength=5).tolist()
    assert counts[0] == 0
    # Five standard deviations of a binomial count with p = 1/4.
    assert counts[1:] == pytest.approx([5000] * 4, abs=5 * (20_000 * 0.25 * 0.75) ** 0.5)


def test_defaults():
    task = CopyMemory()
    assert task == CopyMemory(delay=100, length=10, symbols=8, recall_only=True)
    assert (task.steps, task.input_size, task.output_size) == (120, 10, 9)


def test_steps_cannot_be_chosen():
    with pytest.raises(TypeError, match="steps"):
        CopyMemory(steps=5)


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 0}, r"delay is 0 \(int\); expected an int of at least 1: pass"),
        ({"delay": 2.5}, r"delay is 2\.5 \(float\); expected an int of at least 1: pass"),
        ({"length": 0}, r"length is 0 \(int\); expected an int of at least 1: pass"),
        ({"length": True}, r"length is True \(bool\); expected an int of at least 1: pass"),
        ({"symbols": 1}, r"symbols is 1 \(int\); expected an int of at least 2: pass"),
        ({"symbols": "8"}, r"symbols is '8' \(str\); expected an int of at least 2: pass"),
        ({"recall_only": 1}, r"recall_only is 1 \(int\); pass one of True, False"),
        ({"recall_only": "no"}, r"recall_only is 'no' \(str\); pass one of True, False"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        CopyMemory(**options)
