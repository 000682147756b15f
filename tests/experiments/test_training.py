import math
from dataclasses import replace

import pytest
import torch

from flossing.experiments.demo import QUICK
from flossing.experiments.training import (
    STREAMS,
    initial_network,
    run,
    stream_seed,
)

XOR, DIGITS = QUICK["xor"], QUICK["digits"]


@pytest.mark.parametrize("configuration", [XOR, DIGITS], ids=["xor", "digits"])
def test_configuration_and_seed_decide_the_record(configuration):
    first = run(configuration, seed=1)
    torch.rand(3)
    assert run(configuration, seed=1) == first
    assert run(configuration, seed=2) != first


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    run(XOR, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_both_arms_start_from_the_same_weights():
    flossed = initial_network(XOR, 4).state_dict()
    plain = initial_network(replace(XOR, flossing=None), 4).state_dict()
    assert all(torch.equal(flossed[name], plain[name]) for name in flossed)


def test_only_flossing_tells_the_arms_apart():
    # A step size of next to nothing: flossing runs, but changes nothing that could be noticed.
    idle = replace(XOR, flossing=replace(XOR.flossing, learning_rate=1e-30))
    flossed, plain = run(idle, seed=0), run(replace(XOR, flossing=None), seed=0)
    assert flossed.learning_curve == plain.learning_curve
    assert flossed.exponents == plain.exponents
    assert flossed.gradient_norm_by_lag == plain.gradient_norm_by_lag
    assert len(flossed.flossing_loss) == XOR.flossing.steps
    assert plain.flossing_loss == ()


def test_flossing_moves_the_exponents_towards_zero():
    longer = replace(XOR, flossing=replace(XOR.flossing, steps=40, learning_rate=1e-2))
    flossed, plain = run(longer, seed=0), run(replace(XOR, flossing=None), seed=0)
    k = XOR.flossing.k
    assert sum(abs(x) for x in flossed.exponents[:k]) < sum(abs(x) for x in plain.exponents[:k])
    assert flossed.flossing_loss[-1] < flossed.flossing_loss[0]


def test_an_easy_task_is_learned():
    easy = replace(XOR, training_steps=300, learning_rate=1e-2, max_gradient_norm=1.0)
    record = run(replace(easy, task=replace(XOR.task, delay=2), flossing=None), seed=0)
    assert record.final_accuracy > 0.9
    assert record.learning_curve[-1].loss < record.learning_curve[0].loss


def test_record_is_complete():
    record = run(DIGITS, seed=0)
    assert [point.step for point in record.learning_curve] == [0, 10, 20]
    assert len(record.exponents) == DIGITS.architecture.size
    assert len(record.gradient_norm_by_lag) == DIGITS.task.steps
    assert record.gradient_norm == record.learning_curve[0].gradient_norm
    assert all(math.isfinite(x) for x in record.exponents + record.gradient_norm_by_lag)
    assert record.flossing_seconds > 0
    assert record.training_seconds > 0


def test_the_last_step_is_always_evaluated():
    record = run(replace(XOR, flossing=None, training_steps=7, evaluate_every=5), seed=0)
    assert [point.step for point in record.learning_curve] == [0, 5, 7]


def test_every_step_is_reported():
    seen = []
    run(XOR, seed=0, report=lambda *progress: seen.append(progress))
    assert seen == [("flossing", step, 10) for step in range(1, 11)] + [
        ("training", step, 20) for step in range(1, 21)
    ]


def test_streams_of_randomness_do_not_meet():
    seeds = {stream_seed(seed, stream) for seed in range(50) for stream in STREAMS}
    assert len(seeds) == 50 * len(STREAMS)
