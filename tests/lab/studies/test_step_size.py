"""The study of the largest step size: tiny networks, and made-up results with a known law."""

import math

import numpy as np
import pytest
import torch

from flossing.tasks import DelayedCopy
from flossing_lab.runs.configuration import Architecture
from flossing_lab.studies.random_bits import fresh_network, generator
from flossing_lab.studies.step_size.laws import arm_of, law, step_ratio
from flossing_lab.studies.step_size.networks import answers, copies_of, sensitivities, train
from flossing_lab.studies.step_size.study import StepSizeSetting, draw, findings, measure, tables
from flossing_lab.studies.study import Measurement, Results

DELAYS = (2, 4, 8, 16)
STEP_SIZES = tuple(2.0**power for power in range(-8, 1))


def made_up(*, flossed_factor=1.0, reach=16):
    """Networks that learn with steps up to 1/d, the flossed ones times a factor."""

    def numbers(flossed):
        factor = flossed_factor if flossed else 1.0
        longest = 16 if flossed else reach
        learns = [[step <= factor / d and d <= longest for step in STEP_SIZES] for d in DELAYS]
        return {
            "accuracy": [[0.9 if each else 0.5 for each in row] for row in learns],
            "sensitivity": [[2.0 * d for _ in STEP_SIZES] for d in DELAYS],
            "sensitivity_before": [3.0] * len(DELAYS),
        }

    return Results(
        measurements=tuple(
            Measurement(
                setting={
                    "seed": seed,
                    "flossed": flossed,
                    "delays": list(DELAYS),
                    "step_sizes": list(STEP_SIZES),
                },
                numbers=numbers(flossed),
                seconds=1.0,
            )
            for seed in range(4)
            for flossed in (False, True)
        )
    )


def test_laws_of_made_up_results():
    plain = arm_of(made_up(reach=8), flossed=False)
    assert np.isnan(plain.largest_steps[:, 3]).all()
    steps = law(plain.delays, plain.largest_steps)
    assert steps.exponent == pytest.approx(-1)
    assert steps.interval == pytest.approx((-1, -1))
    assert steps.error < 1e-9 < steps.exponential_error
    assert law(plain.delays, plain.sensitivity_after).exponent == pytest.approx(1)
    assert law(plain.delays, plain.sensitivity_before).exponent == pytest.approx(0)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_ratio_of_the_steps(factor):
    results = made_up(flossed_factor=factor, reach=8)
    ratio, interval = step_ratio(*(arm_of(results, flossed=each) for each in (False, True)))
    assert ratio == pytest.approx(factor)
    assert interval == pytest.approx((factor, factor))


def test_verdicts_follow_from_the_numbers():
    def verdicts(**options):
        return [each.agrees for each in findings(made_up(**options))]

    assert verdicts(flossed_factor=1.0, reach=16)[:2] == [False, False]
    assert verdicts(flossed_factor=2.0, reach=8)[:2] == [True, True]


def test_figure_and_tables():
    results = made_up(reach=8)
    figure = draw(results)
    assert len(figure.axes) == 5
    by_delay, laws = tables(results)
    assert by_delay.rows[-1][:5] == ("16", "0 of 4", "4 of 4", "–", "2^-4.0")
    assert laws.rows[0][1] == "-1.00 [-1.00, -1.00]"


def test_answers_are_those_of_the_network():
    network = fresh_network(Architecture(size=5, form="rate"), 0)
    bits = torch.randint(2, (7, 3)).float()
    with torch.no_grad():
        expected = network(bits.unsqueeze(-1), torch.zeros(1, 3, 5)).squeeze(-1)
        found = answers(copies_of(network, 2), bits.unsqueeze(1))
    torch.testing.assert_close(found, expected.unsqueeze(1).expand(-1, 2, -1))


def test_copies_train_as_if_alone():
    network = fresh_network(Architecture(size=5, form="rate"), 0)
    task = DelayedCopy(delay=2, steps=8)
    together, alone = copies_of(network, 2), copies_of(network, 1)
    train(together, task, (0.1, 0.01), steps=5, generator=generator(0, "training"))
    train(alone, task, (0.01,), steps=5, generator=generator(0, "training"))
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1], one[0])
        assert not torch.equal(both[0], one[0])


def test_sensitivity_is_the_norm_of_the_gradient():
    network = fresh_network(Architecture(size=5, form="rate"), 0)
    task, copies = DelayedCopy(delay=2, steps=6), copies_of(network, 2)
    found = sensitivities(copies, task, sequences=3, generator=generator(0, "evaluation"))
    bits = task.sample(3, generator=generator(0, "evaluation")).inputs.squeeze(-1)
    one = copies_of(network, 1)
    squares = [
        torch.autograd.grad(answers(one, bits[:, [index]].unsqueeze(1))[-1].sum(), one.recurrent)[0]
        .square()
        .sum()
        for index in range(3)
    ]
    expected = math.sqrt(sum(squares) / 3)
    assert found.tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_a_measurement_of_tiny_networks():
    setting = StepSizeSetting(
        seed=0,
        flossed=True,
        delays=(1, 3),
        step_sizes=(0.01, 10.0),
        size=6,
        flossing_steps=3,
        steps=60,
        sequences=8,
    )
    numbers = measure(setting)
    assert numbers == measure(setting)
    (easy, diverged), _ = numbers["accuracy"]
    assert easy > 0.9 > diverged
    assert len(numbers["sensitivity_before"]) == len(numbers["sensitivity"]) == 2
