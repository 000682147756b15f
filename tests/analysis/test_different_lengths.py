"""Packed sequences of different lengths: each is analysed to its own end, as by itself."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing
from flossing import InvalidInputError
from flossing.plots import plot_gradient_horizon

LENGTHS = [40, 90, 65]
MODULES = {
    "GRU": lambda: nn.GRU(2, 5),
    "two LSTM layers": lambda: nn.LSTM(2, 3, num_layers=2, batch_first=True),
    "projected LSTM": lambda: nn.LSTM(2, 4, proj_size=2),
    "GRU cell": lambda: nn.GRUCell(2, 5),
}


@pytest.fixture(params=MODULES, ids=MODULES.keys())
def module(request):
    torch.manual_seed(0)
    return MODULES[request.param]().double()


def sequences():
    noise = torch.randn(3, 90, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [own[:length] for own, length in zip(noise, LENGTHS, strict=True)]


def packed():
    padded = nn.utils.rnn.pad_sequence(sequences())
    return pack_padded_sequence(padded, torch.tensor(LENGTHS), enforce_sorted=False)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_gradient_horizon(module):
    found = flossing.gradient_horizon(module, packed(), directions=0, state_transient=5)
    for row, own in enumerate(sequences()):
        alone = flossing.gradient_horizon(module, own, directions=0, state_transient=5)
        steps = len(own) - 5
        assert_same(found.worst.log_norm[: steps + 1, row], alone.worst.log_norm[:, 0])
        assert found.worst.log_norm[steps + 1 :, row].isnan().all()
        assert_same(found.worst.slope[row], alone.worst.slope[0])
        assert torch.equal(found.worst.vanishing_lag[row], alone.worst.vanishing_lag[0])
        assert torch.equal(found.worst.exploding_lag[row], alone.worst.exploding_lag[0])
    # The random vector of the exponent differs from row to row, and its transient is a tenth of
    # the shortest sequence.
    assert found.exponent.isfinite().all()


def test_gradients_of_a_loss():
    torch.manual_seed(0)
    rnn = nn.GRU(2, 5).double()

    def of_last_states(output):
        return sum(output[length - 1, row].sum() for row, length in enumerate(LENGTHS))

    found = flossing.gradient_horizon(rnn, packed(), loss=of_last_states, directions=2)
    for row, own in enumerate(sequences()):
        alone = flossing.gradient_horizon(rnn, own, loss=lambda output: output[-1].sum())
        steps = len(own)
        assert_same(found.error.log_norm[: steps + 1, row], alone.error.log_norm[:, 0])
        assert_same(found.log_total_gradient[: steps + 1, row], alone.log_total_gradient[:, 0])
        assert found.log_total_gradient[steps + 1 :, row].isnan().all()
        assert found.random.log_norm[: steps + 1, row].isfinite().all()
    line = plot_gradient_horizon(found).lines[1]
    # As far back as all sequences reach.
    assert torch.tensor(line.get_ydata()).isfinite().sum() == min(LENGTHS) + 1


def test_lags_that_not_all_sequences_have(module):
    options = {"lags": [10, 50, 80], "directions": 0}
    found = flossing.gradient_horizon(module, packed(), **options).worst
    every = flossing.gradient_horizon(module, packed(), directions=0).worst
    torch.testing.assert_close(found.log_norm, every.log_norm[[10, 50, 80]], equal_nan=True)
    assert found.log_norm.isnan().tolist() == [
        [lag > length for length in LENGTHS] for lag in (10, 50, 80)
    ]


def test_outputs_after_the_end_are_zero():
    rnn = nn.GRU(2, 5).double()
    seen = []

    def loss(output):
        seen.append(output.detach())
        return output.square().mean()

    flossing.effective_rank(rnn, packed(), loss=loss)
    expected = nn.utils.rnn.pad_packed_sequence(rnn(packed())[0])[0].detach()
    assert_same(seen[0], expected)


def test_effective_rank():
    torch.manual_seed(0)
    rnn = nn.LSTM(2, 5).double()
    found = flossing.effective_rank(rnn, packed(), loss=lambda output: output.square().sum())
    output, _ = rnn(packed())
    (gradient,) = torch.autograd.grad(output.data.square().sum(), rnn.weight_hh_l0)
    assert_same(found.matrices["weight_hh_l0"].singular_values, torch.linalg.svdvals(gradient))


def test_dynamical_context(module):
    options = {"state_transient": 3, "frame_transient": 5, "sampled_jacobians": 90}
    found = flossing.dynamical_context(module, packed(), **options)
    for row, own in enumerate(sequences()):
        alone = flossing.dynamical_context(module, own, **options)
        for name in ("volume_growth_rate", "jacobian_spectral_radius", "jacobian_spectral_norm"):
            assert_same(getattr(found, name)[row], getattr(alone, name)[0])
        assert found.saturation.keys() == alone.saturation.keys()
        for gate, expected in alone.saturation.items():
            assert_same(found.saturation[gate].share[row], expected.share[0])
            assert_same(found.saturation[gate].throughout[row], expected.throughout[0])
    exponents = found.spectrum.exponents.sum(dim=-1)
    assert_same(exponents, found.volume_growth_rate)


def test_products_lie_within_what_all_sequences_have(module):
    found = flossing.long_term_jacobian(module, packed(), horizons=[5, 20], origins=[0, 15])
    shortest = torch.stack([own[: min(LENGTHS)] for own in sequences()], dim=1)
    if getattr(module, "batch_first", False):
        shortest = shortest.transpose(0, 1)
    expected = flossing.long_term_jacobian(module, shortest, horizons=[5, 20], origins=[0, 15])
    assert_same(found.log_singular_values, expected.log_singular_values)
    with pytest.raises(InvalidInputError, match="leave only 40"):
        flossing.long_term_jacobian(module, packed(), horizons=[41])


def test_covariant_vectors(module):
    found = flossing.covariant_vectors(module, packed(), k=2)
    shortest = torch.stack([own[: min(LENGTHS)] for own in sequences()], dim=1)
    if getattr(module, "batch_first", False):
        shortest = shortest.transpose(0, 1)
    expected = flossing.covariant_vectors(module, shortest, k=2)
    assert_same(found.vectors, expected.vectors)
    assert_same(found.local, expected.local)


def test_convergence():
    rnn = nn.GRU(2, 5).double()
    spectrum = flossing.lyapunov_spectrum(rnn, packed())
    course = flossing.convergence(spectrum)
    last = course.steps.argmax(dim=0)
    assert_same(course.exponents[last, range(3)], spectrum.exponents.detach())


def test_warming_a_closed_loop_up():
    rnn = nn.GRU(2, 2).double()
    state = flossing.closed_loop(rnn, lambda output: output).warm_up(packed())
    assert_same(state, rnn(packed())[1])


def test_padding_that_diverges():
    # Inputs of zero after its end let the short trajectory run away, before the long one's end.
    def step(x, h):
        return torch.where(x > 0, 0.5 * h, h * h) + x

    inputs = torch.ones(60, 2, 1).double()
    padded = pack_padded_sequence(inputs, torch.tensor([60, 20]))
    state = torch.full((2, 1), 3.0).double()
    found = flossing.gradient_horizon(step, padded, state)
    assert_same(found.worst.slope, torch.tensor([0.5, 0.5]).double().log())
    context = flossing.covariant_vectors(step, padded, state)
    assert_same(context.exponents, torch.tensor([[0.5], [0.5]]).double().log())


@pytest.mark.parametrize(
    "analyse", [flossing.gradient_horizon, flossing.covariant_vectors, flossing.dynamical_context]
)
def test_no_steps_left_in_the_shortest(analyse):
    with pytest.raises(InvalidInputError, match="shortest trajectory has 40 steps"):
        analyse(nn.GRU(2, 5).double(), packed(), state_transient=40)
