"""Volume, saturation and the spectrum of W, against theory and against the modules' own gates."""

import math
import warnings

import pytest
import torch
from torch import nn

import flossing
from flossing import InvalidOptionError, LostRankWarning, NumericalWarning
from flossing.analysis.context import weight_spectrum
from flossing.analysis.linearisation import linearise

MODULES = [
    lambda **options: nn.RNN(2, 5, **options),
    lambda **options: nn.GRU(2, 5, **options),
    lambda **options: nn.LSTM(2, 5, **options),
    lambda **options: nn.LSTM(2, 5, proj_size=3, **options),
    lambda **options: nn.GRU(2, 5, num_layers=2, **options),
    lambda **options: nn.GRUCell(2, 5, **options),
]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("frame_transient", [0, 7])
def test_volume_growth_is_the_sum_of_all_exponents(make, frame_transient):
    inputs = torch.randn(40, 3, 2, dtype=torch.float64)
    options = {"state_transient": 4, "frame_transient": frame_transient}
    context = flossing.dynamical_context(make(dtype=torch.float64), inputs, **options)
    expected = context.spectrum.exponents.sum(-1)
    torch.testing.assert_close(context.volume_growth_rate, expected, rtol=1e-10, atol=1e-10)
    assert not context.spectrum.exponents.requires_grad


def test_volume_counts_the_same_steps_as_the_exponents():
    rnn, inputs = nn.RNN(1, 3, dtype=torch.float64), torch.randn(30, 2, 1, dtype=torch.float64)
    context = flossing.dynamical_context(rnn, inputs, state_transient=10, frame_transient=5)
    run = linearise(rnn, inputs)
    dets = torch.stack([torch.linalg.det(run.jacobian(t)).abs().log() for t in range(15, 30)])
    torch.testing.assert_close(context.volume_growth_rate, dets.mean(0))


def test_long_sequences_are_averages_of_their_parts():
    rnn = nn.GRU(1, 3, dtype=torch.float64)
    for parameter in rnn.parameters():
        parameter.data *= 4
    inputs = 2 * torch.randn(700, 2, 1, dtype=torch.float64)
    options = {"k": 1, "frame_transient": 0}
    whole = flossing.dynamical_context(rnn, inputs, **options)
    parts = []
    state = None
    for window in inputs.split(140):
        parts.append(flossing.dynamical_context(rnn, window, state, **options))
        state = parts[-1].spectrum.final_state
    mean = torch.stack([part.volume_growth_rate for part in parts]).mean(0)
    torch.testing.assert_close(whole.volume_growth_rate, mean)
    for gate, saturation in whole.saturation.items():
        shares = torch.stack([part.saturation[gate].share for part in parts])
        torch.testing.assert_close(saturation.share, shares.mean(0))
        assert 0 < saturation.share.min() < 1
        throughout = torch.stack([part.saturation[gate].throughout for part in parts])
        assert bool((saturation.throughout <= throughout.amin(0)).all())


def test_henon():
    def henon(state):
        x, y = state.unbind(-1)
        return torch.stack([1 - 1.4 * x**2 + y, 0.3 * x], dim=-1)

    state = torch.zeros(2, 2, dtype=torch.float64)
    context = flossing.dynamical_context(henon, state=state, steps=1200, state_transient=100)
    ln = math.log(0.3)
    torch.testing.assert_close(context.volume_growth_rate, tensor(ln, ln))
    dimension = context.as_dict()["kaplan_yorke_dimension"]
    assert dimension == pytest.approx(1.258, abs=0.04)
    assert context.as_dict()["entropy_rate"] == pytest.approx(0.419, abs=0.04)
    assert context.weights == {}
    assert context.saturation == {}


def test_a_linear_map_is_its_matrix_at_every_step():
    matrix = tensor(0.5, 2.0, 0.0, 0.8).reshape(2, 2)
    context = flossing.dynamical_context(
        lambda h: h @ matrix.T, state=torch.ones(1, 2).double(), steps=60
    )
    torch.testing.assert_close(context.jacobian_spectral_radius, tensor(0.8))
    torch.testing.assert_close(
        context.jacobian_spectral_norm, torch.linalg.matrix_norm(matrix, ord=2)[None]
    )
    torch.testing.assert_close(context.volume_growth_rate, tensor(math.log(0.4)))
    # The growth per step is the radius, far below the norm: the matrix is not normal.
    assert float(context.spectrum.exponents[0, 0].exp()) == pytest.approx(0.8, abs=0.05)
    assert float(context.jacobian_spectral_norm) > 2


def test_departure_from_normality():
    orthogonal = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    for normal in (orthogonal, orthogonal + orthogonal.T, torch.eye(6), 3.0 * orthogonal):
        assert weight_spectrum(normal).departure_from_normality < 1e-7
    spectrum = weight_spectrum(3.0 * orthogonal)
    assert spectrum.spectral_radius == pytest.approx(3)
    assert spectrum.spectral_norm == pytest.approx(3)
    triangular = tensor(1.0, 2.0, 0.0, 1.0).reshape(2, 2)
    assert weight_spectrum(triangular).departure_from_normality == pytest.approx((4 / 6) ** 0.5)
    zero = weight_spectrum(torch.zeros(3, 3))
    assert (zero.spectral_radius, zero.spectral_norm, zero.departure_from_normality) == (0, 0, 0)


def test_gru_without_weights():
    gru = nn.GRU(1, 4, dtype=torch.float64)
    for parameter in gru.parameters():
        nn.init.zeros_(parameter)
    context = flossing.dynamical_context(gru, torch.randn(20, 2, 1, dtype=torch.float64))
    half = math.log(0.5)
    torch.testing.assert_close(context.spectrum.exponents, torch.full((2, 4), half).double())
    torch.testing.assert_close(context.volume_growth_rate, tensor(4 * half, 4 * half))
    torch.testing.assert_close(context.jacobian_spectral_radius, tensor(0.5, 0.5))
    torch.testing.assert_close(context.jacobian_spectral_norm, tensor(0.5, 0.5))
    assert set(context.weights) == {(0, gate) for gate in ("reset", "update", "new")}
    assert all(w.spectral_norm == 0 for w in context.weights.values())
    assert all(float(s.share.max()) == 0 for s in context.saturation.values())
    assert context.as_dict()["kaplan_yorke_dimension"] == 0


def test_a_scalar_net_saturates_where_the_slope_of_tanh_says():
    rnn = nn.RNN(1, 1, bias=False, dtype=torch.float64)
    rnn.weight_ih_l0.data.fill_(1.0)
    rnn.weight_hh_l0.data.fill_(1e-12)
    edge = math.atanh(0.9**0.5)  # where 1 − tanh² = 0.1
    inputs = tensor(0, edge - 1e-3, edge + 1e-3, -edge + 1e-3, -edge - 1e-3)[:, None, None]
    context = flossing.dynamical_context(rnn, inputs, frame_transient=0)
    assert float(context.saturation[0, "hidden"].share) == pytest.approx(2 / 5)
    assert float(context.saturation[0, "hidden"].throughout) == 0
    wide = flossing.dynamical_context(rnn, inputs, frame_transient=0, saturated_below=0.999)
    assert float(wide.saturation[0, "hidden"].share) == pytest.approx(4 / 5)
    late = flossing.dynamical_context(rnn, inputs, state_transient=4, frame_transient=0)
    assert float(late.saturation[0, "hidden"].throughout) == 1


def test_dead_relu_units():
    rnn = nn.RNN(1, 4, nonlinearity="relu", dtype=torch.float64)
    nn.init.zeros_(rnn.weight_hh_l0)
    nn.init.zeros_(rnn.bias_hh_l0)
    rnn.weight_ih_l0.data = tensor(0, 0, 1, -1)[:, None]
    rnn.bias_ih_l0.data = tensor(-1, 1, 0, 0)
    inputs = tensor(1, -1, 1, 1)[:, None, None]
    with pytest.warns(LostRankWarning):
        context = flossing.dynamical_context(rnn, inputs, frame_transient=0)
    # Dead; always active; inactive in one step of four, and in three.
    assert float(context.saturation[0, "hidden"].share) == pytest.approx((4 + 0 + 1 + 3) / 16)
    assert float(context.saturation[0, "hidden"].throughout) == pytest.approx(1 / 4)
    assert context.volume_growth_rate.item() == -math.inf
    assert context.as_dict()["volume_growth_rate"] == -math.inf


def share_of(gate, largest):
    return (gate < 0.1 * largest).double().mean(-1).mean(0)


@pytest.mark.parametrize("projection", [0, 3])
def test_saturation_of_a_stacked_lstm_from_its_own_equations(projection):
    lstm = nn.LSTM(2, 5, num_layers=2, proj_size=projection, dtype=torch.float64)
    for parameter in lstm.parameters():
        parameter.data *= 6
    inputs = 2 * torch.randn(60, 2, 2, dtype=torch.float64)
    context = flossing.dynamical_context(lstm, inputs, k=2, frame_transient=0, volume=False)
    below = inputs
    for layer in range(2):
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        w_ih, w_hh, b_ih, b_hh = (getattr(lstm, f"{name}_l{layer}").detach() for name in names)
        w_hr = (
            getattr(lstm, f"weight_hr_l{layer}").detach() if projection else torch.eye(5).double()
        )
        hidden = torch.zeros(2, projection or 5).double()
        cell = torch.zeros(2, 5).double()
        sigmoids, tanhs, outputs = [], [], []
        for x in below:
            i, f, g, o = (x @ w_ih.T + b_ih + hidden @ w_hh.T + b_hh).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh() @ w_hr.T
            sigmoids.append(torch.stack([i, f, o]).sigmoid())
            tanhs.append(torch.stack([g, cell]).tanh())
            outputs.append(hidden)
        below = torch.stack(outputs)
        slopes = torch.stack(sigmoids) * (1 - torch.stack(sigmoids))
        expected = dict(zip(["input", "forget", "output"], slopes.unbind(1), strict=True))
        steep = dict(
            zip(["cell", "cell state"], (1 - torch.stack(tanhs).square()).unbind(1), strict=True)
        )
        for gate, slope in expected.items():
            torch.testing.assert_close(context.saturation[layer, gate].share, share_of(slope, 0.25))
        for gate, slope in steep.items():
            torch.testing.assert_close(context.saturation[layer, gate].share, share_of(slope, 1.0))
        assert 0 < context.saturation[layer, "input"].share.min() < 1
        for index, gate in enumerate(["input", "forget", "cell", "output"]):
            matrix = w_hh.chunk(4)[index] @ w_hr
            expected_radius = float(torch.linalg.eigvals(matrix).abs().max())
            assert context.weights[layer, gate].spectral_radius == pytest.approx(expected_radius)
    assert len(context.saturation) == 10
    assert len(context.weights) == 8


def test_saturation_of_a_gru_from_its_own_equations():
    gru = nn.GRU(2, 5, dtype=torch.float64)
    for parameter in gru.parameters():
        parameter.data *= 6
    inputs = 2 * torch.randn(50, 2, 2, dtype=torch.float64)
    context = flossing.dynamical_context(gru, inputs, k=2, frame_transient=0, volume=False)
    hidden, rows = torch.zeros(2, 5).double(), []
    for x in inputs:
        r_x, z_x, n_x = (x @ gru.weight_ih_l0.T + gru.bias_ih_l0).chunk(3, -1)
        r_h, z_h, n_h = (hidden @ gru.weight_hh_l0.T + gru.bias_hh_l0).chunk(3, -1)
        reset, update = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
        new = (n_x + reset * n_h).tanh()
        hidden = (1 - update) * new + update * hidden
        rows.append([4 * reset * (1 - reset), 4 * update * (1 - update), 1 - new.square()])
    for index, gate in enumerate(["reset", "update", "new"]):
        slope = torch.stack([row[index] for row in rows])
        torch.testing.assert_close(context.saturation[0, gate].share, share_of(slope, 1.0))


def test_one_layer_of_a_stack():
    rnn = nn.RNN(2, 4, num_layers=3, dtype=torch.float64)
    context = flossing.dynamical_context(rnn, torch.randn(20, 1, 2).double(), layer=1)
    assert set(context.weights) == set(context.saturation) == {(1, "hidden")}
    expected = float(torch.linalg.matrix_norm(rnn.weight_hh_l1.detach(), ord=2))
    assert context.weights[1, "hidden"].spectral_norm == pytest.approx(expected)
    assert context.spectrum.exponents.shape == (1, 4)


@pytest.mark.parametrize("make", MODULES)
def test_the_largest_exponent_lies_below_the_mean_log_norm(make):
    module, inputs = make(dtype=torch.float64), torch.randn(60, 2, 2, dtype=torch.float64)
    context = flossing.dynamical_context(module, inputs, k=1, sampled_jacobians=1000)
    bound = context.jacobian_spectral_norm.log()
    assert bool((context.spectrum.exponents[:, 0] < bound).all())
    assert bool((context.jacobian_spectral_radius <= context.jacobian_spectral_norm).all())
    run = linearise(module, inputs)
    norms = [torch.linalg.matrix_norm(run.jacobian(t), ord=2) for t in range(6, 60)]
    torch.testing.assert_close(context.jacobian_spectral_norm, torch.stack(norms).mean(0))


def test_too_few_exponents_for_the_dimension_say_so():
    rnn = nn.RNN(1, 20, dtype=torch.float64)
    rnn.weight_hh_l0.data *= 20
    inputs = torch.zeros(100, 1, 1, dtype=torch.float64)
    context = flossing.dynamical_context(rnn, inputs, torch.randn(1, 1, 20).double(), k=1)
    assert context.spectrum.exponents.item() > 0
    with pytest.warns(NumericalWarning):
        assert math.isnan(context.as_dict()["kaplan_yorke_dimension"])


def test_the_dictionary_is_flat_numbers():
    gru = nn.GRU(1, 3, num_layers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = flossing.dynamical_context(gru, torch.randn(30, 2, 1)).as_dict()
    assert all(type(number) is float and math.isfinite(number) for number in numbers.values())
    assert len(numbers) == 6 + 6 * 2 + 6 * 3
    assert {"volume_growth_rate", "layer_1/update/saturated"} < set(numbers)
    short = flossing.dynamical_context(gru, torch.randn(30, 2, 1), volume=False)
    assert short.volume_growth_rate is None
    assert "volume_growth_rate" not in short.as_dict()


def test_one_step_of_one_unit():
    rnn = nn.RNN(1, 1, dtype=torch.float64)
    context = flossing.dynamical_context(rnn, torch.randn(1, 1, 1).double())
    torch.testing.assert_close(context.volume_growth_rate, context.spectrum.exponents[:, 0])
    torch.testing.assert_close(context.jacobian_spectral_norm.log(), context.volume_growth_rate)


def test_a_closed_loop_has_a_context():
    loop = flossing.closed_loop(nn.GRU(2, 4, dtype=torch.float64), nn.Linear(4, 2).double())
    context = flossing.dynamical_context(loop, state=torch.randn(1, 3, 4).double(), steps=20)
    torch.testing.assert_close(
        context.volume_growth_rate, context.spectrum.exponents.sum(-1).detach()
    )


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampled_jacobians": 0}, "sampled_jacobians is 0"),
        ({"saturated_below": 0.0}, "saturated_below=0.0 must lie between 0 and 1"),
        ({"saturated_below": 1.0}, "saturated_below=1.0"),
        ({"volume": 1}, "volume is 1"),
        ({"k": 9}, "k=9"),
        ({"layer": 1}, "layer must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.dynamical_context(nn.RNN(1, 4), torch.zeros(9, 1, 1), **options)
