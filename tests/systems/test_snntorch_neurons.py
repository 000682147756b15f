"""All neurons of snnTorch, passed as they are, against recursions written in plain tensors."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import snntorch
import torch
from torch import Tensor, nn

import flossing

# Surrogate gradients are not the derivatives of spikes, and users are told so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::flossing.DerivativeMismatchWarning"),
    pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature"),
]

UNITS = 4
STEPS = 12
BATCH = 2
SHARPNESS = 2.0

States = tuple[Tensor, ...]
Recursion = Callable[[Any, Tensor, States], States]


class Spike(torch.autograd.Function):
    """A step forward, the derivative of a fast sigmoid backward, in the input's precision."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradient / (1 + SHARPNESS * distance.abs()) ** 2


# --- The recursions: values and derivatives, without snnTorch ---


def spike(neuron: Any, membrane: Tensor) -> Tensor:
    """Return exact spikes whose gradient is that of a smooth function."""
    distance = membrane - neuron.threshold
    soft = distance / (1 + SHARPNESS * distance.abs())
    return (distance > 0).to(distance.dtype) + soft - soft.detach()


def fired(neuron: Any, membrane: Tensor) -> Tensor:
    return (membrane > neuron.threshold).to(membrane.dtype)


def late_reset(neuron: Any, before: Tensor, membrane: Tensor) -> Tensor:
    return {
        "subtract": membrane - fired(neuron, before) * neuron.threshold,
        "zero": (1 - fired(neuron, before)) * membrane,
        "none": membrane,
    }[neuron.reset_mechanism]


def early_reset(neuron: Any, before: Tensor, membrane: Tensor, spikes: Tensor) -> Tensor:
    if neuron.reset_delay or neuron.reset_mechanism == "none":
        return membrane
    new = spikes - fired(neuron, before)
    amount = neuron.threshold if neuron.reset_mechanism == "subtract" else membrane
    return membrane - new * amount


def leaky(neuron: Any, x: Tensor, states: States) -> States:
    (mem,) = states
    if neuron.reset_mechanism == "zero":
        after = neuron.beta * (1 - fired(neuron, mem)) * mem + x
    else:
        after = late_reset(neuron, mem, neuron.beta * mem + x)
    return (early_reset(neuron, mem, after, spike(neuron, after)),)


def recurrent_leaky(neuron: Any, x: Tensor, states: States) -> States:
    spk, mem = states
    current = x + spk @ neuron.recurrent.weight.T + neuron.recurrent.bias
    after = late_reset(neuron, mem, neuron.beta * mem + current)
    spikes = spike(neuron, after)
    if neuron.inhibition:
        spikes = spikes * nn.functional.one_hot(after.argmax(-1), UNITS)
    return spikes, early_reset(neuron, mem, after, spikes)


def synaptic(neuron: Any, x: Tensor, states: States) -> States:
    syn, mem = states
    syn = neuron.alpha * syn + x
    after = late_reset(neuron, mem, neuron.beta * mem + syn)
    return syn, early_reset(neuron, mem, after, spike(neuron, after))


def recurrent_synaptic(neuron: Any, x: Tensor, states: States) -> States:
    spk, syn, mem = states
    syn = neuron.alpha * syn + x + spk @ neuron.recurrent.weight.T + neuron.recurrent.bias
    after = late_reset(neuron, mem, neuron.beta * mem + syn)
    return spike(neuron, after), syn, after


def alpha(neuron: Any, x: Tensor, states: States) -> States:
    excitation, inhibition, mem = states
    excitation, was = neuron.alpha * excitation + x, inhibition
    inhibition = neuron.beta * inhibition - x
    tau = neuron.alpha.log() / (neuron.beta.log() - neuron.alpha.log()) + 1
    after = tau * (excitation + inhibition)
    reset = fired(neuron, mem)
    if neuron.reset_mechanism == "zero":
        return (1 - reset) * excitation, (1 - reset) * inhibition, (1 - reset) * after
    if neuron.reset_mechanism == "subtract":
        return excitation - reset * neuron.threshold, (1 - reset) * inhibition, after + reset * was
    return excitation, inhibition, after


def lapicque(neuron: Any, x: Tensor, states: States) -> States:
    (mem,) = states
    time_constant = neuron.R * neuron.C
    after = (1 - 1 / time_constant) * mem + x * neuron.R / time_constant
    return (late_reset(neuron, mem, after),)


def long_short_term_memory(neuron: Any, x: Tensor, states: States) -> States:
    syn, mem = states
    cell = neuron.lstm_cell
    gates = x @ cell.weight_ih.T + cell.bias_ih + mem @ cell.weight_hh.T + cell.bias_hh
    i, f, g, o = gates.chunk(4, dim=-1)
    syn = f.sigmoid() * syn + i.sigmoid() * g.tanh()
    return syn, late_reset(neuron, mem, o.sigmoid() * syn.tanh())


def convolutional_memory(neuron: Any, x: Tensor, states: States) -> States:
    syn, mem = states
    i, f, o, g = neuron.conv(torch.cat([x, mem], dim=1)).chunk(4, dim=1)
    syn = f.sigmoid() * syn + i.sigmoid() * g.tanh()
    return syn, late_reset(neuron, mem, o.sigmoid() * syn.tanh())


def delta(neuron: Any, x: Tensor, states: States) -> States:
    return neuron.beta * states[0] + x, states[0]


def leak() -> Tensor:
    return 0.6 + 0.3 * torch.rand(UNITS)


def recurrent(**options: Any) -> dict[str, Any]:
    return {"beta": leak(), "linear_features": UNITS, "learn_beta": True, **options}


def two_leaks(**options: Any) -> dict[str, Any]:
    return {
        "alpha": 0.9 + 0.05 * torch.rand(UNITS),
        "beta": leak(),
        "learn_alpha": True,
        "learn_beta": True,
        **options,
    }


def cases() -> dict[str, tuple[Callable[[], Any], Recursion]]:
    """Return neurons and their recursions, by name."""
    early: dict[str, Any] = {"reset_delay": False}
    found: dict[str, tuple[Callable[[], Any], Recursion]] = {}

    def add(name: str, kind: Any, recursion: Recursion, options: Any, **more: Any) -> None:
        def make() -> Any:
            given = {"threshold": 0.6, "learn_threshold": True, "spike_grad": Spike.apply, **more}
            return kind(**options(), **given).double()

        found[name] = make, recursion

    for reset in ("subtract", "zero", "none"):
        kept: dict[str, Any] = {"reset_mechanism": reset}
        single = lambda: {"beta": leak(), "learn_beta": True}  # noqa: E731
        add(f"Leaky-{reset}", snntorch.Leaky, leaky, single, **kept)
        low = {**kept, "threshold": 0.1}
        add(f"Lapicque-{reset}", snntorch.Lapicque, lapicque, lambda: {"beta": 0.8}, **low)
        add(f"RLeaky-{reset}", snntorch.RLeaky, recurrent_leaky, recurrent, **kept)
        add(f"Synaptic-{reset}", snntorch.Synaptic, synaptic, two_leaks, **kept)
        constant = lambda: two_leaks(learn_alpha=False, learn_beta=False)  # noqa: E731
        add(f"Alpha-{reset}", snntorch.Alpha, alpha, constant, **kept)
        both = lambda: two_leaks(linear_features=UNITS)  # noqa: E731
        add(f"RSynaptic-{reset}", snntorch.RSynaptic, recurrent_synaptic, both, **kept)
        sizes = lambda: {"input_size": UNITS, "hidden_size": UNITS}  # noqa: E731
        add(
            f"SLSTM-{reset}",
            snntorch.SLSTM,
            long_short_term_memory,
            sizes,
            **low,
        )
        if reset != "none":
            add(f"Leaky-{reset}-early", snntorch.Leaky, leaky, single, **kept, **early)
            add(
                f"RLeaky-{reset}-early",
                snntorch.RLeaky,
                recurrent_leaky,
                recurrent,
                **kept,
                **early,
            )
            add(f"Synaptic-{reset}-early", snntorch.Synaptic, synaptic, two_leaks, **kept, **early)
    add("DeltaLeaky", snntorch.DeltaLeaky, delta, lambda: {"beta": leak(), "learn_beta": True})
    add("RLeaky-inhibition", snntorch.RLeaky, recurrent_leaky, recurrent, inhibition=True)
    graded = lambda: {"beta": leak(), "graded_spikes_factor": 2.0}  # noqa: E731
    add("Leaky-graded-early", snntorch.Leaky, leaky, graded, **early)
    return found


CASES = cases()
every_neuron = pytest.mark.parametrize("name", CASES)
one_of_each = pytest.mark.parametrize(
    "name", [f"{kind}-subtract" for kind in ("Leaky", "Lapicque", "RLeaky", "Alpha", "RSynaptic")]
)


def made(name: str, **attributes: Any) -> tuple[Any, Recursion]:
    make, recursion = CASES[name]
    neuron = make()
    for attribute, value in attributes.items():
        setattr(neuron, attribute, value)
    return neuron, recursion


def currents() -> Tensor:
    """Return inputs under which the last units fire, and the first two hardly ever.

    A unit that is reset to zero has an exponent of −inf.
    """
    offset = torch.tensor([-1.5, -1.2, 0.4, 0.5], dtype=torch.float64)
    return torch.randn(STEPS, BATCH, UNITS, dtype=torch.float64).clamp(-1, 1) + offset


def jacobians(
    neuron: Any, recursion: Recursion, inputs: Tensor, count: int
) -> tuple[list[Tensor], Tensor]:
    """Return the Jacobians (B, n, n) of every step from zeros on, and the last flat state."""
    flat = torch.zeros(BATCH, count * UNITS, dtype=inputs.dtype)
    found: list[Tensor] = []
    for x in inputs:

        def step(rows: Tensor, x: Tensor = x) -> Tensor:
            return torch.cat(recursion(neuron, x, rows.chunk(count, dim=-1)), dim=-1)

        rows = flat if flat.requires_grad else flat.clone().requires_grad_()
        after = step(rows)
        columns = [
            torch.autograd.grad(after[:, i].sum(), rows, create_graph=True, materialize_grads=True)[
                0
            ]
            for i in range(after.shape[1])
        ]
        found.append(torch.stack(columns, dim=1))
        flat = after
    return found, flat


def naive_exponents(matrices: list[Tensor], frame: Tensor) -> Tensor:
    growth: list[Tensor] = []
    for matrix in matrices:
        frame, triangular = torch.linalg.qr(matrix @ frame)
        growth.append(triangular.diagonal(dim1=-2, dim2=-1).abs().log())
    means = torch.stack(growth).mean(0)
    return means.gather(-1, means.detach().argsort(dim=-1, descending=True))


def number_of_states(neuron: Any) -> int:
    with torch.no_grad():
        result = flossing.lyapunov_spectrum(neuron, currents(), k=1).final_state
    return 1 if isinstance(result, Tensor) else len(result)


def flat_gradient(exponents: Tensor, tensors: list[Tensor]) -> Tensor:
    if not exponents.requires_grad:
        return torch.zeros(())
    gradients = torch.autograd.grad(exponents.square().mean(), tensors, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


@every_neuron
def test_exponents_and_gradients_are_those_of_explicit_jacobians(name: str):
    neuron, recursion = made(name)
    inputs = currents().requires_grad_()
    count = number_of_states(neuron)
    matrices, last = jacobians(neuron, recursion, inputs, count)
    frame = torch.linalg.qr(torch.randn(BATCH, count * UNITS, 2, dtype=torch.float64)).Q
    expected = naive_exponents(matrices, frame)
    tensors = [each for each in [*neuron.parameters(), inputs] if each.requires_grad]
    right = flat_gradient(expected, tensors)
    for backend in ("auto", "reference"):
        result = flossing.lyapunov_spectrum(neuron, inputs, frame=frame, backend=backend)
        torch.testing.assert_close(result.exponents, expected, rtol=1e-9, atol=1e-9)
        states = [result.final_state] if count == 1 else result.final_state
        torch.testing.assert_close(torch.cat(list(states), dim=-1), last, rtol=1e-9, atol=1e-9)
        error = flat_gradient(result.exponents, tensors) - right
        assert error.norm() <= 1e-9 * max(1.0, float(right.norm()))


@every_neuron
def test_some_units_fire_and_some_do_not(name: str):
    neuron, _ = made(name)
    # SLSTM makes zeros in single precision.
    neuron.float()
    neuron.init_hidden, neuron.output = True, True
    spikes = [neuron(x.float())[0] for x in currents()]
    assert 0.02 < torch.stack(spikes).mean() < 0.95


@one_of_each
@pytest.mark.parametrize("output", [False, True])
def test_hidden_states_make_no_difference(name: str, output: bool):
    neuron, _ = made(name)
    inputs = currents()
    expected = flossing.lyapunov_spectrum(neuron, inputs, k=2)
    neuron.init_hidden, neuron.output = True, output
    found = flossing.lyapunov_spectrum(neuron, inputs, k=2)
    torch.testing.assert_close(found.exponents, expected.exponents, rtol=1e-12, atol=1e-12)
    inside = flossing.lyapunov_spectrum(flossing.stateful(neuron), inputs, k=2)
    torch.testing.assert_close(inside.exponents.sum(), expected.exponents.sum(), rtol=0.2, atol=0.2)


@one_of_each
def test_measuring_leaves_a_neuron_as_it_was(name: str):
    neuron, _ = made(name, init_hidden=True, output=True)
    neuron(torch.randn(3, UNITS, dtype=torch.float64))
    attributes = dict(vars(neuron))
    buffers = {key: (value, value.clone()) for key, value in neuron.named_buffers()}
    flossing.lyapunov_spectrum(neuron, currents(), k=1)
    flossing.lyapunov_spectrum(flossing.stateful(neuron), currents(), k=1)
    assert vars(neuron).keys() == attributes.keys()
    assert all(vars(neuron)[key] is value for key, value in attributes.items())
    for key, value in neuron.named_buffers():
        assert value is buffers[key][0]
        assert torch.equal(value, buffers[key][1])


@one_of_each
def test_one_trajectory_without_a_batch(name: str):
    neuron, _ = made(name)
    inputs = currents()
    size = number_of_states(neuron) * UNITS
    frame = torch.linalg.qr(torch.randn(size, 2, dtype=torch.float64)).Q
    both = flossing.lyapunov_spectrum(neuron, inputs, frame=frame.expand(BATCH, -1, -1))
    alone = flossing.lyapunov_spectrum(neuron, inputs[:, 0], frame=frame.unsqueeze(0))
    torch.testing.assert_close(alone.exponents[0], both.exponents[0], rtol=1e-9, atol=1e-9)
    states = [each] if isinstance(each := alone.final_state, Tensor) else each
    assert all(state.shape == (UNITS,) for state in states)
    rest = [torch.zeros_like(state) for state in states]
    again = flossing.lyapunov_spectrum(
        neuron,
        inputs[:, 0],
        rest[0] if len(rest) == 1 else tuple(rest),
        frame=frame.unsqueeze(0),
    )
    torch.testing.assert_close(again.exponents, alone.exponents, rtol=1e-12, atol=1e-12)


@one_of_each
def test_states_from_reset_mem_are_zeros(name: str):
    neuron, _ = made(name)
    inputs = currents()
    expected = flossing.lyapunov_spectrum(neuron, inputs, k=2).exponents
    found = flossing.lyapunov_spectrum(neuron, inputs, neuron.reset_mem(), k=2).exponents
    torch.testing.assert_close(found, expected)


def test_a_convolutional_memory():
    neuron = snntorch.SConv2dLSTM(1, 2, 3, threshold=0.1, spike_grad=Spike.apply, max_pool=2)
    neuron.double()
    inputs = torch.randn(STEPS, BATCH, 1, 4, 4, dtype=torch.float64)
    size = 2 * 2 * 4 * 4
    frame = torch.linalg.qr(torch.randn(BATCH, size, 3, dtype=torch.float64)).Q

    def step(x: Tensor, flat: Tensor) -> Tensor:
        states = tuple(part.reshape(1, 2, 4, 4) for part in flat.chunk(2))
        return torch.cat([s.flatten() for s in convolutional_memory(neuron, x[None], states)])

    found = flossing.lyapunov_spectrum(neuron, inputs, frame=frame, reorthonormalize=1)
    for row in range(BATCH):
        flat = torch.zeros(size, dtype=torch.float64)
        matrices: list[Tensor] = []
        for x in inputs[:, row]:
            matrices.append(torch.func.jacrev(step, argnums=1)(x, flat))
            flat = step(x, flat)
        expected = naive_exponents(matrices, frame[row])
        torch.testing.assert_close(found.exponents[row], expected, rtol=1e-9, atol=1e-9)


def test_the_state_of_leaky_parallel_is_that_of_its_layer():
    neuron = snntorch.LeakyParallel(3, UNITS, beta=0.7)
    nn.init.constant_(neuron.rnn.weight_ih_l0, 0.1)
    inputs = 5 + torch.rand(STEPS, BATCH, 3)
    found = flossing.lyapunov_spectrum(neuron, inputs, k=1)
    expected = flossing.lyapunov_spectrum(neuron.rnn, inputs, k=1)
    torch.testing.assert_close(found.exponents, expected.exponents)
    logarithm = torch.tensor([0.7]).log().expand(BATCH, 1)
    torch.testing.assert_close(found.exponents, logarithm, rtol=1e-4, atol=1e-4)


def test_a_memory_with_hidden_states():
    neuron = snntorch.SLSTM(UNITS, UNITS, init_hidden=True)
    inputs = torch.randn(STEPS, BATCH, UNITS)
    inside = flossing.lyapunov_spectrum(flossing.stateful(neuron), inputs, k=2)
    assert list(inside.final_state) == ["syn", "mem"]
    found = flossing.lyapunov_spectrum(neuron, inputs, k=2)
    torch.testing.assert_close(found.exponents, inside.exponents)


def test_a_memory_that_forgets_at_every_step_is_named():
    neuron = snntorch.SLSTM(UNITS, UNITS + 1)
    with pytest.raises(flossing.UnsupportedSystemError, match=r"SLSTM forgets its state at every"):
        flossing.lyapunov_spectrum(neuron, torch.randn(STEPS, BATCH, UNITS))


def test_a_neuron_of_whole_sequences_is_refused_with_its_recursion():
    neuron, inputs = snntorch.StateLeaky(beta=0.7, channels=UNITS), currents().float()
    with pytest.raises(flossing.UnsupportedSystemError, match=r"torch.exp\(-1 / neuron.tau\) \*"):
        flossing.lyapunov_spectrum(neuron, inputs)
    rest = torch.zeros(BATCH, UNITS)
    result = flossing.lyapunov_spectrum(
        lambda x, mem: torch.exp(-1 / neuron.tau) * mem + x, inputs, rest
    )
    torch.testing.assert_close(result.final_state, neuron(inputs)[1][-1])
    torch.testing.assert_close(result.exponents, (-1 / neuron.tau).expand(BATCH, UNITS))


def test_feedback_from_each_unit_to_itself():
    neuron = snntorch.RLeaky(0.8, all_to_all=False, V=torch.full((UNITS,), 0.5), threshold=100.0)
    result = flossing.lyapunov_spectrum(neuron, currents().float(), k=2)
    # Far below the threshold the surrogate gradient is small.
    logarithm = torch.full((BATCH, 2), 0.8).log()
    torch.testing.assert_close(result.exponents, logarithm, rtol=1e-2, atol=1e-2)


def test_wrong_numbers_of_states_are_named():
    neuron, _ = made("Synaptic-subtract")
    with pytest.raises(flossing.InvalidStateError, match=r"has the states \(syn, mem\)"):
        flossing.lyapunov_spectrum(neuron, currents(), torch.zeros(BATCH, UNITS).double())


def test_a_neuron_without_inputs_is_refused():
    neuron, _ = made("Leaky-subtract")
    with pytest.raises(flossing.InvalidInputError, match="takes an input"):
        flossing.lyapunov_spectrum(neuron, state=torch.zeros(BATCH, UNITS).double(), steps=5)


def test_exponents_beyond_the_rank_are_minus_infinity():
    """The spikes of RLeaky are a function of its membrane."""
    neuron, _ = made("RLeaky-subtract")
    with pytest.warns(flossing.LostRankWarning):
        exponents = flossing.lyapunov_spectrum(neuron, currents()).exponents
    assert bool(exponents[:, :UNITS].isfinite().all())
    assert bool(exponents[:, UNITS:].isneginf().all())


@pytest.mark.parametrize("name", ["RLeaky-subtract", "Synaptic-subtract-early", "SLSTM-none"])
def test_flossing_lowers_the_loss(name: str):
    neuron, _ = made(name)
    history = flossing.floss(neuron, currents(), k=2, steps=10, lr=0.02, target=-0.4)
    assert not bool(history.skipped.any())
    assert history.loss[-1] < 0.9 * history.loss[0]


def test_networks_with_hidden_states_are_flossed():
    network = nn.Sequential(
        nn.Linear(3, UNITS),
        snntorch.Leaky(beta=0.7, learn_beta=True, init_hidden=True),
        nn.Linear(UNITS, UNITS),
        snntorch.RLeaky(beta=0.6, linear_features=UNITS, init_hidden=True, output=True),
    )
    system = flossing.stateful(network)
    inputs = torch.randn(STEPS, BATCH, 3)
    state = flossing.lyapunov_spectrum(system, inputs, k=1).final_state
    assert list(state) == ["1.mem", "3.spk", "3.mem"]
    before = network[3].recurrent.weight.detach().clone()
    history = flossing.floss(system, inputs, k=2, steps=10, lr=0.02)
    assert history.loss[-1] < history.loss[0]
    assert not torch.equal(network[3].recurrent.weight, before)


def test_a_closed_loop_of_a_neuron():
    neuron, _ = made("Synaptic-none")
    loop = flossing.closed_loop(neuron, lambda state: 0.5 * state[1])
    state = tuple(torch.randn(2, BATCH, UNITS, dtype=torch.float64))
    found = flossing.lyapunov_spectrum(loop, state=state, steps=STEPS, frame_transient=0)
    # syn' = (α syn + mem / 2), mem' = β mem + syn': of each unit a matrix of determinant α β − …
    logarithms = torch.stack(
        [
            torch.tensor([[a, 0.5], [a, b + 0.5]], dtype=torch.float64).slogdet().logabsdet
            for a, b in zip(neuron.alpha.tolist(), neuron.beta.tolist(), strict=True)
        ]
    )
    volume = found.exponents.sum(-1)
    torch.testing.assert_close(volume, logarithms.sum().expand(BATCH), rtol=1e-9, atol=1e-9)


def test_effective_rank_and_horizon_take_neurons():
    neuron, _ = made("RSynaptic-subtract")
    rank = flossing.effective_rank(
        neuron,
        currents(),
        loss=lambda states: states[2][-1].square().mean(),
        parameters=["recurrent.weight"],
    )
    assert 1 <= rank.matrices["recurrent.weight"].participation_ratio <= UNITS


def test_the_derivative_warning_comes_once_for_a_neuron():
    neuron, _ = made("Leaky-subtract-early")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            flossing.lyapunov_spectrum(neuron, currents(), k=1)
    kinds = [each.category for each in caught]
    assert kinds.count(flossing.DerivativeMismatchWarning) <= 1
