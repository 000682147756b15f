"""Every script in examples/ runs, and shows what its comments say one sees."""

import math
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(capsys):
    """Return what runs a script, as `python examples/NAME.py` does, and returns its variables."""

    def run(name):
        variables = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert capsys.readouterr().out
        return variables

    return run


def test_flossing_carries_gradients_through_the_texts_of_the_language_model(example):
    shown = example("language_model_lstm")
    (exponents, lag), (flossed, flossed_lag) = shown["before"], shown["flossed"]
    assert exponents.max() < -0.2
    assert lag < 20
    assert flossed.abs().max() < 0.1
    assert math.isinf(flossed_lag)
    assert shown["history"].loss[-1] < 0.01 * shown["history"].loss[0]
    assert shown["last_loss"] < 0.8 * shown["first_loss"]


def test_a_strong_input_silences_the_chaos_of_the_rate_network(example):
    shown = example("rate_network")
    free, driven = shown["spectra"].values()
    assert free.exponents[0, 0] > 2 * free.standard_error[0, 0]
    assert 2 < free.kaplan_yorke_dimension.item() < 10
    assert driven.exponents.max() < 0
    assert driven.kaplan_yorke_dimension.item() == 0
    assert 5 < shown["participation"].min() <= shown["participation"].max() < shown["UNITS"]


def test_exponents_of_the_spiking_network_are_flossed_to_zero(example):
    shown = example("spiking_network")
    assert -0.5 < shown["before"].min() <= shown["before"].max() < -0.1
    assert shown["after"].abs().max() < 0.05
    assert shown["history"].loss[-1] < 0.01 * shown["history"].loss[0]


def test_no_script_is_left_out():
    tested = {"language_model_lstm", "rate_network", "spiking_network"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
