"""What flossing is for, at full size: tasks that are learned with it and not without."""

import pytest

from flossing_lab.demo.demo import demo_configurations
from flossing_lab.studies.horizon.tasks import ROWS
from flossing_lab.sweeps.sweep import sweep


@pytest.mark.slow
def test_flossing_solves_the_temporal_xor_that_plain_training_does_not():
    without, flossed = sweep(demo_configurations(["xor"], quick=False, seed=3))
    assert without.final.accuracy < 0.55
    assert flossed.final.accuracy > 0.95
    k = flossed.configuration.flossing.k
    before, after = without.evaluations[0], flossed.evaluations[0]
    assert after.exponents[k - 1] > before.exponents[k - 1] / 4
    assert after.gradient_norm > 1e3 * before.gradient_norm


@pytest.mark.slow
def test_the_default_schedule_carries_further_than_the_published_one():
    (row,) = (row for row in ROWS if row.name == "temporal XOR d=70, N=80")
    arms = row.configurations(seeds=1)
    published, default = sweep([*arms["published"], *arms["default"]])
    assert published.final.accuracy < 0.9
    assert default.final.accuracy > 0.95
    assert default.flossing_seconds < published.flossing_seconds
