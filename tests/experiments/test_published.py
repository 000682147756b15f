"""The published effect: temporal XOR with d = 40, in the demo's own configuration."""

import pytest

from flossing.experiments.demo import demo_configurations
from flossing.experiments.sweep import sweep


@pytest.mark.slow
def test_flossing_solves_the_temporal_xor_that_plain_training_does_not():
    without, flossed = sweep(demo_configurations(["xor"], quick=False, seed=3))
    assert without.final.accuracy < 0.55
    assert flossed.final.accuracy > 0.95
    k = flossed.configuration.flossing.k
    before, after = without.evaluations[0], flossed.evaluations[0]
    assert after.exponents[k - 1] > before.exponents[k - 1] / 4
    assert after.gradient_norm > 1e3 * before.gradient_norm
