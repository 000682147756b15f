"""`flossing.stateful`: cells that keep their state inside, and cells with several states."""

import copy
from collections import deque
from typing import NamedTuple

import pytest
import torch
from torch import nn

import flossing
from flossing import InvalidStateError, UnsupportedSystemError

pytestmark = pytest.mark.filterwarnings("ignore::flossing.DerivativeMismatchWarning")

STEPS, BATCH, FEATURES, UNITS = 15, 2, 3, 4
DOUBLE = {"dtype": torch.float64}


def inputs(features=FEATURES):
    return torch.randn(STEPS, BATCH, features, **DOUBLE)


def exponents(system, x, state=None, **options):
    return flossing.lyapunov_spectrum(system, x, state, **options).exponents


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance):
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient / (1 + ctx.saved_tensors[0].abs()) ** 2


# --- The same recurrent network, with its state kept in every way there is ---


class Network(nn.Module):
    """tanh units with two states; `forward` is that of the explicit state (fast, slow)."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.Linear(UNITS, UNITS, **DOUBLE)
        self.feed = nn.Linear(FEATURES, UNITS, **DOUBLE)

    def step(self, x, fast, slow):
        fast = torch.tanh(self.recurrent(fast) + self.feed(x) + slow)
        return fast, 0.9 * slow + 0.1 * fast

    def forward(self, x, state):
        return self.step(x, *state)


class InAttributes(Network):
    """Created by the first call, beside a copy of the output that nothing reads."""

    def forward(self, x):
        zeros = torch.zeros(len(x), UNITS, **DOUBLE)
        self.fast, self.slow = self.step(
            x, getattr(self, "fast", zeros), getattr(self, "slow", zeros)
        )
        self.output = 2 * self.fast
        return self.output


class InTuple(Network):
    state = None

    def forward(self, x):
        state = self.state or tuple(torch.zeros(2, len(x), UNITS, **DOUBLE))
        self.state = self.step(x, *state)
        return self.state[0]


class InBuffers(Network):
    def __init__(self):
        super().__init__()
        self.register_buffer("fast", torch.zeros(0, **DOUBLE))
        self.register_buffer("slow", torch.zeros(0, **DOUBLE))

    def forward(self, x):
        if self.fast.shape != (len(x), UNITS):
            self.fast = torch.zeros(len(x), UNITS, **DOUBLE)
            self.slow = torch.zeros(len(x), UNITS, **DOUBLE)
        self.fast, self.slow = self.step(x, self.fast, self.slow)
        return self.fast


class InPlace(Network):
    """Written into in place; it starts from the number 0, as a node of SpikingJelly."""

    fast = slow = 0.0

    def forward(self, x):
        if isinstance(self.fast, float):
            self.fast, self.slow = torch.zeros(2, len(x), UNITS, **DOUBLE)
        self.fast, _ = self.step(x, self.fast, self.slow)
        self.slow.mul_(0.9).add_(0.1 * self.fast)
        return self.fast

    def reset(self):
        self.fast = self.slow = 0.0


class InNewEntries(Network):
    """Of a dictionary that is empty at first."""

    def __init__(self):
        super().__init__()
        self.memory = {}

    def forward(self, x):
        zeros = torch.zeros(len(x), UNITS, **DOUBLE)
        states = (self.memory.get(name, zeros) for name in ("fast", "slow"))
        self.memory["fast"], self.memory["slow"] = self.step(x, *states)
        return self.memory["fast"]


class InList(Network):
    def __init__(self):
        super().__init__()
        self.memory = {"states": [None, None]}

    def forward(self, x):
        zeros = torch.zeros(len(x), UNITS, **DOUBLE)
        states = [zeros if state is None else state for state in self.memory["states"]]
        self.memory["states"] = list(self.step(x, *states))
        return self.memory["states"][0]


KEPT = [InAttributes, InTuple, InBuffers, InPlace, InNewEntries, InList]
every_way = pytest.mark.parametrize("kind", KEPT)


@every_way
def test_a_state_inside_is_a_state(kind):
    cell, x = kind(), inputs()
    explicit = Network()
    explicit.load_state_dict(cell.state_dict(), strict=False)
    rest = tuple(torch.zeros(2, BATCH, UNITS, **DOUBLE))
    expected = exponents(explicit, x, rest)
    found = exponents(flossing.stateful(cell), x)
    torch.testing.assert_close(found.sum(-1), expected.sum(-1), rtol=1e-9, atol=1e-9)
    frame = torch.eye(2 * UNITS, **DOUBLE).expand(BATCH, -1, -1)
    found = exponents(flossing.stateful(cell), x, frame=frame)
    expected = exponents(explicit, x, rest, frame=frame)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weight = cell.recurrent.weight
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), weight)[0],
        torch.autograd.grad(expected.square().sum(), explicit.recurrent.weight)[0],
        rtol=1e-8,
        atol=1e-10,
    )


@every_way
def test_a_cell_that_was_used_is_left_as_it_was(kind):
    cell, x = kind(), inputs()
    with torch.no_grad():
        for row in x[:3]:
            cell(row)
    attributes = dict(vars(cell))
    before = copy.deepcopy({name: value for name, value in attributes.items() if name[0] != "_"})
    buffers = {name: (value, value.clone()) for name, value in cell.named_buffers()}
    exponents(flossing.stateful(cell), x, k=2)
    assert vars(cell).keys() == attributes.keys()
    assert all(vars(cell)[name] is value for name, value in attributes.items())
    for name, value in before.items():
        torch.testing.assert_close(vars(cell)[name], value, rtol=0, atol=0)
    for name, value in cell.named_buffers():
        assert value is buffers[name][0]
        assert torch.equal(value, buffers[name][1])


def test_the_state_is_named_and_can_be_passed_on():
    system, x = flossing.stateful(InAttributes()), inputs()
    frame = torch.eye(2 * UNITS, **DOUBLE).expand(BATCH, -1, -1)
    whole = flossing.lyapunov_spectrum(system, x, frame=frame)
    assert set(whole.final_state) == {"fast", "slow"}
    first = flossing.lyapunov_spectrum(system, x[:7], frame=frame)
    second = flossing.lyapunov_spectrum(system, x[7:], first.final_state)
    for name, value in whole.final_state.items():
        torch.testing.assert_close(second.final_state[name], value)
    alone = flossing.lyapunov_spectrum(system, x[:, 0], k=1)
    assert alone.final_state["fast"].shape == (UNITS,)
    torch.testing.assert_close(alone.final_state["fast"], whole.final_state["fast"][0])


@pytest.mark.parametrize("state", [torch.zeros(BATCH, UNITS, **DOUBLE), "output", "typo"])
def test_states_with_other_names_are_refused(state):
    if isinstance(state, str):
        zeros = torch.zeros(BATCH, UNITS, **DOUBLE)
        state = {"fast": zeros, "slow": zeros, state: zeros}
    with pytest.raises(InvalidStateError, match=r"with fast \(tensor \(2, 4\)\), slow"):
        exponents(flossing.stateful(InAttributes()), inputs(), state)


def test_flossing_and_windows_take_stateful_cells():
    cell = InTuple()
    system = flossing.stateful(cell)
    before = cell.recurrent.weight.detach().clone()
    history = flossing.floss(system, inputs(), k=2, steps=15, lr=0.02, piece=10)
    assert history.loss[-1] < history.loss[0]
    assert not torch.equal(cell.recurrent.weight, before)
    assert cell.state is None


def test_a_single_precision_cell_in_double_precision():
    network = nn.Sequential(nn.Linear(3, 4), Node(), nn.Linear(4, 2), Node(tau=3.0))
    x = torch.randn(STEPS, BATCH, 3)
    single = flossing.lyapunov_spectrum(flossing.stateful(network), x, k=2)
    double = flossing.lyapunov_spectrum(flossing.stateful(network), x, k=2, **DOUBLE)
    assert double.final_state["1.v"].dtype == torch.float64
    torch.testing.assert_close(double.exponents.float(), single.exponents, rtol=1e-3, atol=1e-3)


def test_a_bound_method_and_a_plain_object():
    class Plain:
        h = None

        def step(self, x):
            self.h = 0.5 * (torch.zeros_like(x) if self.h is None else self.h) + x
            return self.h

        __call__ = step

    expected = torch.full((BATCH, FEATURES), 0.5, **DOUBLE).log()
    plain = Plain()
    for system in (flossing.stateful(plain.step), flossing.stateful(plain)):
        torch.testing.assert_close(exponents(system, inputs()), expected)
    assert plain.h is None


def test_a_cell_without_inputs():
    class Logistic:
        x = torch.tensor([[0.3], [0.4]], **DOUBLE)

        def __call__(self):
            self.x = 4 * self.x * (1 - self.x)

    cell = Logistic()
    found = exponents(flossing.stateful(cell), None, steps=3000)
    assert bool(((found - torch.tensor(2.0).log()).abs() < 0.05).all())


# --- What is refused, and what the message says ---


def test_a_cell_without_a_state():
    with pytest.raises(UnsupportedSystemError, match="no state is found inside Sequential"):
        exponents(flossing.stateful(nn.Sequential(nn.Linear(3, 3), nn.Tanh())), inputs().float())


def test_a_cell_that_counts_its_steps():
    class Counting(Network):
        h, count = None, 0

        def forward(self, x):
            h = torch.zeros(len(x), UNITS, **DOUBLE) if self.h is None else self.h
            self.count += 1
            self.h = torch.tanh(self.recurrent(h) + self.count * self.feed(x))
            return self.h

    with pytest.raises(UnsupportedSystemError, match=r"remembers more .* also changes count"):
        exponents(flossing.stateful(Counting()), inputs())


def test_a_delay_line_in_a_deque():
    class Delayed(Network):
        def __init__(self):
            super().__init__()
            self.line = deque([torch.zeros(1, UNITS, **DOUBLE)] * 2)
            self.h = None

        def forward(self, x):
            h = torch.zeros(len(x), UNITS, **DOUBLE) if self.h is None else self.h
            self.line.append(h)
            self.h = torch.tanh(self.recurrent(h + self.line.popleft()) + self.feed(x))
            return self.h

    cell = Delayed()
    with pytest.raises(UnsupportedSystemError, match="remembers more than the state found"):
        exponents(flossing.stateful(cell), inputs())
    assert cell.h is None
    assert [tuple(each.shape) for each in cell.line] == [(1, UNITS)] * 2


def test_a_state_that_starts_elsewhere():
    class Elsewhere(Network):
        h = None

        def forward(self, x):
            h = torch.ones(len(x), UNITS, **DOUBLE) if self.h is None else self.h
            self.h = torch.tanh(self.recurrent(h) + self.feed(x))
            return self.h

    system, x = flossing.stateful(Elsewhere()), inputs()
    with pytest.raises(UnsupportedSystemError, match="starts from other values than zeros"):
        exponents(system, x)
    assert exponents(system, x, {"h": torch.ones(BATCH, UNITS, **DOUBLE)}).isfinite().all()


def test_statistics_of_the_batch_are_no_state():
    class Centred(InAttributes):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(FEATURES, **DOUBLE))

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return super().forward(x - self.mean)

    with pytest.raises(UnsupportedSystemError, match=r"mean .*first dimension.*\.eval\(\)"):
        exponents(flossing.stateful(Centred()), inputs())


def test_reset_that_changes_parameters_is_refused():
    class Resetting(InAttributes):
        def reset(self):
            nn.init.zeros_(self.recurrent.weight)

    cell = Resetting()
    before = cell.recurrent.weight.detach().clone()
    with pytest.raises(UnsupportedSystemError, match=r"reset\(\) of the cell changes parameters"):
        exponents(flossing.stateful(cell), inputs())
    assert torch.equal(cell.recurrent.weight, before)


def test_functions_have_no_state_inside():
    with pytest.raises(UnsupportedSystemError, match="no state is found inside"):
        exponents(flossing.stateful(lambda x: x), inputs())


def test_a_missing_state_points_to_stateful():
    with pytest.raises(InvalidStateError, match=r"flossing\.stateful\(cell\)"):
        exponents(InAttributes(), inputs())


# --- The protocols of other libraries ---


class Node(nn.Module):
    """A leaky node as in SpikingJelly: memories by name, behind attribute access."""

    def __init__(self, tau=2.0, v_reset=0.0):
        super().__init__()
        self._memories, self._initial = {"v": v_reset}, {"v": v_reset}
        self.tau, self.v_reset = tau, v_reset

    def __getattr__(self, name):
        if name in self.__dict__.get("_memories", ()):
            return self._memories[name]
        return super().__getattr__(name)

    def __setattr__(self, name, value):
        if name in self.__dict__.get("_memories", ()):
            self._memories[name] = value
        else:
            super().__setattr__(name, value)

    def reset(self):
        self._memories.update(copy.deepcopy(self._initial))

    def forward(self, x):
        if isinstance(self.v, float):
            self.v = torch.full_like(x, self.v)
        self.v = self.v + (x - (self.v - self.v_reset)) / self.tau
        spike = Spike.apply(self.v - 1.0)
        self.v = spike * self.v_reset + (1.0 - spike) * self.v
        return spike


@pytest.mark.parametrize("v_reset", [0.0, -0.5])
def test_a_node_with_memories(v_reset):
    node, x = Node(v_reset=v_reset), inputs()
    frame = torch.eye(FEATURES, **DOUBLE).expand(BATCH, -1, -1)
    found = flossing.lyapunov_spectrum(flossing.stateful(node), x, frame=frame)
    v = torch.full((BATCH, FEATURES), v_reset, **DOUBLE)
    growth = 0.0
    for current in x:
        charged = v + (current - (v - v_reset)) / 2
        spike = (charged > 1).double()
        slope = 1 - spike + (v_reset - charged) / (1 + (charged - 1).abs()) ** 2
        growth = growth + (0.5 * slope).abs().log()
        v = spike * v_reset + (1 - spike) * charged
    assert found.final_state.keys() == {"v"}
    torch.testing.assert_close(found.final_state["v"], v)
    expected = (growth / STEPS).sort(descending=True).values
    torch.testing.assert_close(found.exponents, expected, rtol=1e-9, atol=1e-9)
    assert node.v == v_reset


def test_a_network_of_nodes():
    network = nn.Sequential(nn.Linear(3, 4), Node(), nn.Linear(4, 2), Node(tau=3.0))
    state = flossing.lyapunov_spectrum(
        flossing.stateful(network), 3 * torch.randn(STEPS, BATCH, 3), k=2
    ).final_state
    assert list(state) == ["1.v", "3.v"]


class LeakyState(NamedTuple):
    v: torch.Tensor
    i: torch.Tensor


class LeakyCell(nn.Module):
    """As a cell of Norse: the state is a named tuple, `None` at first."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.8, **DOUBLE))

    def forward(self, x, state=None):
        if state is None:
            state = LeakyState(torch.zeros_like(x), torch.zeros_like(x))
        v = state.v + 0.1 * (state.i - state.v)
        z = Spike.apply(v - 0.5)
        return z, LeakyState((1 - z.detach()) * v, self.decay * state.i + x)


def test_a_cell_with_a_named_tuple():
    cell, x = LeakyCell(), 0.1 * inputs()
    rest = LeakyState(*torch.zeros(2, BATCH, FEATURES, **DOUBLE))
    frame = torch.eye(2 * FEATURES, **DOUBLE).expand(BATCH, -1, -1)
    found = flossing.lyapunov_spectrum(cell, x, rest, frame=frame)
    assert isinstance(found.final_state, LeakyState)
    expected = torch.tensor([0.9] * FEATURES + [0.8] * FEATURES, **DOUBLE).log()
    torch.testing.assert_close(found.exponents, expected.expand(BATCH, -1), rtol=1e-9, atol=1e-9)


# --- States as several arguments and results ---


@pytest.fixture
def network():
    return Network()


REST = tuple(torch.zeros(2, BATCH, UNITS, **DOUBLE))


def test_states_as_arguments(network):
    x = inputs()
    expected = exponents(network, x, REST)

    def separate(x, fast, slow):
        return network.step(x, fast, slow)

    def with_output(x, fast, slow):
        fast, slow = network.step(x, fast, slow)
        return fast.sum(-1), fast, slow

    def with_pair(x, fast, slow):
        fast, slow = network.step(x, fast, slow)
        return fast, (fast, slow)

    def one_state(x, state):
        fast, slow = network.step(x, *state)
        return fast.sum(-1), fast, slow

    for system in (separate, with_output, with_pair, one_state):
        torch.testing.assert_close(exponents(system, x, REST), expected)
    torch.testing.assert_close(
        exponents(
            lambda a, b: network.step(torch.zeros(len(a), FEATURES, **DOUBLE), a, b),
            None,
            REST,
            steps=STEPS,
        ),
        exponents(network, torch.zeros_like(x), REST),
    )


def test_a_loop_through_states_as_arguments(network):
    def separate(x, fast, slow):
        return network.step(x, fast, slow)

    read = lambda state: state[0][..., :FEATURES]  # noqa: E731
    options = {"state": REST, "steps": STEPS, "k": 2}
    torch.testing.assert_close(
        flossing.lyapunov_spectrum(flossing.closed_loop(separate, read), **options).exponents,
        flossing.lyapunov_spectrum(flossing.closed_loop(network, read), **options).exponents,
    )


def test_results_whose_order_is_not_known_are_refused(network):
    def step(x, fast, slow):
        fast, slow = network.step(x, fast, slow)
        return fast, slow, 2 * fast

    with pytest.raises(UnsupportedSystemError, match=r"which are the next state is not known"):
        exponents(step, inputs(), REST)


def test_states_before_inputs_are_refused(network):
    def backwards(state, x):
        return torch.tanh(0.5 * state + x)

    x, rest = inputs(UNITS), torch.zeros(BATCH, UNITS, **DOUBLE)
    with pytest.raises(UnsupportedSystemError, match=r"\(state, x\), but it is called with x_t"):
        exponents(backwards, x, rest)
    assert exponents(lambda x, state: backwards(state, x), x, rest).isfinite().all()
