"""The published effect: temporal XOR with d = 40, in the demo's own configuration."""

import pytest

from flossing.experiments.demo import demo_configurations
from flossing.experiments.parallel import run_all


@pytest.mark.slow
def test_flossing_solves_the_temporal_xor_that_plain_training_does_not():
    without, flossed = run_all(demo_configurations(["xor"], quick=False), seed=3)
    assert without.final_accuracy < 0.55
    assert flossed.final_accuracy > 0.95
    k = flossed.configuration.flossed_k
    assert flossed.exponents[k - 1] > without.exponents[k - 1] / 4
    assert flossed.gradient_norm > 1e3 * without.gradient_norm
