"""A sweep's file: every combination once, and mistakes named."""

import pytest

from flossing.errors import InvalidOptionError, UnreadableFileError
from flossing.tasks import DelayedCopy, TemporalXor
from flossing_lab.runs.configuration import Architecture, Training
from flossing_lab.runs.grid import grid, read_grid
from flossing_lab.runs.schedules import SCHEDULES

pytestmark = pytest.mark.usefixtures("own_checks_only")

FULL = """
task = ["temporal-xor:delay=20,steps=60", "delayed-copy:delay=5,steps=60"]
seeds = [3, 4]
floss = ["none", "published"]
evaluate_every = 7
[architecture]
cell = ["tanh", "lstm"]
size = 16
gain = 1
[training]
epochs = 30
[flossing]
k = [4, 8]
time_steps = 40
before = 2
lr = 1
"""


def test_lists_are_crossed_and_the_same_configuration_comes_once(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(FULL, encoding="utf-8")
    configurations = read_grid(path)
    # Without flossing, k makes no difference.
    assert len(configurations) == 2 * 2 * 2 * (1 + 2)
    assert len({each.digest for each in configurations}) == len(configurations)
    assert {each.task for each in configurations} == {
        TemporalXor(delay=20, steps=60),
        DelayedCopy(delay=5, steps=60),
    }
    assert {each.architecture for each in configurations} == {
        Architecture(cell="tanh", size=16),
        Architecture(cell="lstm", size=16),
    }
    assert {each.training for each in configurations} == {Training(epochs=30)}
    assert {(each.seed, each.evaluate_every) for each in configurations} == {(3, 7), (4, 7)}
    flossed = [each.flossing for each in configurations if each.flossing is not None]
    assert {each.k for each in flossed} == {4, 8}
    assert {each.time_steps for each in flossed} == {40}
    assert all(each.schedule["before"] == 2 for each in flossed)
    assert all(each.schedule["every"] == 100 for each in flossed)


def test_a_whole_number_is_the_same_as_a_float():
    task = {"task": "digits"}
    (one,), (other,) = (grid(task | {"architecture": {"gain": gain}}) for gain in (1, 1.0))
    assert one.digest == other.digest


def test_a_setting_without_a_default_value_is_read_as_what_it_is():
    for scale in (0.5, 1):
        (one,) = grid({"task": "digits", "architecture": {"bias_scale": scale}})
        assert one.architecture.bias_scale == scale
    with pytest.raises(InvalidOptionError, match="bias_scale is 'much' .str.; expected a number"):
        grid({"task": "digits", "architecture": {"bias_scale": "much"}})


def test_the_published_schedule_is_that_of_the_released_run():
    flossing = SCHEDULES["published"](80)
    assert (flossing.k, flossing.time_steps, flossing.sequences) == (75, 55, 1)
    assert (flossing.state_transient, flossing.frame_transient) == (10, 6)
    named = {name: flossing.schedule[name] for name in ("before", "every", "steps", "times", "lr")}
    assert named == {"before": 500, "every": 100, "steps": 500, "times": 2, "lr": 1e-3}
    assert SCHEDULES["published"](32).k == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "task is missing"),
        ('task = "juggling"', "task is 'juggling': there is no task 'juggling'"),
        ("task = 3", "task is 3 .int.; expected text"),
        ('task = "temporal-xor:delay=400"', "task is .* no step has a target"),
        ("task = []", "task is an empty list"),
        ('task = "digits"\nsize = 8', "size is no setting of a sweep; expected one of .*task"),
        (
            'task = "digits"\narchitecture = 8',
            r"architecture is 8: write a table, \[architecture\]",
        ),
        ('task = "digits"\n[architecture]\nsizes = 8', "architecture.sizes is no setting"),
        ('task = "digits"\n[architecture]\nsize = "8"', "architecture.size is '8' .*whole number"),
        ('task = "digits"\n[architecture]\nsize = [8, 0]', "size is 0 .int.; expected"),
        ('task = "digits"\n[architecture]\northogonal = 1', "orthogonal is 1 .*true or false"),
        ('task = "digits"\n[training]\nlearning_rate = true', "learning_rate is True .*a number"),
        ('task = "digits"\nfloss = "often"', "floss is 'often'; expected one of none, published"),
        ('task = "digits"\n[flossing]\nschedule = 1', "flossing.schedule is no setting"),
        ('task = "digits"\nseeds = 0', "seeds is 0; expected how many"),
        ('task = "digits"\nseeds = [0, "a"]', "seeds is .*; expected how many"),
        ('task = "digits"\nseeds = [-1]', "seeds is .*; expected how many"),
    ],
)
def test_mistakes_are_named(text, message, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidOptionError, match=message):
        read_grid(path)


def test_what_is_not_toml_is_refused(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text("task = ", encoding="utf-8")
    with pytest.raises(UnreadableFileError, match="is not TOML"):
        read_grid(path)
    with pytest.raises(UnreadableFileError, match="there is no file"):
        read_grid(tmp_path / "nothing.toml")


@pytest.mark.parametrize("name", ["published", "before", "default"])
def test_short_sequences_take_short_transients(name):
    document = {"task": "delayed-copy:delay=5,steps=12", "floss": name}
    with pytest.raises(InvalidOptionError, match="time_steps is 12"):
        grid(document)
    transients = {"state_transient": 2, "frame_transient": 1}
    for settings, steps in [(transients, 12), (transients | {"time_steps": 10}, 10)]:
        (configuration,) = grid({**document, "flossing": settings})
        assert configuration.flossing.time_steps == steps
