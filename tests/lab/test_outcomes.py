"""Statistics over runs whose answers are known."""

import math
from dataclasses import replace

import pytest

from flossing.tasks import AddingProblem, DelayedCopy
from flossing_lab.runs.configuration import Architecture, Configuration, Training
from flossing_lab.runs.outcomes import (
    arms,
    epochs_to_success,
    first_success,
    seconds_to_success,
)
from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run

BASE = Configuration(task=DelayedCopy(delay=4, steps=20), architecture=Architecture(size=4))


def episode(epoch, steps):
    return Episode(epoch=epoch, loss=(1.0,) * steps, largest_exponent=0.0, smallest_exponent=-1.0)


def a_run(accuracies, final, episodes=(), seed=0, seconds=(8.0, 40.0), every=10, **changes):
    epochs = every * (len(accuracies) - 1)
    return Run(
        configuration=replace(BASE, seed=seed, **changes),
        epochs=tuple(Epoch(epoch=e + 1, loss=1.0, gradient_norm=1.0) for e in range(epochs)),
        episodes=tuple(episodes),
        evaluations=tuple(
            Evaluation(epoch=every * i, loss=1.0, accuracy=each)
            for i, each in enumerate(accuracies)
        ),
        final=Evaluation(epoch=epochs, loss=0.25, accuracy=final),
        flossing_seconds=seconds[0],
        training_seconds=seconds[1],
    )


def test_the_first_evaluation_at_the_threshold_counts_though_it_is_lost_again():
    run = a_run([0.5, 0.94, 0.95, 0.6, 1.0], 1.0)
    assert first_success(run).epoch == 20
    assert epochs_to_success(run) == 20
    assert epochs_to_success(run, accuracy=0.9) == 10
    assert epochs_to_success(run, accuracy=0.5) == 0
    assert epochs_to_success(a_run([0.5, 0.9], 1.0)) == math.inf


def test_seconds_are_shared_out_by_epochs_and_flossing_steps():
    episodes = [episode(0, 30), episode(20, 5), episode(30, 5)]
    run = a_run([0.5, 0.9, 0.97, 1.0, 1.0], 1.0, episodes)
    assert seconds_to_success(run) == pytest.approx(8.0 * 35 / 40 + 40.0 * 20 / 40)
    assert seconds_to_success(run, accuracy=0.9) == pytest.approx(8.0 * 30 / 40 + 40.0 * 10 / 40)
    assert seconds_to_success(replace(run, episodes=()), accuracy=0.9) == pytest.approx(10.0)
    assert seconds_to_success(a_run([0.5, 0.9], 1.0)) == math.inf


def test_a_run_that_starts_solved_costs_its_flossing():
    assert seconds_to_success(a_run([1.0], 1.0, [episode(0, 3)])) == 8.0


def test_an_arm_is_all_seeds_and_those_that_fail_count():
    runs = [
        a_run([0.5, 0.5, 1.0], 0.99, seed=2, seconds=(0.0, 20.0)),
        a_run([0.5, 1.0, 1.0], 0.95, seed=0, seconds=(0.0, 30.0)),
        a_run([0.5, 0.5, 0.5], 0.94, seed=1, seconds=(0.0, 10.0)),
        a_run([0.5, 0.5, 0.5], 0.5, training=Training(epochs=9)),
    ]
    arm, other = arms(runs)
    assert [run.configuration.seed for run in arm.runs] == [0, 1, 2]
    assert arm.configuration == BASE
    assert other.configuration.training.epochs == 9
    assert arm.success_rate == pytest.approx(2 / 3)
    assert arm.median_epochs == 20
    assert arm.median_seconds == pytest.approx(20.0)
    assert arm.median_accuracy == 0.95
    assert (arm.flossing_seconds, arm.training_seconds) == (0.0, 20.0)
    assert (other.success_rate, other.median_epochs, other.median_seconds) == (
        0.0,
        math.inf,
        math.inf,
    )
    assert arms(runs, accuracy=0.99)[0].success_rate == pytest.approx(1 / 3)


def test_where_half_of_the_seeds_fail_there_is_no_median_time():
    runs = [a_run([0.5, 1.0], 1.0), a_run([0.5, 0.5], 0.5, seed=1)]
    assert arms(runs)[0].success_rate == 0.5
    assert arms(runs)[0].median_epochs == math.inf


def test_a_regression_has_an_error():
    runs = [a_run([None, None], None, seed=seed, task=AddingProblem(steps=20)) for seed in (0, 1)]
    (arm,) = arms([*runs, replace(runs[0], final=replace(runs[0].final, loss=math.nan))])
    assert arm.regression
    assert arm.median_loss == 0.25
    assert math.isnan(arm.median_accuracy)
    assert (arm.success_rate, arm.median_epochs) == (0.0, math.inf)
