"""Either direction of a bidirectional layer, as a layer of its own."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import flossing
from flossing import InvalidOptionError, InvalidStateError, UnsupportedSystemError

# Of ReLU layers units may be dead.
pytestmark = pytest.mark.filterwarnings("ignore::flossing.LostRankWarning")

KINDS = {
    "tanh": lambda **options: nn.RNN(3, 4, **options),
    "ReLU": lambda **options: nn.RNN(3, 4, nonlinearity="relu", **options),
    "GRU": lambda **options: nn.GRU(3, 4, **options),
    "LSTM": lambda **options: nn.LSTM(3, 4, **options),
    "projected LSTM": lambda **options: nn.LSTM(3, 4, proj_size=2, **options),
    "without biases": lambda **options: nn.GRU(3, 4, bias=False, **options),
}


@pytest.fixture(params=KINDS, ids=KINDS.keys())
def kind(request):
    torch.manual_seed(0)
    return KINDS[request.param]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def copied(bidirectional, kind, ending):
    """Return a unidirectional layer with copies of the weights of the first layer's half."""
    alone = kind().double()
    with torch.no_grad():
        for name, weight in alone.named_parameters():
            weight.copy_(getattr(bidirectional, name + ending))
    return alone


@pytest.mark.parametrize(("direction", "ending"), [("forward", ""), ("reverse", "_reverse")])
def test_exponents_are_those_of_a_layer_with_the_same_weights(kind, direction, ending):
    both = kind(bidirectional=True).double()
    inputs = noise(50, 3, 3)
    seen = inputs.flip(0) if ending else inputs
    expected = flossing.lyapunov_spectrum(copied(both, kind, ending), seen, k=3)
    found = flossing.lyapunov_spectrum(
        *flossing.one_direction(both, inputs, direction=direction), k=3
    )
    assert torch.equal(found.exponents, expected.exponents)
    assert torch.equal(flat(found.final_state), flat(expected.final_state))


def flat(state):
    return torch.cat([part.flatten() for part in (state if type(state) is tuple else (state,))])


def test_states_are_those_that_the_module_passes_through(kind):
    both = kind(bidirectional=True, num_layers=2).double()
    inputs = noise(20, 3, 3)
    state = both(noise(5, 3, 3))[1]
    output, last = both(inputs, state)
    for layer in (0, 1):
        for place, direction in enumerate(("forward", "reverse")):
            half = flossing.one_direction(both, inputs, state, direction=direction, layer=layer)
            own, reached = half.system(half.inputs, half.state)
            if layer == 1:
                size = own.shape[-1]
                wanted = output[..., place * size : (place + 1) * size]
                torch.testing.assert_close(own.flip(0) if place else own, wanted)
            part = slice(2 * layer + place, 2 * layer + place + 1)
            wanted = [tensor[part] for tensor in (last if type(last) is tuple else (last,))]
            torch.testing.assert_close(flat(reached), flat(tuple(wanted)))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_packed_sequences_are_reversed_one_by_one(kind, direction):
    both = kind(bidirectional=True, num_layers=2, batch_first=True).double()
    lengths, inputs = torch.tensor([20, 30, 25]), noise(3, 30, 3)
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    options = {"direction": direction, "layer": 1}
    half = flossing.one_direction(both, packed, **options)
    found = flossing.lyapunov_spectrum(*half, k=2, frame_transient=2)
    assert pad_packed_sequence(half.inputs)[1].tolist() == lengths.tolist()
    for row, length in enumerate(lengths):
        single = inputs[row : row + 1, :length]
        alone = flossing.one_direction(both, single, **options)
        expected = flossing.lyapunov_spectrum(*alone, k=2, frame_transient=2, frame=None)
        torch.testing.assert_close(final(found, row), final(expected, 0), msg=f"sequence {row}")


def final(spectrum, row):
    parts = spectrum.final_state
    return torch.cat([p[:, row].flatten() for p in (parts if type(parts) is tuple else (parts,))])


def test_layouts(kind):
    torch.manual_seed(0)
    both = kind(bidirectional=True).double()
    inputs = noise(40, 2, 3)
    batched = flossing.one_direction(both, inputs, direction="reverse")
    single = flossing.one_direction(both, inputs[:, 0], direction="reverse")
    assert torch.equal(single.inputs, batched.inputs[:, 0])
    both.batch_first = True
    first = flossing.one_direction(both, inputs.transpose(0, 1), direction="reverse")
    assert torch.equal(
        flossing.lyapunov_spectrum(*first).exponents, flossing.lyapunov_spectrum(*batched).exponents
    )
    assert not flossing.lyapunov_spectrum(*single).exponents.isnan().any()


def test_analyses_take_a_direction():
    lstm = nn.LSTM(3, 4, bidirectional=True).double()
    half = flossing.one_direction(lstm, noise(60, 2, 3), direction="reverse")
    assert flossing.gradient_horizon(*half).worst.log_norm.shape == (61, 2)
    assert (0, "forget") in flossing.dynamical_context(*half).weights
    assert flossing.covariant_vectors(*half, k=2).vectors.shape[-2:] == (8, 2)


def test_flossing_a_direction_changes_the_module():
    torch.manual_seed(0)
    gru = nn.GRU(3, 4, bidirectional=True, num_layers=2)
    before = {name: weight.detach().clone() for name, weight in gru.named_parameters()}
    half = flossing.one_direction(gru, noise(30, 2, 3).float(), direction="reverse", layer=1)
    history = flossing.floss(half.system, half.inputs, k=2, steps=20, lr=0.01)
    assert history.loss[-1] < history.loss[0]
    changed = {name for name, weight in gru.named_parameters() if not before[name].equal(weight)}
    assert changed == {f"{field}_l1_reverse" for field in fields()}


def fields():
    return ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def test_gradients_reach_the_layers_below():
    gru = nn.GRU(3, 4, bidirectional=True, num_layers=2).double()
    half = flossing.one_direction(gru, noise(30, 2, 3), direction="forward", layer=1)
    flossing.flossing_loss(*half, k=2).backward()
    for name, weight in gru.named_parameters():
        assert (weight.grad is None) == (name.endswith("_l1_reverse")), name


def test_nothing_else_is_touched():
    gru = nn.GRU(3, 4, bidirectional=True, num_layers=2)
    weights = list(gru.named_parameters())
    random = torch.get_rng_state()
    flossing.one_direction(gru, torch.randn(9, 2, 3), direction="reverse", layer=1)
    torch.set_rng_state(random)
    flossing.one_direction(gru, torch.zeros(9, 2, 3), direction="reverse", layer=1)
    assert torch.equal(torch.get_rng_state(), random)
    assert [(name, id(w)) for name, w in gru.named_parameters()] == [
        (name, id(w)) for name, w in weights
    ]


def test_weights_that_are_buffers():
    rnn = nn.RNN(3, 4, bidirectional=True)
    fixed = rnn.weight_hh_l0_reverse.detach()
    del rnn.weight_hh_l0_reverse
    rnn.register_buffer("weight_hh_l0_reverse", fixed)
    half = flossing.one_direction(rnn, torch.randn(30, 1, 3), direction="reverse")
    assert half.system.weight_hh_l0 is fixed
    assert flossing.lyapunov_spectrum(*half).exponents.isfinite().all()


def test_the_whole_is_refused_with_the_way_out():
    with pytest.raises(UnsupportedSystemError, match="flossing.one_direction"):
        flossing.lyapunov_spectrum(nn.GRU(3, 4, bidirectional=True), torch.randn(9, 2, 3))


class Changed(nn.GRU):
    def forward(self, inputs, state=None):
        return super().forward(2 * inputs, state)


def pruned():
    rnn = nn.RNN(3, 4, bidirectional=True)
    prune.l1_unstructured(rnn, "weight_hh_l0", amount=0.5)
    return rnn


def parametrized():
    return parametrizations.orthogonal(nn.RNN(3, 4, bidirectional=True), "weight_hh_l0")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.GRU(3, 4), "one direction only"),
        (lambda: nn.GRUCell(3, 4), "not a GRUCell"),
        (lambda: Changed(3, 4, bidirectional=True), "not a Changed"),
        (pruned, "computed from other parameters"),
        (parametrized, "computed from other parameters"),
        (
            lambda: nn.GRU(3, 4, num_layers=2, dropout=0.5, bidirectional=True),
            r"are random: call .eval\(\)",
        ),
    ],
)
def test_what_has_no_such_direction(make, message):
    system = make()
    layer = getattr(system, "num_layers", 1) - 1
    with pytest.raises(UnsupportedSystemError, match=message):
        flossing.one_direction(system, torch.randn(9, 2, 3), direction="reverse", layer=layer)


def test_bad_options():
    gru, inputs = nn.GRU(3, 4, bidirectional=True), torch.randn(9, 2, 3)
    with pytest.raises(InvalidOptionError, match="'forward', 'reverse'"):
        flossing.one_direction(gru, inputs, direction="backward")
    with pytest.raises(InvalidOptionError, match="layer"):
        flossing.one_direction(gru, inputs, direction="forward", layer=1)
    with pytest.raises(InvalidStateError, match="2 halves of layers"):
        flossing.one_direction(gru, inputs, torch.zeros(1, 2, 4), direction="forward")


def test_dropout_is_off_in_eval_mode():
    gru = nn.GRU(3, 4, num_layers=2, dropout=0.5, bidirectional=True).double().eval()
    inputs = noise(9, 2, 3)
    half = flossing.one_direction(gru, inputs, direction="forward", layer=1)
    torch.testing.assert_close(half.system(half.inputs)[0], gru(inputs)[0][..., :4])
