import math
import warnings

import pytest
import torch
from torch import nn

import flossing
from flossing.analysis.linearisation import linearise
from flossing.analysis.long_term_jacobian import geometric_horizons

MODULES = {
    "tanh": lambda: nn.RNN(2, 5),
    "relu": lambda: nn.RNN(2, 5, nonlinearity="relu"),
    "gru": lambda: nn.GRU(2, 4),
    "lstm": lambda: nn.LSTM(2, 3),
    "projected": lambda: nn.LSTM(2, 4, proj_size=2),
    "stack": lambda: nn.GRU(2, 3, num_layers=2),
    "rnn cell": lambda: nn.RNNCell(2, 5),
    "gru cell": lambda: nn.GRUCell(2, 4),
    "lstm cell": lambda: nn.LSTMCell(2, 3),
}


def sequence(steps, batch=1, features=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(steps, batch, features, generator=generator, dtype=dtype)


def multiplied_out(line, origin, horizon):
    product = torch.eye(line.size).double().expand(line.batch, -1, -1)
    for step in range(origin, origin + horizon):
        product = line.jacobian(step).double() @ product
    return product


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODULES)
def test_short_horizons_equal_the_product_multiplied_out(name, dtype):
    module, inputs = MODULES[name]().to(dtype), sequence(12, batch=3, dtype=dtype)
    with warnings.catch_warnings():
        # Of dead ReLUs, and PyTorch's that single precision takes its slower way.
        warnings.simplefilter("ignore", flossing.LostRankWarning)
        warnings.filterwarnings("ignore", "LSTM with projections")
        result = flossing.long_term_jacobian(module, inputs, horizons=[1, 2, 5], origins=[0, 3, 7])
        line = linearise(module, inputs)
    for s, horizon in enumerate((1, 2, 5)):
        for o, origin in enumerate((0, 3, 7)):
            expected = torch.linalg.svdvals(multiplied_out(line, origin, horizon))
            values = result.log_singular_values[s, o].exp()
            assert (values - expected).abs().max() < 1e-13 * (1 + expected.max())


def test_a_layer_of_a_stack():
    module, inputs = MODULES["stack"]().double(), sequence(6)
    result = flossing.long_term_jacobian(module, inputs, layer=1, horizons=[3], origins=[2])
    line = linearise(module, inputs, layer=1)
    expected = torch.linalg.svdvals(multiplied_out(line, 2, 3)).log()
    torch.testing.assert_close(result.log_singular_values[0, 0], expected)


def test_origins_count_from_the_start_of_the_sequence():
    module, inputs = MODULES["tanh"]().double(), sequence(10)
    whole = flossing.long_term_jacobian(module, inputs, horizons=[4], origins=[5])
    late = flossing.long_term_jacobian(module, inputs, horizons=[4], origins=[5], state_transient=3)
    torch.testing.assert_close(late.log_singular_values, whole.log_singular_values)
    assert late.origins.tolist() == [5]


def test_orthogonal_map_has_scaled_singular_values():
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    result = flossing.long_term_jacobian(
        lambda h: 0.9 * h @ rotation.T,
        state=torch.randn(6, dtype=torch.float64),
        steps=500,
        horizons=[1, 100, 400],
        origins=3,
        k=4,
    )
    expected = result.horizons * math.log(0.9)
    torch.testing.assert_close(
        result.log_singular_values, expected.reshape(-1, 1, 1, 1).expand(3, 3, 1, 4).double()
    )
    assert result.log10_condition.abs().max() < 1e-11
    assert result.predicted_log10_condition.abs().max() < 1e-9


def test_linear_map_far_beyond_the_range_of_floats():
    """A constant diagonalisable matrix, whose condition number grows as its eigenvalues' ratio."""
    basis = torch.eye(3).double() + torch.tensor([[0, 4, 2], [0, 0, 3], [1, 0, 0]]).double() / 8
    matrix = (
        basis @ torch.diag(torch.tensor([0.9, 0.3, 0.1], dtype=torch.float64)) @ basis.inverse()
    )
    result = flossing.long_term_jacobian(
        lambda h: h @ matrix.T,
        state=torch.ones(3).double(),
        steps=2000,
        horizons=[1000, 2000],
        origins=[0],
    )
    first, second = result.log10_condition.flatten()
    assert second > 1900
    assert second - first == pytest.approx(1000 * math.log10(9), rel=1e-12)
    assert result.predicted_log10_condition[1, 0] == pytest.approx(2000 * math.log10(9), rel=1e-3)


def test_the_subspace_is_that_of_the_exponents():
    """Its volume grows by what the first k exponents count, and it is that of an aligned frame."""
    module, inputs = nn.RNN(2, 12).double(), sequence(300, batch=2)
    k, origin, horizon = 4, 200, 100
    result = flossing.long_term_jacobian(module, inputs, k=k, horizons=[horizon], origins=[origin])
    aligned = flossing.lyapunov_spectrum(module, inputs, k=k, frame_transient=origin)
    total = result.log_singular_values[0, 0].sum(dim=-1)
    torch.testing.assert_close(total, aligned.exponents.detach().sum(dim=-1) * horizon)


def test_restriction_lowers_singular_values():
    module, inputs = nn.RNN(2, 8).double(), sequence(60)
    settings = {"horizons": [5, 20], "origins": [20, 30]}
    whole = flossing.long_term_jacobian(module, inputs, **settings).log_singular_values
    part = flossing.long_term_jacobian(module, inputs, k=3, **settings).log_singular_values
    assert (part <= whole[..., :3] + 1e-12).all()
    assert (part >= whole[..., 5:] - 1e-12).all()


def test_one_unit_and_one_exponent():
    module, inputs = nn.RNN(2, 1).double(), sequence(30)
    result = flossing.long_term_jacobian(module, inputs, origins=[0], horizons=[30])
    line = linearise(module, inputs)
    expected = sum(float(line.jacobian(step).abs().log()) for step in range(30))
    assert float(result.log_singular_values.squeeze()) == pytest.approx(expected, rel=1e-12)
    assert result.log10_condition.item() == 0
    one = flossing.long_term_jacobian(nn.RNN(2, 9).double(), inputs, k=1, horizons=[3])
    assert one.log_singular_values.shape == (1, 10, 1, 1)


def test_one_step():
    result = flossing.long_term_jacobian(nn.RNN(2, 3), sequence(1, dtype=torch.float32))
    assert result.horizons.tolist() == [1]
    assert result.origins.tolist() == [0]


def test_singular_jacobians_are_infinitely_ill_conditioned():
    matrix = torch.tensor([[1.0, 2.0], [2.0, 4.0]]).double() / 5
    with pytest.warns(flossing.LostRankWarning, match="up to 1 of 2 singular values are zero"):
        result = flossing.long_term_jacobian(
            lambda h: h @ matrix.T, state=torch.ones(2).double(), steps=20, horizons=[1, 10]
        )
    assert result.log_singular_values[..., 1].isneginf().all()
    assert result.log_singular_values[..., 0].abs().max() < 1e-12
    assert result.log10_condition.isposinf().all()
    assert result.log10_condition_quartiles.isposinf().all()
    assert result.predicted_log10_condition.isposinf().all()


def test_zero_jacobians():
    with pytest.warns(flossing.LostRankWarning, match="up to 2 of 2"):
        result = flossing.long_term_jacobian(
            lambda h: 0 * h, state=torch.ones(2).double(), steps=4, horizons=[1]
        )
    assert result.log_singular_values.isneginf().all()
    assert result.log10_condition.isposinf().all()


def test_defaults_leave_room_for_origins():
    result = flossing.long_term_jacobian(nn.RNN(2, 4).double(), sequence(100))
    assert result.horizons.tolist() == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert len(result.origins.unique()) == 10
    assert result.origins.max() <= 52
    assert result.origins.tolist() == sorted(result.origins.tolist())


@pytest.mark.parametrize(
    ("longest", "expected"), [(1, [1]), (5, [1, 2, 3, 4]), (12, [1, 2, 3, 4, 6, 8, 12])]
)
def test_geometric_horizons(longest, expected):
    assert geometric_horizons(longest) == expected


def test_origins_after_the_transients():
    result = flossing.long_term_jacobian(
        nn.RNN(2, 4).double(),
        sequence(40),
        k=2,
        horizons=[10],
        origins=1000,
        state_transient=5,
        frame_transient=7,
    )
    assert result.origins.tolist() == list(range(12, 31))


def test_the_generator_decides():
    module, inputs = nn.RNN(2, 4).double(), sequence(200)

    def origins(seed=None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        result = flossing.long_term_jacobian(module, inputs, horizons=[5], generator=generator)
        return result.origins.tolist()

    assert origins(1) == origins(1) != origins(2)
    state = torch.get_rng_state()
    assert origins() == origins()
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_requires_gradients():
    result = flossing.long_term_jacobian(nn.RNN(2, 4), sequence(20, dtype=torch.float32))
    assert not result.log_singular_values.requires_grad
    assert not result.exponents.requires_grad
    with torch.inference_mode():
        flossing.long_term_jacobian(nn.RNN(2, 4), sequence(20, dtype=torch.float32), k=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"horizons": [31]}, flossing.InvalidInputError, "longest horizon is 31 .* only 30"),
        ({"horizons": []}, flossing.InvalidOptionError, "increasing"),
        ({"horizons": [3, 3]}, flossing.InvalidOptionError, "increasing"),
        ({"horizons": [0, 3]}, flossing.InvalidOptionError, "horizons is 0"),
        ({"horizons": [2.5]}, flossing.InvalidOptionError, "horizons is 2.5"),
        ({"origins": 0}, flossing.InvalidOptionError, "origins is 0"),
        ({"origins": True}, flossing.InvalidOptionError, "origins is True"),
        ({"origins": [4, 2]}, flossing.InvalidOptionError, "increasing"),
        ({"origins": [28], "horizons": [3]}, flossing.InvalidInputError, "those from 0 to 27"),
        ({"origins": [2], "state_transient": 3}, flossing.InvalidInputError, "from 3 to"),
        ({"origins": [2], "k": 2}, flossing.InvalidInputError, "from 3 to"),
        ({"frame_transient": 30}, flossing.InvalidInputError, "leave no steps"),
        ({"frame_transient": -1}, flossing.InvalidOptionError, "frame_transient is -1"),
        ({"state_transient": 30}, flossing.InvalidInputError, "leaves none"),
        ({"k": 0}, flossing.InvalidOptionError, "k is 0"),
        ({"k": "3"}, flossing.InvalidOptionError, "k is '3'"),
        ({"k": 5}, flossing.InvalidOptionError, "k is 5"),
    ],
)
@pytest.mark.usefixtures("own_checks_only")
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        flossing.long_term_jacobian(nn.RNN(2, 4).double(), sequence(30), **options)
