"""Every way to hand over a system, its inputs and its state means the same thing."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import flossing

STOCK = [nn.RNN, nn.GRU, nn.LSTM]


def exponents(*arguments, **options):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(*arguments, **options).exponents


@pytest.mark.parametrize("module", STOCK)
def test_batch_first_and_unbatched_inputs(module):
    inputs = torch.randn(20, 3, 2, dtype=torch.float64)
    rnn = module(2, 4, dtype=torch.float64)
    expected = exponents(rnn, inputs, k=3)
    rnn.batch_first = True
    torch.testing.assert_close(exponents(rnn, inputs.transpose(0, 1), k=3), expected)
    rnn.batch_first = False
    alone = flossing.lyapunov_spectrum(rnn, inputs[:, 1], k=3)
    batch = flossing.lyapunov_spectrum(rnn, inputs[:, 1:2], k=3)
    assert alone.exponents.shape == (1, 3)
    torch.testing.assert_close(alone.exponents, batch.exponents)
    state = alone.final_state[0] if module is nn.LSTM else alone.final_state
    assert state.shape == (1, 4)


@pytest.mark.parametrize(
    ("layer", "cell"), [(nn.RNN, nn.RNNCell), (nn.GRU, nn.GRUCell), (nn.LSTM, nn.LSTMCell)]
)
def test_a_cell_is_a_layer(layer, cell):
    layer, cell = layer(2, 4, dtype=torch.float64), cell(2, 4, dtype=torch.float64)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data = getattr(layer, f"{name}_l0").data
    inputs = torch.randn(15, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(exponents(cell, inputs, k=3), exponents(layer, inputs, k=3))

    def step(x_t, state):
        return cell(x_t, state)

    zero = torch.zeros(2, 4, dtype=torch.float64)
    state = (zero, zero) if isinstance(layer, nn.LSTM) else zero
    torch.testing.assert_close(exponents(step, inputs, state, k=3), exponents(layer, inputs, k=3))


@pytest.mark.parametrize("module", STOCK)
def test_packed_trajectories_count_their_own_steps(module):
    rnn = module(2, 4, dtype=torch.float64)
    inputs = torch.randn(25, 3, 2, dtype=torch.float64)
    lengths = [13, 25, 19]
    packed = pack_padded_sequence(inputs, lengths, enforce_sorted=False)
    size = 8 if module is nn.LSTM else 4
    frame = torch.linalg.qr(torch.randn(3, size, 2, dtype=torch.float64)).Q
    options = {"frame_transient": 3, "reorthonormalize": 4}
    together = flossing.lyapunov_spectrum(rnn, packed, frame=frame, **options)
    assert together.counted_steps.tolist() == [10, 22, 16]
    for row, length in enumerate(lengths):
        own = slice(row, row + 1)
        alone = flossing.lyapunov_spectrum(rnn, inputs[:length, own], frame=frame[own], **options)
        torch.testing.assert_close(together.exponents[own], alone.exponents)
        torch.testing.assert_close(together.final_frame[own], alone.final_frame)
        for ours, theirs in zip(blocks(together), blocks(alone), strict=True):
            torch.testing.assert_close(ours[:, own], theirs)
        past_the_end = together.interval_steps[:, row] == 0
        assert bool(together.local[past_the_end, row].isnan().all())
        assert bool(together.local[~past_the_end, row].isfinite().all())


def blocks(spectrum):
    state = spectrum.final_state
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("module", STOCK)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_run_is_continued_exactly(module, layers):
    rnn = module(2, 4, num_layers=layers, dtype=torch.float64)
    inputs = torch.randn(40, 2, 2, dtype=torch.float64)
    options = {"reorthonormalize": 1, "frame_transient": 0}
    whole = flossing.lyapunov_spectrum(rnn, inputs, k=4, **options)
    first = flossing.lyapunov_spectrum(rnn, inputs[:17], k=4, **options)
    second = flossing.lyapunov_spectrum(
        rnn, inputs[17:], first.final_state, frame=first.final_frame, **options
    )
    torch.testing.assert_close(first.log_growth + second.log_growth, whole.log_growth)
    torch.testing.assert_close(second.final_frame, whole.final_frame)
    _, state = rnn(inputs)
    expected = state if isinstance(state, tuple) else (state,)
    for ours, theirs in zip(blocks(second), expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize("module", STOCK)
def test_the_stack_is_asymptotically_the_union_of_its_layers(module):
    rnn = module(1, 2, num_layers=2, dtype=torch.float64)
    inputs = torch.randn(600, 1, 1, dtype=torch.float64)
    whole = exponents(rnn, inputs, frame_transient=100)
    layers = [exponents(rnn, inputs, layer=index, frame_transient=100) for index in (0, 1)]
    union = torch.cat(layers, dim=-1).sort(descending=True).values
    torch.testing.assert_close(whole, union, atol=0.02, rtol=0)


def test_layers_of_a_stack_differ_from_one_another_in_the_loss():
    rnn = nn.GRU(2, 4, num_layers=2, dtype=torch.float64)
    inputs = torch.randn(20, 3, 2, dtype=torch.float64)
    deviations = flossing.flossing_loss(rnn, inputs, k=2, reduction="none")
    assert deviations.shape == (2, 3, 2)
    for index in (0, 1):
        spectrum = flossing.lyapunov_spectrum(rnn, inputs, k=2, layer=index)
        torch.testing.assert_close(deviations[index], spectrum.exponents.square())
    total = flossing.flossing_loss(rnn, inputs, k=2)
    torch.testing.assert_close(total, deviations.mean())


class Pair(NamedTuple):
    fast: torch.Tensor
    slow: torch.Tensor


@pytest.mark.parametrize("with_output", [False, True])
def test_named_tuple_states(with_output):
    def step(x_t, state):
        assert isinstance(state, Pair)
        new = Pair(torch.tanh(state.fast + x_t + 0.2 * state.slow), 0.9 * state.slow + state.fast)
        return (x_t, new) if with_output else new

    state = Pair(*torch.randn(2, 3, 2, dtype=torch.float64))
    spectrum = flossing.lyapunov_spectrum(
        step, torch.randn(12, 3, 2, dtype=torch.float64), state, k=2
    )
    assert isinstance(spectrum.final_state, Pair)
    assert spectrum.final_state.slow.shape == (3, 2)
    assert spectrum.final_frame.shape == (3, 4, 2)


def test_unbatched_callables_see_unbatched_states():
    def henon(state):
        assert state.shape == (2,)
        return torch.stack([1 - 1.4 * state[0] ** 2 + state[1], 0.3 * state[0]])

    spectrum = flossing.lyapunov_spectrum(
        henon, state=torch.zeros(2, dtype=torch.float64), steps=100
    )
    torch.testing.assert_close(
        spectrum.exponents.sum(), torch.tensor(0.3, dtype=torch.float64).log()
    )
    assert spectrum.final_state.shape == (2,)


def test_a_scalar_state():
    spectrum = flossing.lyapunov_spectrum(
        lambda x: 0.5 * x, state=torch.tensor(0.3, dtype=torch.float64), steps=10
    )
    torch.testing.assert_close(spectrum.exponents, torch.tensor([[0.5]], dtype=torch.float64).log())
    assert spectrum.final_state.item() == pytest.approx(0.3 / 2**10)


@pytest.mark.parametrize("custom", [False, True])
def test_inference_mode(custom):
    gru = nn.GRUCell(2, 4)
    system = (lambda inputs, state: gru(inputs, state)) if custom else gru
    inputs, state = torch.randn(12, 2, 2), torch.zeros(2, 4)
    expected = exponents(system, inputs, state)
    with torch.inference_mode():
        found = flossing.lyapunov_spectrum(system, inputs.clone(), state.clone()).exponents
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_parametrized_weights_are_differentiated_through_their_parametrization():
    rnn = nn.RNN(1, 5, dtype=torch.float64)
    parametrizations.orthogonal(rnn, "weight_hh_l0")
    inputs = torch.randn(20, 1, 1, dtype=torch.float64)
    loss = flossing.flossing_loss(rnn, inputs, k=3)
    (gradient,) = torch.autograd.grad(loss, rnn.parametrizations.weight_hh_l0.original)
    reference = flossing.flossing_loss(rnn, inputs, k=3, backend="reference", reorthonormalize=1)
    (expected,) = torch.autograd.grad(reference, rnn.parametrizations.weight_hh_l0.original)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    before = rnn.weight_hh_l0.detach().clone()
    flossing.floss(rnn, inputs, k=3, steps=3)
    after = rnn.weight_hh_l0.detach()
    assert not torch.equal(before, after)
    torch.testing.assert_close(after @ after.T, torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["stock", "cell", "custom"])
def test_low_precision_is_computed_in_float32(dtype, kind):
    system = {"stock": nn.GRU(2, 4), "cell": nn.GRUCell(2, 4), "custom": OwnForward(2, 4)}[kind]
    system = system.to(dtype)
    inputs = torch.randn(20, 2, 2).to(dtype)
    state = torch.zeros(2, 4, dtype=dtype) if kind == "custom" else None
    spectrum = flossing.lyapunov_spectrum(system, inputs, state, k=3)
    assert spectrum.exponents.dtype == torch.float32
    spectrum.exponents.sum().backward()
    assert all(p.grad.dtype == dtype for p in system.parameters())
    expected = exponents(
        system.float(), inputs.float(), None if state is None else state.float(), k=3
    )
    torch.testing.assert_close(spectrum.exponents.detach(), expected)


class OwnForward(nn.GRUCell):
    def forward(self, inputs, state):
        return super().forward(inputs, state)


@pytest.mark.parametrize("system", [nn.LSTM(2, 3), OwnForward(2, 3)])
def test_dtype_names_the_precision(system):
    inputs = torch.randn(30, 2, 2)
    state = None if isinstance(system, nn.LSTM) else torch.zeros(2, 3)
    single = exponents(system, inputs, state, k=2)
    double = exponents(system, inputs, state, k=2, dtype=torch.float64)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


def test_autocast_does_not_lower_the_precision():
    rnn, inputs = nn.RNN(2, 8), torch.randn(30, 2, 2)
    expected = exponents(rnn, inputs, k=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = exponents(rnn, inputs, k=4)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_measuring_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    rnn_free = {"steps": 10, "state": torch.zeros(2, 3)}
    exponents(lambda h: 0.5 * h, **rnn_free)
    assert torch.equal(before, torch.get_rng_state())
    frames = [
        flossing.lyapunov_spectrum(
            lambda h: 0.5 * h, **rnn_free, generator=torch.Generator().manual_seed(seed)
        ).final_frame
        for seed in (1, 1, 2)
    ]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_buffers_that_a_module_writes_to_are_left_as_they_were():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3))
            self.register_buffer("last", torch.zeros(2, 3))

        def forward(self, inputs, state):
            self.last = torch.tanh(state @ self.weight + inputs)
            return self.last

    cell = Remembering()
    flossing.lyapunov_spectrum(cell, torch.randn(5, 2, 3), torch.zeros(2, 3), k=1)
    assert torch.equal(cell.last, torch.zeros(2, 3))


@pytest.mark.parametrize("size", [80, 200])
def test_large_cells_are_matrix_free_and_agree_with_dense_ones(size):
    weight = torch.randn(size, size, dtype=torch.float64) / size**0.5
    rnn = nn.RNN(1, size, bias=False, dtype=torch.float64)
    rnn.weight_hh_l0.data = weight
    inputs = torch.randn(6, 2, 1, dtype=torch.float64)

    def step(x_t, state):
        return torch.tanh(state @ weight.T + x_t @ rnn.weight_ih_l0.T)

    state = torch.zeros(2, size, dtype=torch.float64)
    torch.testing.assert_close(
        exponents(step, inputs, state, k=2), exponents(rnn, inputs, k=2), rtol=1e-9, atol=1e-12
    )
    weight.requires_grad_()
    found = flossing.lyapunov_spectrum(step, inputs, state, k=2).exponents.square().sum()
    expected = flossing.lyapunov_spectrum(rnn, inputs, k=2).exponents.square().sum()
    torch.testing.assert_close(
        torch.autograd.grad(found, weight)[0],
        torch.autograd.grad(expected, rnn.weight_hh_l0)[0],
        rtol=1e-9,
        atol=1e-12,
    )


def test_reference_backend_measures_without_gradients_too():
    rnn, inputs = nn.RNN(2, 4, dtype=torch.float64), torch.randn(12, 2, 2, dtype=torch.float64)
    options = {"k": 3, "reorthonormalize": 1}
    torch.testing.assert_close(
        exponents(rnn, inputs, backend="reference", **options), exponents(rnn, inputs, **options)
    )


def test_a_backend_may_be_a_callable():
    rnn, inputs = nn.RNN(2, 4), torch.randn(12, 2, 2)
    from flossing.measurement.growth import torch_growth

    by_name = exponents(rnn, inputs, backend="torch")
    assert torch.equal(exponents(rnn, inputs, backend=torch_growth), by_name)
