"""Handwritten digits against scikit-learn's own arrays."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import sklearn.datasets
import torch

from flossing.errors import InvalidOptionError
from flossing.tasks import Digits


@pytest.fixture(scope="module")
def source():
    return sklearn.datasets.load_digits()


def generator(seed):
    return torch.Generator().manual_seed(seed)


def rows_of(labels, images):
    return [(label, *pixels) for label, pixels in zip(labels, images, strict=True)]


def labelled_images(batch, image_steps):
    """One tuple (label, 64 pixels from 0 to 16) for each sequence of a batch."""
    pixels = batch.inputs[:image_steps].movedim(0, 1).flatten(1) * 16
    return rows_of(batch.targets[-1].tolist(), pixels.tolist())


def known_images(source):
    return rows_of(source.target.tolist(), source.data.tolist())


def everything(task):
    """The whole train part and the whole test part."""
    test = task.test()
    train = task.sample(1797 - test.mask.shape[1])
    return train, test


@pytest.mark.parametrize(("rows", "image_steps"), [(False, 64), (True, 8)])
@pytest.mark.parametrize("test_fraction", [0.01, 0.2, 0.99])
def test_split_covers_every_image_exactly_once(source, rows, image_steps, test_fraction):
    train, test = everything(Digits(rows=rows, test_fraction=test_fraction))
    found = labelled_images(train, image_steps) + labelled_images(test, image_steps)
    assert len(found) == 1797
    assert Counter(found) == Counter(known_images(source))


@pytest.mark.parametrize("test_fraction", [0.01, 0.2, 0.5, 0.99])
def test_split_is_stratified(source, test_fraction):
    task = Digits(test_fraction=test_fraction)
    train, test = everything(task)
    shares = np.bincount(source.target) * test_fraction
    test_counts = torch.bincount(test.targets[-1], minlength=10)
    train_counts = torch.bincount(train.targets[-1], minlength=10)
    assert np.abs(test_counts.numpy() - shares).max() <= 1.0
    assert test_counts.min() >= 1
    assert train_counts.min() >= 1


def test_split_depends_on_its_seed_alone():
    first = Digits(split_seed=0).test()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = Digits(split_seed=0, rows=True).test()
    other = Digits(split_seed=1).test()
    assert labelled_images(again, 8) == labelled_images(first, 64)
    assert Counter(labelled_images(other, 64)) != Counter(labelled_images(first, 64))


def test_train_and_test_share_no_image():
    task = Digits()
    train, test = everything(task)
    assert not set(labelled_images(train, 64)) & set(labelled_images(test, 64))


def test_batches_are_drawn_from_the_train_part_without_replacement():
    task = Digits()
    held_out = set(labelled_images(task.test(), 64))
    images = labelled_images(task.sample(1200, generator=generator(0)), 64)
    assert len(set(images)) == 1200
    assert not set(images) & held_out


@pytest.mark.parametrize(("rows", "image_steps"), [(False, 64), (True, 8)])
@pytest.mark.parametrize("hold", [0, 1, 9])
@pytest.mark.parametrize("filler", ["blank", "noise"])
def test_the_label_is_asked_at_the_last_step_only(rows, image_steps, hold, filler):
    task = Digits(hold=hold, filler=filler, rows=rows)
    assert task.steps == image_steps + hold
    for batch in (task.sample(5), task.test()):
        assert batch.inputs.shape[0] == task.steps
        assert not batch.mask[:-1].any()
        assert batch.mask[-1].all()
        assert not batch.targets[:-1].any()


@pytest.mark.parametrize(("rows", "image_steps"), [(False, 64), (True, 8)])
def test_blank_hold_is_zero(rows, image_steps):
    batch = Digits(hold=7, rows=rows).sample(20, generator=generator(0))
    assert not batch.inputs[image_steps:].any()
    assert batch.inputs[:image_steps].flatten(2).any(0).any(-1).all()


@pytest.mark.parametrize(("rows", "image_steps"), [(False, 64), (True, 8)])
def test_noise_fills_the_hold_and_leaves_the_image(rows, image_steps):
    blank = Digits(hold=30, rows=rows).sample(20, generator=generator(0))
    noisy = Digits(hold=30, rows=rows, filler="noise").sample(20, generator=generator(0))
    assert noisy.inputs[:image_steps].equal(blank.inputs[:image_steps])
    assert noisy.targets.equal(blank.targets)
    noise = noisy.inputs[image_steps:]
    assert noise.min() >= 0.0
    assert noise.max() < 1.0
    assert noise.mean().item() == pytest.approx(0.5, abs=0.06)
    # float32 has 2**24 values on [0, 1): among so few draws a repetition is all but excluded.
    assert len(noise.unique()) > 0.99 * noise.numel()


def test_noise_is_fresh_in_every_batch_and_every_test():
    task = Digits(hold=30, filler="noise")
    source = generator(0)
    first, second = task.sample(20, generator=source), task.sample(20, generator=source)
    assert not first.inputs[64:].eq(second.inputs[64:]).any()
    one, two = task.test(generator=source), task.test(generator=source)
    assert one.inputs[:64].equal(two.inputs[:64])
    assert not one.inputs[64:].equal(two.inputs[64:])
    assert task.test(generator=generator(4)).inputs.equal(task.test(generator=generator(4)).inputs)


def test_testing_with_a_generator_leaves_the_default_random_state_alone():
    before = torch.get_rng_state()
    Digits(hold=3, filler="noise").test(generator=generator(0))
    assert torch.get_rng_state().equal(before)
    Digits(hold=3).test()
    assert torch.get_rng_state().equal(before)


def test_testing_ignores_the_default_device():
    task = Digits(hold=3, filler="noise")
    with torch.device("meta"):
        batch = task.test(generator=generator(0))
    assert batch.inputs.equal(task.test(generator=generator(0)).inputs)


def test_overwriting_a_batch_changes_no_later_one():
    task = Digits()
    for draw in (task.test, lambda: task.sample(30, generator=generator(0))):
        batch = draw()
        inputs, targets = batch.inputs.clone(), batch.targets.clone()
        batch.inputs.zero_()
        batch.targets.fill_(7)
        assert draw().inputs.equal(inputs)
        assert draw().targets.equal(targets)


def test_largest_batch():
    task = Digits()
    assert task.sample(1437).mask.shape == (64, 1437)
    message = (
        "batch_size is 1438, but a batch is drawn without replacement from 1437 training images; "
        "expected at most as many: pass batch_size=1437 or less, or a smaller test_fraction"
    )
    with pytest.raises(InvalidOptionError, match=message):
        task.sample(1438)
    with pytest.raises(InvalidOptionError, match=message):
        task.batches(1438, seed=0)


def test_images_are_loaded_once(monkeypatch):
    task = Digits(split_seed=2)
    expected = task.test()

    def fail():
        raise AssertionError("loaded again")

    monkeypatch.setattr(sklearn.datasets, "load_digits", fail)
    assert Digits(split_seed=2).test().inputs.equal(expected.inputs)


def test_missing_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    # A split that no other test has loaded.
    task = Digits(split_seed=987)
    assert (task.steps, task.output_size) == (64, 10)
    with pytest.raises(ImportError, match=r'pip install "flossing\[digits\]"'):
        task.sample(4)
    with pytest.raises(ImportError, match=r'pip install "flossing\[digits\]"'):
        task.test()


def test_importing_the_tasks_does_not_import_scikit_learn():
    program = "import sys, flossing.tasks; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_defaults():
    assert Digits() == Digits(hold=0, filler="blank", rows=False, test_fraction=0.2, split_seed=0)


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": -1}, r"hold is -1 \(int\); expected an int of at least 0: pass"),
        ({"hold": 2.5}, r"hold is 2\.5 \(float\); expected an int of at least 0: pass"),
        ({"hold": False}, r"hold is False \(bool\); expected an int of at least 0: pass"),
        ({"filler": "zeros"}, r"filler is 'zeros' \(str\); pass one of 'blank', 'noise'"),
        ({"filler": None}, r"filler is None \(NoneType\); pass one of 'blank', 'noise'"),
        ({"rows": 1}, r"rows is 1 \(int\); pass one of True, False"),
        ({"split_seed": -1}, r"split_seed is -1 \(int\); expected an int from 0 to 4294967295"),
        ({"split_seed": 2**32}, r"split_seed is 4294967296 \(int\); expected an int from 0 to"),
        ({"split_seed": 0.0}, r"split_seed is 0\.0 \(float\); expected an int from 0 to"),
        *(
            (
                {"test_fraction": fraction},
                rf"test_fraction is {fraction!r} \(\w+\); expected a float from 0\.01 to 0\.99, so "
                r"that both parts of the split hold every class: pass, .* test_fraction=0\.2",
            )
            for fraction in (0.0, 0.009, 0.991, 1.0, -0.2, float("nan"), 0, 1, True, "0.2", None)
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        Digits(**options)
