"""Random calls of the library: some in every run of the tests, ten thousand in the slow ones."""

import pytest
from random_calls import examined

pytestmark = pytest.mark.usefixtures("own_checks_only")


def faults(seeds):
    return {seed: found for seed in seeds if (found := examined(seed).faults)}


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_some_random_calls(first):
    assert faults(range(first, first + 20)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10_000, 500))
def test_ten_thousand_random_calls(first):
    assert faults(range(first, first + 500)) == {}
