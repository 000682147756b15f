"""Inputs of flossing: the beginning of sequences, or a random window with the state there."""

import pytest
import torch

from flossing.tasks import AddingProblem, DelayedCopy, Digits, TemporalXor
from flossing_lab.networks.networks import SequenceNetwork, make_network
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.schedules import scheduled
from flossing_lab.training.member import FlossingInputs
from flossing_lab.training.trainer import run

CELLS = [
    Architecture(size=6, form="rate"),
    Architecture(size=6, cell="gru"),
    Architecture(size=6, cell="lstm"),
    Architecture(size=6, cell="lem", initialisation="stock"),
    Architecture(size=6, cell="modrelu", initialisation="orthogonal", orthogonal=True),
]


def network(architecture):
    generator = torch.Generator().manual_seed(0)
    return make_network(architecture, input_size=1, output_size=1, generator=generator)


def made_inputs(architecture, *, anywhere, sequences=2, steps=30):
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(steps, sequences, 1, generator=source)
    flossing = Flossing(
        k=2, time_steps=20, sequences=sequences, anywhere=anywhere, schedule={"before": 2}
    )
    own = network(architecture)
    return own, inputs, FlossingInputs(own, flossing, lambda number: inputs[:, :number], source)


@pytest.mark.parametrize("architecture", CELLS, ids=lambda each: each.cell)
def test_anywhere_starts_from_the_state_that_the_network_has_there(architecture):
    own, inputs, source = made_inputs(architecture, anywhere=True)
    starts = set()
    with torch.no_grad():
        whole = own.hidden_states(inputs, rest(own))
        for _ in range(20):
            window = source.batch()
            (start,) = [s for s in range(11) if torch.equal(inputs[s : s + 20], window)]
            states = own.hidden_states(window, source.state(window))
            torch.testing.assert_close(states, whole[start : start + 20], atol=1e-5, rtol=1e-5)
            starts.add(start)
    assert len(starts) > 5


def rest(own):
    return SequenceNetwork.initial_state(own, 2)


def test_the_beginning_starts_from_rest():
    own, inputs, source = made_inputs(CELLS[0], anywhere=False)
    window = source.batch()
    assert torch.equal(window, inputs[:20])
    assert not source.state(window).any()
    assert own.initial_state(2).any()


def test_sequences_as_long_as_the_window_have_one_start():
    _, inputs, source = made_inputs(CELLS[0], anywhere=True, steps=20)
    assert torch.equal(source.batch(), inputs)


def test_default_flosses_anywhere_where_statistics_change():
    def default(task):
        return scheduled("default", Configuration(task=task, architecture=Architecture(size=8)))

    changing = (Digits(hold=20), AddingProblem(steps=60))
    steady = (DelayedCopy(delay=5), TemporalXor(delay=6))
    assert [default(task).anywhere for task in (*changing, *steady)] == [True, True, False, False]
    configuration = Configuration(task=changing[0], architecture=Architecture(size=8))
    assert not scheduled("published", configuration).anywhere


def test_at_its_default_it_changes_no_digest():
    def configuration(**flossing):
        return Configuration(
            task=DelayedCopy(delay=5, steps=30),
            architecture=Architecture(size=8),
            flossing=Flossing(k=2, time_steps=20, schedule={"before": 2}, **flossing),
        )

    assert "anywhere" not in configuration().document()["flossing"]
    assert configuration().digest == configuration(anywhere=False).digest
    assert configuration().digest != configuration(anywhere=True).digest


def test_a_run_is_the_same_again():
    configuration = Configuration(
        task=Digits(hold=10),
        architecture=Architecture(size=8),
        training=Training(epochs=6),
        flossing=Flossing(
            k=4, time_steps=20, anywhere=True, schedule={"before": 3, "every": 2, "steps": 1}
        ),
        evaluate_every=3,
    )
    assert run(configuration) == run(configuration)
