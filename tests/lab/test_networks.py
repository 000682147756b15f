import math

import pytest
import torch
from torch.testing import assert_close

from flossing_lab.networks.networks import make_network
from flossing_lab.runs.configuration import Architecture

N, T, B = 12, 15, 4
FORMS = pytest.mark.parametrize("form", ["rate", "state"])


def made(input_size=2, output_size=3, seed=3, **options):
    architecture = Architecture(**{"size": N, **options})
    generator = torch.Generator().manual_seed(seed)
    return make_network(
        architecture, input_size=input_size, output_size=output_size, generator=generator
    )


def weights_of(network):
    rnn = network.recurrence
    return rnn.weight_hh_l0, rnn.weight_ih_l0, rnn.bias_ih_l0


@pytest.fixture
def inputs():
    return torch.randint(2, (T, B, 2), generator=torch.Generator().manual_seed(1)).float()


def test_rate_network_is_the_published_map(inputs):
    network = made(form="rate")
    J, w, b = weights_of(network)
    x = network.initial_potential.expand(B, N)
    outputs = []
    for s in inputs:
        x = x.tanh() @ J.T + b + s @ w.T
        outputs.append(x @ network.readout.weight.T + network.readout.bias)
    assert_close(network(inputs), torch.stack(outputs))


def test_state_network_is_the_published_map(inputs):
    network = made()
    W, w, b = weights_of(network)
    h = torch.zeros(B, N)
    outputs = []
    for x in inputs:
        h = torch.tanh(h @ W.T + x @ w.T + b)
        outputs.append(h @ network.readout.weight.T + network.readout.bias)
    assert_close(network(inputs), torch.stack(outputs))


@FORMS
def test_a_state_handed_on_continues_the_run(form, inputs):
    network = made(form=form)
    _, state = network.recurrence(inputs[:6], network.initial_state(B))
    assert_close(network(inputs[6:], state), network(inputs)[6:])


def test_initial_potential_has_relaxed_without_input():
    # Below the edge of chaos, whatever is left after 100 steps is the fixed point.
    network = made(form="rate", gain=0.5)
    J, _, b = weights_of(network)
    x = network.initial_potential
    assert_close(J @ x.tanh() + b, x)
    assert x.requires_grad


@FORMS
def test_one_of_the_two_biases_is_frozen_at_zero(form):
    network = made(form=form)
    assert not network.recurrence.bias_hh_l0.any()
    names = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert names == {"recurrence.bias_hh_l0"}


@FORMS
def test_the_published_weights_are_drawn_in_this_order(form):
    # Numbers that were recorded with these networks depend on it.
    network, generator = made(form=form, size=200, gain=1.5), torch.Generator().manual_seed(3)
    W, w, b = weights_of(network)
    draw = torch.empty
    assert torch.equal(W, draw(200, 200).normal_(0, 1.5 / math.sqrt(200), generator=generator))
    assert torch.equal(w, draw(200, 2).normal_(generator=generator))
    if form == "rate":
        assert torch.equal(b, draw(200).uniform_(0, 0.1, generator=generator))
        assert torch.equal(network.readout.weight, draw(3, 200).normal_(generator=generator))
    else:
        bound = 1 / math.sqrt(200)
        expected = draw(3, 200).uniform_(-bound, bound, generator=generator)
        assert not b.any()
        assert torch.equal(network.readout.weight, expected)
    assert not network.readout.bias.any()
