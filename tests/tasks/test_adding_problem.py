"""The adding problem against a loop over steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flossing.errors import InvalidOptionError
from flossing.tasks import AddingProblem


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(2, 30), seed=st.integers(0, 2**32))
def test_target_is_the_sum_of_the_marked_numbers(steps, seed):
    batch_size = 3
    task = AddingProblem(steps=steps)
    batch = task.sample(batch_size, generator=torch.Generator().manual_seed(seed))
    for b in range(batch_size):
        total, marked = 0.0, []
        for t in range(steps):
            number, mark = batch.inputs[t, b].tolist()
            assert 0.0 <= number < 1.0
            assert mark in (0.0, 1.0)
            if mark == 1.0:
                marked.append(t)
                total += number
        first, second = marked
        assert first < steps // 2 <= second
        assert batch.targets[:-1, b].tolist() == [[0.0]] * (steps - 1)
        assert batch.targets[-1, b].item() == pytest.approx(total, rel=1e-6)
        assert batch.mask[:, b].tolist() == [False] * (steps - 1) + [True]


@pytest.mark.parametrize("steps", [2, 3, 10, 11])
def test_marks_are_uniform_over_each_half(steps):
    count = 20_000
    batch = AddingProblem(steps=steps).sample(count, generator=torch.Generator().manual_seed(0))
    shares = batch.inputs[..., 1].mean(1)
    half = steps // 2
    for part, size in ((shares[:half], half), (shares[half:], steps - half)):
        assert part.tolist() == pytest.approx([1 / size] * size, abs=5 * 0.5 / count**0.5)


def test_always_answering_one_has_error_one_sixth():
    batch = AddingProblem(steps=6).sample(100_000, generator=torch.Generator().manual_seed(0))
    answers = batch.targets[batch.mask]
    assert answers.mean().item() == pytest.approx(1.0, abs=0.01)
    assert ((answers - 1) ** 2).mean().item() == pytest.approx(1 / 6, abs=0.005)


def test_default():
    assert AddingProblem().steps == 200


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize("steps", [1, 0, -3, 200.0, 2.5, True, "200", None])
def test_bad_steps(steps):
    message = rf"steps is {steps!r} \(\w+\); expected an int of at least 2: pass, .* steps=2"
    with pytest.raises(InvalidOptionError, match=message):
        AddingProblem(steps=steps)
