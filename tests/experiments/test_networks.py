import math

import pytest
import torch
from torch.testing import assert_close

from flossing.experiments.networks import RateNetwork, SequenceClassifier

N, T, B = 12, 15, 4


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def inputs(generator):
    return torch.randint(2, (T, B, 2), generator=generator).float()


def test_rate_network_is_the_published_map(generator, inputs):
    network = RateNetwork(2, N, 3, generator=generator)
    J, w, b = network.recurrent_weights, network.input_weights, network.bias
    x = network.initial_potential.expand(B, N)
    outputs = []
    for s in inputs:
        x = x.tanh() @ J.T + b + s @ w.T
        outputs.append(x @ network.readout.weight.T + network.readout.bias)
    assert_close(network(inputs), torch.stack(outputs))


def test_classifier_is_the_published_map(generator, inputs):
    network = SequenceClassifier(2, N, 3, generator=generator)
    h = torch.zeros(B, N)
    outputs = []
    for x in inputs:
        h = torch.tanh(h @ network.recurrent_weights.T + x @ network.input_weights.T + network.bias)
        outputs.append(h @ network.readout.weight.T + network.readout.bias)
    assert_close(network(inputs), torch.stack(outputs))


@pytest.mark.parametrize("network_type", [RateNetwork, SequenceClassifier])
def test_a_state_handed_on_continues_the_run(network_type, generator, inputs):
    network = network_type(2, N, 3, generator=generator)
    _, state = network.rnn(inputs[:6], network.initial_state(B))
    assert_close(network(inputs[6:], state), network(inputs)[6:])


def test_initial_potential_has_relaxed_without_input():
    # Below the edge of chaos, whatever is left after 100 steps is the fixed point.
    network = RateNetwork(1, N, 1, gain=0.5, generator=torch.Generator().manual_seed(0))
    x = network.initial_potential
    assert_close(network.recurrent_weights @ x.tanh() + network.bias, x)
    assert x.requires_grad


@pytest.mark.parametrize("network_type", [RateNetwork, SequenceClassifier])
def test_one_of_the_two_biases_is_frozen_at_zero(network_type, generator):
    network = network_type(1, N, 1, generator=generator)
    frozen = network.rnn.bias_hh_l0
    assert not frozen.requires_grad
    assert not frozen.any()
    names = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert names == {"rnn.bias_hh_l0"}


@pytest.mark.parametrize("network_type", [RateNetwork, SequenceClassifier])
def test_recurrent_weights_have_the_variance_asked_for(network_type, generator):
    network = network_type(1, 300, 1, gain=1.5, generator=generator)
    assert network.recurrent_weights.std().item() == pytest.approx(1.5 / math.sqrt(300), rel=0.02)


@pytest.mark.parametrize("network_type", [RateNetwork, SequenceClassifier])
def test_the_generator_alone_decides_the_weights(network_type):
    before = torch.get_rng_state()
    first = network_type(1, N, 1, generator=torch.Generator().manual_seed(5)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    second = network_type(1, N, 1, generator=torch.Generator().manual_seed(5)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(value.isfinite().all() for value in first.values())
