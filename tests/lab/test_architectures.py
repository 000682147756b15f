"""Every architecture runs, is mapped or compiled, and can be measured and flossed."""

import itertools

import pytest
import torch
from architectures import ARCHITECTURES, made, name
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.testing import assert_close

import flossing
from flossing.errors import InvalidOptionError
from flossing.support.pytree import flatten
from flossing_lab.networks.cells import LeakyCell, LongExpressiveMemoryCell, ModReluCell
from flossing_lab.networks.networks import compiled_states
from flossing_lab.runs.configuration import Architecture

T, B = 9, 3
every = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name)
mapped = pytest.mark.parametrize(
    "architecture", [each for each in ARCHITECTURES if not each.is_stock_layer], ids=name
)


@pytest.fixture
def inputs():
    return torch.randn(T, B, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def random_state(network, batch, generator):
    leaves, rebuild = flatten(network.initial_state(batch))
    drawn = [torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in leaves]
    return rebuild([each.requires_grad_() for each in drawn])


def stepwise(network, inputs, state):
    """Hidden states by the module's own forward, whatever it is."""
    if isinstance(network.recurrence, nn.RNNBase):
        return network.recurrence(inputs, state)[0]
    hidden = []
    for x in inputs:
        state = network.system(x, state)
        hidden.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(hidden)


@every
def test_a_stock_layer_is_one_of_pytorch(architecture):
    assert isinstance(made(architecture).recurrence, nn.RNNBase) == architecture.is_stock_layer


def test_there_is_every_kind():
    assert {each.cell for each in ARCHITECTURES} == {
        "tanh", "relu", "leaky", "modrelu", "gru", "lstm", "lem",
    }  # fmt: skip
    assert {each.cell for each in ARCHITECTURES if each.orthogonal} == {
        "tanh", "relu", "leaky", "modrelu",
    }  # fmt: skip


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])
@settings(max_examples=8, deadline=None)
@given(
    size=st.integers(1, 20),
    input_size=st.integers(1, 4),
    steps=st.integers(1, 12),
    batch=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_compiled_loops_are_the_modules_own_steps(cell, size, input_size, steps, batch, seed):
    network = made(Architecture(cell=cell, size=size), seed, input_size).double()
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(steps, batch, input_size, generator=generator, dtype=torch.float64)
    state = random_state(network, batch, generator)
    weights = torch.randn(steps, batch, size, generator=generator, dtype=torch.float64)
    leaves = [*flatten(state)[0], *(p for p in network.system.parameters() if p.requires_grad)]
    compiled = compiled_states(network.recurrence, inputs, state)
    own = stepwise(network, inputs, state)
    assert_close(compiled, own, rtol=1e-13, atol=1e-13 * (1 + own.abs().max().item()))
    pairs = [torch.autograd.grad((weights * each).sum(), leaves) for each in (compiled, own)]
    for found, expected in zip(*pairs, strict=True):
        scale = 1 + expected.abs().max().item()
        assert_close(found, expected, rtol=1e-12, atol=1e-12 * scale)


@every
def test_a_sequence_is_its_steps(architecture, inputs):
    network = made(architecture).double()
    state = random_state(network, B, torch.Generator().manual_seed(2))
    assert_close(network.hidden_states(inputs, state), stepwise(network, inputs, state))


# PyTorch has no matrix exponential, which keeps weights orthogonal, in this precision.
@pytest.mark.parametrize(
    "architecture", [each for each in ARCHITECTURES if not each.orthogonal], ids=name
)
def test_a_run_in_half_precision_is_nearly_the_same(architecture, inputs):
    network = made(architecture).to(torch.bfloat16)
    answers = network(inputs.to(torch.bfloat16)).double()
    assert_close(answers, made(architecture).double()(inputs), rtol=0.1, atol=0.3)


@mapped
def test_networks_mapped_together_are_each_alone(architecture, inputs):
    networks = [made(architecture, seed).double() for seed in range(3)]
    parameters, buffers = stack_module_state(networks)

    def loss(parameters, buffers):
        return functional_call(networks[0], (parameters, buffers), (inputs,)).square().mean()

    together = torch.vmap(torch.func.grad_and_value(loss))(parameters, buffers)
    for index, network in enumerate(networks):
        alone = network(inputs).square().mean()
        assert_close(together[1][index], alone)
        alone.backward()
        for key, parameter in network.named_parameters():
            if parameter.grad is not None:
                assert_close(together[0][key][index], parameter.grad)


@every
@pytest.mark.filterwarnings("ignore::flossing.errors.LostRankWarning")
def test_exponents_are_those_of_its_jacobians(architecture, inputs):
    network = made(architecture).double()
    state = random_state(network, 1, torch.Generator().manual_seed(2))
    leaves, rebuild = flatten(state)
    leaves = [leaf.detach() for leaf in leaves]
    sizes = [leaf.numel() for leaf in leaves]

    def step(flat, x):
        pieces = [p.reshape(leaf.shape) for p, leaf in zip(flat.split(sizes), leaves, strict=True)]
        if isinstance(network.recurrence, nn.RNNBase):
            after = network.recurrence(x.reshape(1, 1, -1), rebuild(pieces))[1]
        else:
            after = network.system(x.reshape(1, -1), rebuild(pieces))
        return torch.cat([leaf.flatten() for leaf in flatten(after)[0]])

    flat = torch.cat([leaf.flatten() for leaf in leaves])
    product = torch.eye(len(flat), dtype=torch.float64)
    for x in inputs[:, 0]:
        product = torch.autograd.functional.jacobian(lambda h, x=x: step(h, x), flat) @ product
        flat = step(flat, x).detach()
    expected = torch.linalg.slogdet(product)[1] / T
    with torch.no_grad():
        found = flossing.lyapunov_spectrum(network.system, inputs[:, :1], rebuild(leaves))
    if expected.isneginf() or expected < -5:
        assert found.exponents.sum() < -5
    else:
        assert_close(found.exponents.sum(), expected, rtol=1e-7, atol=1e-7)


@every
def test_it_can_be_flossed(architecture):
    network = made(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        state = network.initial_state(B)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    # A unit of a ReLU network that has been silent once has a Jacobian of zero, so that hardly
    # more than one exponent is finite; inputs of one sign keep some units going.
    k = 1 if architecture.cell == "relu" else 2
    batches = itertools.repeat(torch.rand(40, B, 2, generator=generator))
    history = flossing.floss(
        network.system, batches, k=k, steps=8, lr=1e-2, state=state, frame_transient=15
    )
    assert not history.skipped.any()
    assert history.loss.isfinite().all()
    if history.loss[0] > 0.01:
        assert history.loss[1:].min() < history.loss[0]
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert all(key.startswith("recurrence.") for key in changed)
    assert history.loss[0] < 1e-10 or any("weight_hh" in key for key in changed)


@pytest.mark.parametrize("cell", ["tanh", "relu", "leaky", "modrelu"])
def test_weights_that_are_kept_orthogonal_stay_so_and_are_what_runs(cell, inputs):
    architecture = Architecture(cell=cell, size=8, initialisation="orthogonal", orthogonal=True)
    network = made(architecture).double()
    started = network.recurrence.weight_hh.detach().clone()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()
    W = network.recurrence.weight_hh.detach()
    assert (W - started).abs().max() > 1e-3
    # The start is orthogonal to the single precision that it was drawn in.
    assert_close(W @ W.T, torch.eye(8).double(), atol=1e-5, rtol=0)
    plain = made(Architecture(cell=cell, size=8, initialisation="orthogonal")).double()
    values = {key: value for key, value in network.named_parameters() if "original" not in key}
    suffix = "_l0" if cell in ("tanh", "relu") else ""
    values = {k + suffix * k.startswith("recurrence"): v for k, v in values.items()}
    plain.load_state_dict({**values, f"recurrence.weight_hh{suffix}": W})
    assert_close(network(inputs), plain(inputs))


def test_a_leaky_network_without_leak_is_a_tanh_network(inputs):
    leaky = made(Architecture(cell="leaky", size=8)).double()
    assert_close(leaky(inputs), made(Architecture(size=8)).double()(inputs))


def test_leaky_cell_is_the_published_map():
    cell = LeakyCell(1, 2, leak=0.25).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    h, x = torch.tensor([[0.5, -2.0]]).double(), torch.tensor([[3.0]]).double()
    current = h @ cell.weight_hh.T + x @ cell.weight_ih.T + cell.bias
    assert_close(cell(x, h), 0.75 * h + 0.25 * torch.tanh(current))


def test_modrelu_is_the_published_function_and_passes_gradients_at_zero():
    cell = ModReluCell(1, 5).double()
    nn.init.eye_(cell.weight_hh)
    with torch.no_grad():
        cell.bias.copy_(torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0]))
    x = torch.zeros(1, 1).double()
    for z in (-2.0, -0.5, -0.05, 0.0, 0.05, 0.5, 2.0):
        h = torch.full((1, 5), z).double()
        expected = torch.sign(h) * torch.relu(h.abs() + cell.bias)
        assert_close(cell(x, h), expected)
    slopes = torch.autograd.functional.jacobian(lambda h: cell(x, h), torch.zeros(1, 5).double())
    assert slopes.reshape(5, 5).diagonal().tolist() == [0, 0, 1, 1, 1]


def test_long_expressive_memory_is_the_published_map():
    cell = LongExpressiveMemoryCell(2, 3).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in cell.parameters():
        nn.init.normal_(parameter, generator=generator)
    x, y, z = (torch.randn(4, n, generator=generator, dtype=torch.float64) for n in (2, 3, 3))
    W1, W2, Wz = cell.weight_hh.chunk(3)
    V1, V2, Vz, Vy = cell.weight_ih.chunk(4)
    b1, b2, bz, by = cell.bias.chunk(4)
    step = torch.sigmoid(y @ W1.T + x @ V1.T + b1)
    other_step = torch.sigmoid(y @ W2.T + x @ V2.T + b2)
    new_z = (1 - step) * z + step * torch.tanh(y @ Wz.T + x @ Vz.T + bz)
    new_y = (1 - other_step) * y + other_step * torch.tanh(new_z @ cell.weight_zy.T + x @ Vy.T + by)
    assert_close(cell(x, (y, z)), (new_y, new_z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "relu", "form": "rate"}, "only a tanh network has a rate form"),
        ({"cell": "tanh", "leak": 0.5}, "which has none"),
        ({"cell": "gru", "orthogonal": True}, "one square recurrent matrix"),
        ({"cell": "gru", "initialisation": "chrono"}, "use cell='lstm'"),
        ({"cell": "lstm", "longest_memory": 50}, "leave longest_memory out"),
        ({"cell": "modrelu", "initialisation": "stock"}, "no module of its own"),
        ({"form": "rate", "initialisation": "stock"}, "no module of its own"),
        ({"cell": "gru", "bias_scale": 0.5}, "leave bias_scale out"),
        ({"initialisation": "stock", "bias_scale": 0.5}, "leave bias_scale out"),
        ({"bias_scale": 0.0}, "bias_scale"),
        ({"input_gain": -1.0}, "input_gain"),
        ({"orthogonal": True}, "must start so"),
        ({"orthogonal": True, "initialisation": "orthogonal", "gain": 2.0}, "must start so"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        Architecture(**options)


@pytest.mark.parametrize("size", ["input_size", "output_size"])
def test_sizes_are_positive(size):
    with pytest.raises(InvalidOptionError, match=size):
        made(Architecture(), **{size: 0})
