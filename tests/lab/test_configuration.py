import json
from dataclasses import replace

import pytest

import flossing
from flossing.tasks import DelayedCopy
from flossing_lab.runs.configuration import (
    SCHEDULE_OPTIONS,
    Architecture,
    Configuration,
    Flossing,
    Training,
    configuration_from,
)
from flossing_lab.runs.schedules import DEFAULT, PUBLISHED, SCHEDULES
from flossing_lab.studies.baselines.arms import BENCHMARKS
from flossing_lab.studies.horizon.tasks import ROWS

COPY = Configuration(task=DelayedCopy(delay=5, steps=60), architecture=Architecture(size=16))
FLOSSED = replace(COPY, flossing=SCHEDULES["default"](16))
ALL = [each for row in ROWS for arm in row.configurations(seeds=2).values() for each in arm]
ALL += [each for benchmark in BENCHMARKS for each in benchmark.methods().values()]


def test_every_configuration_is_read_back_from_json():
    for each in ALL:
        document = json.loads(json.dumps(each.document(), allow_nan=False))
        assert configuration_from(document) == each
        assert configuration_from(document).digest == each.digest


def test_digests_tell_configurations_apart():
    # Some of the baselines are rows of the table of delays too.
    different = [each for place, each in enumerate(ALL) if each not in ALL[:place]]
    assert 100 < len(different) < len(ALL)
    assert len({each.digest for each in different}) == len(different)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"task": DelayedCopy(delay=6, steps=60)},
        {"training": Training(epochs=2999)},
        {"architecture": Architecture(size=17)},
        {"flossing": SCHEDULES["published"](16)},
        {"evaluate_every": 49},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_changes_the_digest(change):
    assert replace(COPY, **change).digest != COPY.digest


def test_schedules_say_all_that_was_done():
    assert PUBLISHED.keys() == SCHEDULE_OPTIONS.keys() == DEFAULT.keys()


@pytest.mark.parametrize(
    "change",
    [{"task": {"name": "unknown"}}, {"task": {}}, {"flossing": 3}, {"seed": "zero"}, {"more": 1}],
)
def test_what_is_no_configuration_is_refused(change):
    with pytest.raises(flossing.InvalidOptionError, match="not the document of a configuration"):
        configuration_from(FLOSSED.document() | change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(FLOSSED, seed=-1), "seed is -1"),
        (lambda: replace(FLOSSED, evaluate_every=0), "evaluate_every is 0"),
        (lambda: replace(FLOSSED, task=DelayedCopy(steps=50)), "55 time steps.*have 50"),
        (lambda: Training(learning_rate=0.0), "learning_rate is 0.0"),
        (lambda: Training(max_gradient_norm=-1.0), "max_gradient_norm is -1.0"),
        (lambda: Training(norm_penalty=float("inf")), "norm_penalty is inf"),
        (lambda: Architecture(cell="rnn"), "cell is 'rnn'.*'tanh'"),
        (lambda: Architecture(leak=2.0), "leak is 2.0"),
        (lambda: Architecture(cell="lstm", form="rate"), "only a tanh network"),
        (lambda: Flossing(k=0, time_steps=55, schedule={}), "k is 0"),
        (lambda: Flossing(k=1, time_steps=16, schedule={}), "time_steps is 16.*at least 17"),
        (lambda: Flossing(k=1, time_steps=55, schedule={"befor": 1}), "'befor' in schedule"),
        (lambda: Flossing(k=1, time_steps=55, schedule={"lr": "high"}), "'high' .str. in schedule"),
    ],
)
@pytest.mark.usefixtures("own_checks_only")
def test_bad_configurations(make, message):
    with pytest.raises(flossing.InvalidOptionError, match=message):
        make()
