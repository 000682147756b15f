import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from flossing.support.pytree import flatten
from flossing.tasks import Digits, TemporalXor
from flossing_lab.networks.gradients import first_state_gradient_norm, gradient_norm_by_lag
from flossing_lab.networks.networks import make_network
from flossing_lab.runs.configuration import Architecture

N, T, B = 12, 20, 3
WEIGHTS = [f"recurrence.{name}_l0" for name in ("weight_hh", "weight_ih", "bias_ih")]
TASK = TemporalXor(delay=4, steps=T)


def made(architecture, seed, input_size=1, output_size=1):
    generator = torch.Generator().manual_seed(seed)
    return make_network(
        architecture, input_size=input_size, output_size=output_size, generator=generator
    )


@pytest.fixture
def network():
    return made(Architecture(size=N, form="rate"), seed=1)


@pytest.fixture
def batch():
    return TASK.sample(B, generator=torch.Generator().manual_seed(2))


def naive_run(network, inputs, start):
    """All states h_0 … h_T of one sequence, and the output at every step."""
    J, w, b = (p.detach().double() for p in map(network.get_parameter, WEIGHTS))
    readout = network.readout.weight.detach().double()[0]
    states, outputs = [start], []
    for s in inputs.double():
        x = J @ states[-1] + b + w @ s
        outputs.append(readout @ x + network.readout.bias.detach().double()[0])
        states.append(x.tanh())
    return states, torch.stack(outputs)


def start_of(network):
    return network.initial_potential.detach().double().tanh().requires_grad_()


def test_gradient_by_lag_is_autograds_of_each_sequence(network, batch):
    squares = torch.zeros(T, dtype=torch.float64)
    for b in range(B):
        states, outputs = naive_run(network, batch.inputs[:, b], start_of(network))
        loss = binary_cross_entropy_with_logits(outputs[-1], batch.targets[-1, b, 0].double())
        gradients = torch.autograd.grad(loss, states[:-1])
        squares += torch.stack([gradient.square().sum() for gradient in reversed(gradients)])
    # The library runs tanh(x_0) in the precision of the weights, hence no tighter tolerance.
    expected = (squares / B).sqrt()
    assert_close(gradient_norm_by_lag(network, "binary", batch), expected, rtol=1e-5, atol=0)


def test_first_state_gradient_is_autograds_of_each_sequence(network, batch):
    square = 0.0
    for b in range(B):
        start = start_of(network)
        _, outputs = naive_run(network, batch.inputs[:, b], start)
        counted = batch.mask[:, b]
        loss = binary_cross_entropy_with_logits(
            outputs[counted], batch.targets[counted, b, 0].double()
        )
        (gradient,) = torch.autograd.grad(loss, start)
        square += gradient.square().sum().item()
    norm = first_state_gradient_norm(network, "binary", batch)
    assert norm == pytest.approx((square / B) ** 0.5, rel=1e-5)


def test_for_a_loss_at_the_last_step_both_agree_at_the_longest_lag():
    task = Digits(rows=True, hold=3)
    batch = task.sample(B, generator=torch.Generator().manual_seed(0))
    network = made(Architecture(size=N), 0, input_size=8, output_size=10)
    by_lag = gradient_norm_by_lag(network, "categorical", batch)
    first = first_state_gradient_norm(network, "categorical", batch)
    assert by_lag[-1].item() == pytest.approx(first, rel=1e-9)


def test_the_network_is_left_as_it_is(network, batch):
    gradient_norm_by_lag(network, "binary", batch)
    first_state_gradient_norm(network, "binary", batch)
    assert network.recurrence.weight_hh_l0.dtype == torch.float32
    assert all(parameter.grad is None for parameter in network.parameters())


def test_long_lags_do_not_underflow():
    task = TemporalXor(delay=4, steps=200)
    network = made(Architecture(size=N, gain=0.3, form="rate"), seed=0)
    norms = gradient_norm_by_lag(network, "binary", task.sample(2))
    assert norms[-1] < 1e-60
    assert (norms > 0).all()


ARCHITECTURES = [
    Architecture(cell="relu", size=N),
    Architecture(cell="gru", size=N, initialisation="stock"),
    Architecture(cell="lstm", size=N, initialisation="chrono"),
    Architecture(cell="leaky", size=N, leak=0.5),
    Architecture(cell="modrelu", size=N, initialisation="orthogonal", orthogonal=True),
    Architecture(cell="tanh", size=N, form="rate", initialisation="orthogonal", orthogonal=True),
    Architecture(cell="lem", size=N, initialisation="stock"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.cell)
def test_every_architecture_has_autograds_gradients(architecture, batch):
    network = made(architecture, seed=3)
    reference = made(architecture, seed=3).double()
    leaves, rebuild = flatten(reference.initial_state(B))
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    answers = reference(batch.inputs.double(), rebuild(leaves))
    losses = {
        "all": binary_cross_entropy_with_logits(
            answers[batch.mask], batch.targets[batch.mask].double()
        ),
        "last": binary_cross_entropy_with_logits(answers[-1], batch.targets[-1].double()),
    }
    expected = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
        # The loss is a mean over B sequences, each of which has B times the gradient.
        squares = sum(gradient.square().sum() for gradient in gradients)
        expected[name] = (squares * B).sqrt().item()
    found = first_state_gradient_norm(network, "binary", batch)
    by_lag = gradient_norm_by_lag(network, "binary", batch)
    assert found == pytest.approx(expected["all"], rel=1e-6)
    assert by_lag.shape == (T,)
    assert by_lag[-1].item() == pytest.approx(expected["last"], rel=1e-6)
