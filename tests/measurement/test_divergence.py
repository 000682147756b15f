"""Trajectories that diverge: named by row and step, and left out on request."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing
from flossing import DivergenceWarning, InvalidOptionError, NonFiniteError

BACKENDS = ["torch", "reference", "auto"]


def step(x):
    return 3.9 * x * (1 - x)


STATES = torch.tensor([0.3, 0.4, -1.0, 0.6, 1.5, 0.7], dtype=torch.float64).unsqueeze(-1)
BAD, GOOD = [2, 4], [0, 1, 3, 5]


def measured(states, on_divergence="nan", **options):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(
            step, state=states, steps=200, on_divergence=on_divergence, **options
        )


def steps_until_infinite(x):
    count = 0
    while x.isfinite().all():
        x, count = step(x), count + 1
    return count


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_error_names_rows_and_steps(backend):
    with pytest.raises(
        NonFiniteError, match=r"2 of 6 trajectories diverged: rows 2 \(step"
    ) as told:
        measured(STATES, "raise", backend=backend)
    assert told.value.diverged == {row: steps_until_infinite(STATES[row]) for row in BAD}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_others_finish(backend):
    with pytest.warns(DivergenceWarning, match="2 of 6 trajectories diverged") as caught:
        found = measured(STATES, backend=backend)
    assert len(caught) == 1
    alone = measured(STATES[GOOD], backend=backend)
    torch.testing.assert_close(found.exponents[GOOD], alone.exponents)
    torch.testing.assert_close(found.final_state[GOOD], alone.final_state)
    assert found.exponents[BAD].isnan().all()
    assert found.final_state[BAD].isnan().all()
    assert found.diverged.tolist() == [row in BAD for row in range(6)]
    assert found.counted_steps.tolist() == [0 if row in BAD else 180 for row in range(6)]


def test_other_rows_of_a_network_are_those_of_the_whole_batch():
    # Frames differ from row to row: the rows that remain keep their own.
    torch.manual_seed(0)
    rnn = nn.RNN(2, 5, nonlinearity="relu").double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.eye(5) + 0.1 * torch.rand(5, 5))
    inputs, state = torch.rand(60, 3, 2).double(), torch.ones(1, 3, 5).double()
    expected = flossing.lyapunov_spectrum(rnn, inputs, state, k=3).exponents[[0, 2]]
    state[0, 1] = 1e308
    with pytest.warns(DivergenceWarning, match="row 1 "):
        found = flossing.lyapunov_spectrum(rnn, inputs, state, k=3, on_divergence="nan").exponents
    torch.testing.assert_close(found[[0, 2]], expected)
    assert found[1].isnan().all()
    wanted = torch.autograd.grad(expected.sum(), rnn.weight_hh_l0)[0]
    gradient = torch.autograd.grad(found[[0, 2]].sum(), rnn.weight_hh_l0)[0]
    torch.testing.assert_close(gradient, wanted)


def test_rows_that_diverge_one_after_the_other():
    # With gradients all steps are one segment; with checkpoints each is found in its own.
    rates = torch.tensor([1.0, 3.0, 1e9, 0.5]).double()
    pair = torch.stack([torch.ones(4).double(), rates], dim=-1).requires_grad_()

    def grow(state):
        return torch.stack([state[..., 0] * state[..., 1], state[..., 1]], dim=-1)

    with pytest.warns(DivergenceWarning, match=r"2 of 4.*rows 1 \(step 647\), 2 \(step 35\)"):
        found = flossing.lyapunov_spectrum(
            grow, state=pair, steps=700, k=1, checkpoint_interval=100, on_divergence="nan"
        )
    assert found.diverged.tolist() == [False, True, True, False]


def test_tangent_vectors_that_are_not_finite():
    def root(x):
        return x.sqrt() * 0.5 + x * 0.0

    states = torch.tensor([[0.5], [0.0], [0.3]], dtype=torch.float64)
    for backend in BACKENDS:
        with pytest.raises(NonFiniteError, match=r"tangent vectors.*row 1 \(step 1\)") as told:
            flossing.lyapunov_spectrum(root, state=states, steps=30, backend=backend)
        assert told.value.diverged == {1: 1}
        with pytest.warns(DivergenceWarning):
            found = flossing.lyapunov_spectrum(
                root, state=states, steps=30, backend=backend, on_divergence="nan"
            )
        assert found.exponents.isnan().squeeze(-1).tolist() == [False, True, False]


def test_the_longest_sequence_diverges():
    rnn = nn.RNN(1, 2, nonlinearity="relu").double()
    inputs = torch.zeros(50, 3, 1).double()
    inputs[:, 1] = 1e308
    packed = pack_padded_sequence(inputs, torch.tensor([20, 50, 30]), enforce_sorted=False)
    with torch.no_grad():
        for weight in rnn.parameters():
            weight.fill_(0.7)
        with pytest.warns(DivergenceWarning, match="row 1 "):
            found = flossing.lyapunov_spectrum(rnn, packed, k=1, on_divergence="nan")
    assert found.counted_steps.tolist() == [18, 0, 28]
    assert found.exponents[[0, 2]].isfinite().all()


def test_all_diverge():
    with pytest.raises(NonFiniteError, match="2 of 2 trajectories diverged") as told:
        measured(STATES[BAD])
    assert sorted(told.value.diverged) == [0, 1]
    with pytest.raises(NonFiniteError, match="diverges"):
        measured(STATES[2:3])


def test_what_follows_from_exponents_leaves_them_out():
    with pytest.warns(DivergenceWarning):
        found = measured(STATES, tolerance=0.5)
    assert found.diverged.sum() == 2
    with pytest.warns(DivergenceWarning):
        found = measured(STATES)
    for values in (found.kaplan_yorke_dimension, found.entropy_rate):
        assert values.isnan().tolist() == found.diverged.tolist()
    assert found.kaplan_yorke_dimension_error.isnan().tolist() == found.diverged.tolist()
    assert found.entropy_rate_error.isnan().tolist() == found.diverged.tolist()
    axes = found.plot()
    assert axes.lines[0].get_ydata()[0] == pytest.approx(found.exponents[GOOD].mean().item())
    assert [note.get_text() for note in axes.texts] == ["2 of 6 trajectories diverged"]
    course = flossing.convergence(found)
    assert course.exponents[-1, GOOD].isfinite().all()


def test_nothing_is_said_where_nothing_diverges():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(STATES[GOOD])
    assert torch.equal(found.exponents, measured(STATES[GOOD], "raise").exponents)


def test_the_generator_goes_on_as_if_nothing_had_happened():
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    with pytest.warns(DivergenceWarning):
        measured(STATES, generator=first)
    measured(STATES[[0, 1, 3, 5, 0, 1]], generator=second)
    assert torch.equal(first.get_state(), second.get_state())


def test_a_loss_is_refused():
    rnn, inputs = nn.RNN(1, 2, nonlinearity="relu"), torch.zeros(30, 2, 1)
    with pytest.raises(InvalidOptionError, match="diverged"):
        flossing.flossing_loss(rnn, inputs, k=1, on_divergence="nan")
    inputs[:, 1] = 1e38
    with torch.no_grad():
        for weight in rnn.parameters():
            weight.fill_(2.0)
    with pytest.raises(NonFiniteError, match="row 1 "):
        flossing.flossing_loss(rnn, inputs, k=1)
    with pytest.raises(NonFiniteError, match="row 1 "):
        flossing.floss(rnn, inputs, k=1, steps=1)
    with pytest.raises(InvalidOptionError, match="'raise', 'nan'"):
        flossing.lyapunov_spectrum(rnn, inputs, on_divergence="skip")


@pytest.mark.parametrize(
    "analyse",
    [flossing.covariant_vectors, flossing.gradient_horizon, flossing.long_term_jacobian],
)
def test_analyses_name_the_rows(analyse):
    with pytest.raises(NonFiniteError, match="rows 2 "):
        analyse(step, state=STATES, steps=200)
