from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, stack_module_state
from torch.testing import assert_close

from flossing.errors import UnsupportedSystemError
from flossing.tasks import TemporalXor, task_loss
from flossing_lab.networks.networks import make_network
from flossing_lab.networks.regularisers import norm_penalty
from flossing_lab.runs.configuration import Architecture

VANILLA = {
    "state": Architecture(),
    "relu": Architecture(cell="relu"),
    "rate": Architecture(form="rate"),
    "orthogonal": Architecture(initialisation="orthogonal", orthogonal=True),
    "stock": Architecture(initialisation="stock"),
}


def made(architecture, size=6, seed=0, outputs=1):
    generator = torch.Generator().manual_seed(seed)
    return make_network(
        replace(architecture, size=size), input_size=1, output_size=outputs, generator=generator
    ).double()


def weights_of(network):
    recurrence = network.recurrence
    suffix = "_l0" if isinstance(recurrence, torch.nn.RNN) else ""
    names = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
    return [getattr(recurrence, name + suffix) for name in names]


def literal_penalty(network, inputs, loss_of_answers, *, rate):
    """Ω of every sequence on its own, by autograd through the potentials and Jacobians in full."""
    W, W_in, b_ih, b_hh = weights_of(network)
    squash = torch.relu if getattr(network.recurrence, "nonlinearity", "") == "relu" else torch.tanh
    penalties = []
    for b in range(inputs.shape[1]):
        h = network.initial_state(1).reshape(-1)
        potentials, answers = [], []
        for s in inputs[:, b]:
            x = W @ h + W_in @ s + b_ih + b_hh
            h = squash(x)
            potentials.append(x)
            answers.append(network.readout(x if rate else h))
        loss = loss_of_answers(torch.stack(answers).unsqueeze(1), b)
        total = torch.autograd.grad(loss, potentials, retain_graph=True, materialize_grads=True)
        penalty = torch.zeros((), dtype=torch.float64)
        for x, g in zip(potentials[:-1], total[1:], strict=True):
            x = x.detach().requires_grad_()
            slope = torch.autograd.grad(squash(x).sum(), x)[0]
            if g.norm() > 0:
                penalty = penalty + ((g @ W @ torch.diag(slope)).norm() / g.norm() - 1) ** 2
        penalties.append(penalty)
    return torch.stack(penalties).mean()


@pytest.mark.parametrize("name", VANILLA)
@settings(max_examples=6, deadline=None)
@given(
    size=st.integers(1, 7), steps=st.integers(2, 9), batch=st.integers(1, 4), seed=st.integers(0, 9)
)
def test_penalty_and_its_gradient_are_the_literal_ones(name, size, steps, batch, seed):
    network = made(VANILLA[name], size, seed, outputs=2)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(steps, batch, 1, generator=generator, dtype=torch.float64)
    targets = torch.randn(steps, batch, 2, generator=generator, dtype=torch.float64)
    # The last step of the first sequence does not count.
    counted = torch.ones(steps, batch, 1, dtype=torch.float64)
    counted[-1, 0] = 0
    found = norm_penalty(
        network, inputs, lambda answers: (counted * (answers - targets) ** 2).mean()
    )
    expected = literal_penalty(
        network,
        inputs,
        lambda answers, b: (counted[:, [b]] * (answers - targets[:, [b]]) ** 2).sum(),
        rate=name == "rate",
    )
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    parameters = [p for p in network.parameters() if p.requires_grad]
    pairs = [
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for value in (found, expected)
        if value.requires_grad
    ]
    for first, second in zip(*pairs, strict=True) if len(pairs) == 2 else ():
        assert_close(first, second, rtol=1e-9, atol=1e-11)


def test_only_the_recurrent_weights_have_a_gradient():
    network = made(Architecture(form="rate"))
    norm_penalty(network, torch.ones(5, 2, 1).double(), lambda z: z.square().mean()).backward()
    touched = {name for name, p in network.named_parameters() if p.grad is not None}
    assert touched == {"recurrence.weight_hh_l0"}


def test_descending_the_penalty_keeps_gradients_from_vanishing():
    network = made(Architecture(gain=0.3), size=20)
    task = TemporalXor(delay=4, steps=30)
    batch = task.sample(4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam([network.recurrence.weight_hh_l0], lr=1e-2)
    penalties = []
    for _ in range(60):
        penalty = norm_penalty(network, batch.inputs.double(), lambda z: task_loss(task, z, batch))
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append(penalty.item())
    assert penalties[-1] < penalties[0] / 4


def test_steps_without_gradient_have_no_weight():
    network = made(Architecture())
    inputs = torch.randn(8, 3, 1, generator=torch.Generator().manual_seed(0)).double()
    early = norm_penalty(network, inputs, lambda z: z[:5].square().sum())
    shorter = norm_penalty(network, inputs[:5], lambda z: z.square().sum())
    assert_close(early, shorter)
    nowhere = norm_penalty(network, inputs, lambda z: 0 * z.sum())
    assert nowhere == 0
    nowhere.backward()
    assert not network.recurrence.weight_hh_l0.grad.any()


def test_gradients_below_single_precision_count():
    network = made(Architecture(gain=0.1)).float()
    W = network.recurrence.weight_hh_l0
    torch.nn.init.orthogonal_(W, 0.1, generator=torch.Generator().manual_seed(0))
    # Every step divides the gradient by ten, and there are 100: 1e-100 at the first.
    penalty = norm_penalty(network, torch.zeros(101, 2, 1), lambda z: z[-1].sum())
    assert penalty.item() == pytest.approx(100 * 0.9**2, rel=1e-5)


def test_it_can_be_mapped_over_networks_that_do_not_run_compiled():
    networks = [made(VANILLA["orthogonal"], seed=seed) for seed in range(3)]
    inputs = torch.randn(7, 2, 1, generator=torch.Generator().manual_seed(0)).double()

    class Penalty(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self):
            return norm_penalty(self.network, inputs, lambda z: z.square().mean())

    modules = [Penalty(network) for network in networks]
    stacked = stack_module_state(modules)
    together = torch.vmap(lambda *state: functional_call(modules[0], state, ()))(*stacked)
    assert_close(together, torch.stack([module() for module in modules]))


@pytest.mark.parametrize("cell", ["gru", "lstm", "leaky", "lem"])
def test_other_cells_are_refused(cell):
    network = made(Architecture(cell=cell))
    with pytest.raises(UnsupportedSystemError, match="cell is 'tanh' or 'relu'"):
        norm_penalty(network, torch.zeros(5, 2, 1).double(), torch.sum)
