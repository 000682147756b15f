"""What holds for every task alike: shapes, randomness, checks."""

import dataclasses
from itertools import islice, pairwise

import pytest
import torch

from flossing.errors import InvalidOptionError
from flossing.tasks import (
    AddingProblem,
    CopyMemory,
    DelayedCopy,
    Digits,
    SpatialXor,
    Task,
    TemporalXor,
)

# Task, kind, T, D, number of outputs.
CASES = [
    (DelayedCopy(delay=3, steps=20), "binary", 20, 1, 1),
    (TemporalXor(delay=8, steps=30, depth=2), "binary", 30, 1, 1),
    (SpatialXor(delay=5, steps=21, channels=4), "binary", 21, 4, 1),
    (AddingProblem(steps=17), "regression", 17, 2, 1),
    (CopyMemory(delay=7, length=3, symbols=5), "categorical", 13, 7, 6),
    (CopyMemory(delay=7, length=3, symbols=5, recall_only=False), "categorical", 13, 7, 6),
    (Digits(hold=6, filler="noise"), "categorical", 70, 1, 10),
    (Digits(hold=2, rows=True), "categorical", 10, 8, 10),
]
TASKS = [case[0] for case in CASES]

every_task = pytest.mark.parametrize("task", TASKS, ids=repr)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("task", "kind", "steps", "input_size", "output_size"), CASES, ids=[repr(t) for t in TASKS]
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_sizes_and_dtypes(task, kind, steps, input_size, output_size, batch_size):
    assert (task.kind, task.steps) == (kind, steps)
    assert (task.input_size, task.output_size) == (input_size, output_size)
    batch = task.sample(batch_size)
    assert batch.inputs.shape == (steps, batch_size, input_size)
    assert batch.inputs.dtype == torch.float32
    assert batch.mask.shape == (steps, batch_size)
    assert batch.mask.dtype == torch.bool
    if kind == "categorical":
        assert batch.targets.shape == (steps, batch_size)
        assert batch.targets.dtype == torch.int64
    else:
        assert batch.targets.shape == (steps, batch_size, output_size)
        assert batch.targets.dtype == torch.float32


@every_task
def test_targets_are_zero_where_they_do_not_count(task):
    batch = task.sample(50, generator=generator(0))
    assert not batch.targets[~batch.mask].any()
    assert batch.targets[batch.mask].any()


@every_task
def test_floats_follow_the_default_dtype(task):
    expected = task.sample(3, generator=generator(5))
    torch.set_default_dtype(torch.float64)
    try:
        batch = task.sample(3, generator=generator(5))
    finally:
        torch.set_default_dtype(torch.float32)
    assert batch.inputs.dtype == torch.float64
    assert batch.targets.dtype == (torch.int64 if task.kind == "categorical" else torch.float64)
    assert batch.mask.equal(expected.mask)


@every_task
def test_tensors_are_on_the_cpu_whatever_the_default_device(task):
    expected = task.sample(3, generator=generator(5))
    with torch.device("meta"):
        sampled = task.sample(3, generator=generator(5))
        streamed = next(task.batches(3, seed=5))
    assert equal(sampled, expected)
    assert equal(streamed, expected)


@every_task
def test_seeds_reproduce_and_differ(task):
    first = task.sample(5, generator=generator(1))
    assert equal(first, task.sample(5, generator=generator(1)))
    assert not first.inputs.equal(task.sample(5, generator=generator(2)).inputs)


@every_task
def test_batches_are_fresh_reproducible_and_endless(task):
    stream = list(islice(task.batches(5, seed=1), 12))
    again = list(islice(task.batches(5, seed=1), 12))
    other = list(islice(task.batches(5, seed=2), 12))
    assert all(equal(a, b) for a, b in zip(stream, again, strict=True))
    assert not any(a.inputs.equal(b.inputs) for a, b in zip(stream, other, strict=True))
    assert not any(a.inputs.equal(b.inputs) for a, b in pairwise(stream))


@every_task
def test_batches_draw_what_one_seeded_generator_draws(task):
    source = generator(11)
    for batch in islice(task.batches(2, seed=11), 3):
        assert equal(batch, task.sample(2, generator=source))


@every_task
def test_default_random_state_is_left_alone(task):
    before = torch.get_rng_state()
    task.sample(3, generator=generator(0))
    list(islice(task.batches(3, seed=0), 2))
    assert torch.get_rng_state().equal(before)


@every_task
def test_without_a_generator_the_default_random_state_is_used(task):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = task.sample(4), task.sample(4)
        torch.manual_seed(3)
        repeated = task.sample(4)
    assert equal(first, repeated)
    assert not first.inputs.equal(second.inputs)


@pytest.mark.usefixtures("own_checks_only")
@every_task
@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_bad_batch_sizes(task, batch_size):
    message = rf"batch_size is {batch_size} \(\w+\); expected an int of at least 1: pass"
    with pytest.raises(InvalidOptionError, match=message):
        task.sample(batch_size)
    # At the call: an iterator that fails only once it is used hides where the mistake is.
    with pytest.raises(InvalidOptionError, match=message):
        task.batches(batch_size, seed=0)


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, False])
def test_bad_seeds(seed):
    message = rf"seed is {seed} \(\w+\); expected an int from 0 to {2**64 - 1}: pass"
    with pytest.raises(InvalidOptionError, match=message):
        DelayedCopy().batches(4, seed=seed)


def test_the_largest_seed_is_taken():
    assert next(DelayedCopy().batches(4, seed=2**64 - 1)).mask.shape == (300, 4)


@every_task
def test_tasks_are_values(task):
    options = {
        field.name: getattr(task, field.name) for field in dataclasses.fields(task) if field.init
    }
    twin = type(task)(**options)
    assert twin == task
    assert hash(twin) == hash(task)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.steps = 5
    with pytest.raises(TypeError, match="positional"):
        type(task)(*options.values())


def test_a_task_must_say_how_to_draw():
    class Incomplete(Task):
        kind = "binary"
        steps = 3
        input_size = 1
        output_size = 1

    with pytest.raises(TypeError, match="_draw"):
        Incomplete()
