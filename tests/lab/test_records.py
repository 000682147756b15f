"""What is left of a run beside the text that cites it."""

import json
import math

import pytest

from flossing.errors import UnreadableFileError
from flossing.tasks import AddingProblem, TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration
from flossing_lab.runs.outcomes import Arm, seconds_to_success
from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run, condensed, condensed_from
from flossing_lab.runs.schedules import published

CONFIGURATION = Configuration(
    task=TemporalXor(delay=4), architecture=Architecture(size=16), flossing=published(16)
)


def episode(epoch, steps):
    return Episode(
        epoch=epoch, loss=(1.0,) * steps, largest_exponent=0.0, smallest_exponent=-math.inf
    )


def evaluation(epoch, accuracy):
    return Evaluation(epoch=epoch, loss=math.inf, accuracy=accuracy, gradient_norm=1 / 3)


def a_run(**changes):
    settings = {
        "configuration": CONFIGURATION,
        "epochs": tuple(Epoch(epoch=e, loss=0.7, gradient_norm=1.0) for e in range(1, 101)),
        "episodes": (episode(0, 30), episode(50, 10), episode(51, 10)),
        "evaluations": (evaluation(0, 0.5), evaluation(50, 0.96), evaluation(100, 1.0)),
        "final": evaluation(100, 1.0),
        "gradient_norm_by_lag": (0.1, 0.0),
        "flossing_seconds": 5.0,
        "training_seconds": 10.0,
        "environment": {"torch": "2"},
    }
    return Run(**(settings | changes))


def test_steps_are_counted_and_numbers_kept_to_six_digits():
    short = condensed(a_run())
    assert (short.epochs, short.episodes, short.flossing_steps) == (100, 3, (30, 40, 50))
    assert short.final.gradient_norm == 0.333333
    assert condensed(short) is short


def test_a_condensed_run_comes_back_from_strict_json():
    short = condensed(a_run())
    text = json.dumps(short.document(), allow_nan=False)
    back = condensed_from(json.loads(text))
    assert back == short
    assert back.environment == {"torch": "2"}
    assert (back.flossing_seconds, back.training_seconds) == (5.0, 10.0)
    assert back.configuration.digest == CONFIGURATION.digest
    assert back.final.loss == math.inf


def test_a_regression_comes_back_without_accuracy():
    task = AddingProblem(steps=10)
    configuration = Configuration(task=task, architecture=Architecture(size=16))
    evaluations = (evaluation(0, None),)
    short = condensed(
        a_run(configuration=configuration, evaluations=evaluations, final=evaluations[0])
    )
    assert condensed_from(short.document()).final.accuracy is None


def test_outcomes_are_those_of_the_whole_run():
    run = a_run()
    # 40 of 50 steps of flossing, 50 of 100 epochs.
    assert seconds_to_success(run) == seconds_to_success(condensed(run)) == 4.0 + 5.0
    assert Arm((condensed(run),)).median_epochs == 50


@pytest.mark.parametrize("document", [{}, {"configuration": {}}, {"configuration": 3}])
def test_what_is_no_run_is_refused(document):
    with pytest.raises(UnreadableFileError, match="not a condensed run"):
        condensed_from(document)
