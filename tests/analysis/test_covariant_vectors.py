"""Covariant vectors against eigenvectors, theory, brute force, and their own definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flossing
from flossing.analysis.linearisation import linearise
from flossing.errors import InvalidInputError, InvalidOptionError


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def vectors_of_product(jacobians, **options):
    """The covariant vectors of a product of Jacobians (T, B, n, n)."""
    state = torch.zeros(jacobians.shape[1:3], dtype=jacobians.dtype)
    return flossing.covariant_vectors(product_step, jacobians, state, **options)


def product_step(jacobian, state):
    return (jacobian @ state.unsqueeze(-1)).squeeze(-1)


def vectors_of_matrix(weight, steps, **options):
    return vectors_of_product(weight.expand(steps, 1, *weight.shape), **options)


def with_eigenvalues(*eigenvalues, seed=3):
    basis = noise(len(eigenvalues), len(eigenvalues), seed=seed)
    values = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64))
    return basis @ values @ torch.linalg.inv(basis), basis / basis.norm(dim=0)


def assert_same_lines(first, second, tolerance=1e-9):
    """Unit vectors in columns agree up to their signs."""
    signs = (first * second).sum(dim=-2, keepdim=True).sign()
    torch.testing.assert_close(first, signs * second, atol=tolerance, rtol=0)


def assert_within_span(vectors, span, tolerance=1e-9):
    basis = torch.linalg.qr(span).Q
    assert float((vectors - basis @ (basis.mT @ vectors)).abs().max()) < tolerance


def assert_covariant(found, jacobians, tolerance=1e-8):
    """J_t v_t is v_{t+1} times the local growth, up to sign; `jacobians` [T−1, B, n, n]."""
    pushed = jacobians @ found.vectors[:-1]
    lengths = pushed.norm(dim=-2)
    torch.testing.assert_close(lengths.log(), found.local, atol=tolerance, rtol=0)
    assert_same_lines(pushed / lengths.unsqueeze(-2), found.vectors[1:], tolerance)


class TestLinearMaps:
    def test_vectors_are_the_eigenvectors(self):
        weight, basis = with_eigenvalues(1.5, -1.1, 0.8, 0.5, -0.3)
        found = vectors_of_matrix(weight, 240, frame_transient=100, backward_transient=100)
        assert_same_lines(found.vectors[:, 0], basis.expand(41, 5, 5))
        expected = torch.tensor([1.5, 1.1, 0.8, 0.5, 0.3], dtype=torch.float64).log()
        torch.testing.assert_close(found.local, expected.expand(40, 1, 5), atol=1e-10, rtol=0)
        cosines = (basis.T @ basis).abs()
        angles = cosines.clamp(max=1).acos()
        torch.testing.assert_close(found.angles[0, 0], angles, atol=1e-7, rtol=0)
        smallest = angles[~torch.eye(5, dtype=torch.bool)].min()
        torch.testing.assert_close(found.smallest_angle, smallest.expand(41, 1))

    def test_a_complex_pair_is_determined_up_to_its_plane(self):
        turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
        basis = noise(4, 4, seed=5)
        blocks = torch.block_diag(torch.tensor([[1.5]]).double(), turn, torch.tensor([[0.4]]))
        weight = basis @ blocks @ torch.linalg.inv(basis)
        found = vectors_of_matrix(weight, 200, frame_transient=90, backward_transient=90)
        lines = basis / basis.norm(dim=0)
        assert_same_lines(found.vectors[:, 0][..., [0, 3]], lines[:, [0, 3]].expand(21, 4, 2))
        for vectors in found.vectors[:, 0]:
            assert_within_span(vectors[:, 1:3], basis[:, 1:3])
        assert_covariant(found, weight.expand(20, 1, 4, 4))

    def test_an_orthogonal_map_keeps_every_vector_covariant(self):
        weight = torch.linalg.qr(noise(6, 6)).Q
        found = vectors_of_matrix(weight, 30)
        torch.testing.assert_close(found.exponents, torch.zeros(1, 6).double())
        assert_covariant(found, weight.expand(24, 1, 6, 6))


STOCK = [
    (nn.RNN(2, 5, dtype=torch.float64), {}),
    (nn.RNN(2, 3, num_layers=2, dtype=torch.float64), {"layer": 1}),
    (nn.GRU(2, 4, dtype=torch.float64), {}),
    (nn.GRU(2, 3, num_layers=2, dtype=torch.float64), {}),
    (nn.GRU(2, 3, num_layers=2, dtype=torch.float64), {"layer": 0}),
    (nn.LSTM(2, 3, dtype=torch.float64), {}),
    (nn.LSTM(2, 2, num_layers=2, dtype=torch.float64), {}),
    (nn.LSTM(2, 3, proj_size=2, dtype=torch.float64), {}),
    (nn.RNNCell(2, 4, dtype=torch.float64), {}),
    (nn.GRUCell(2, 4, dtype=torch.float64), {}),
    (nn.LSTMCell(2, 3, dtype=torch.float64), {}),
]


def enlivened(module):
    """The module with weights that keep the Jacobians far from singular."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data.copy_(noise(*parameter.shape, seed=int(generator.initial_seed())) * 0.4)
        generator.manual_seed(generator.initial_seed() + 1)
    return module


@pytest.mark.parametrize(("module", "options"), STOCK)
def test_every_stock_module_is_covariant(module, options):
    enlivened(module)
    inputs = 0.3 * noise(40, 2, 2)
    line = linearise(module, inputs, **options, state_transient=5)
    jacobians = torch.stack([line.jacobian(step) for step in range(line.steps)])
    count = max(1, line.size - 1)
    found = flossing.covariant_vectors(
        module,
        inputs,
        k=count,
        state_transient=5,
        frame_transient=4,
        backward_transient=6,
        **options,
    )
    assert found.steps.tolist() == list(range(9, 35))
    assert found.vectors.shape == (26, 2, line.size, count)
    torch.testing.assert_close(found.vectors.norm(dim=-2), torch.ones(26, 2, count).double())
    assert_covariant(found, jacobians[4:29])
    assert not found.vectors.requires_grad


def test_first_vectors_span_what_has_grown_most():
    rnn = enlivened(nn.RNN(1, 6, dtype=torch.float64))
    inputs = noise(60, 2, 1)
    found = flossing.covariant_vectors(rnn, inputs, k=4, frame_transient=0, backward_transient=0)
    for steps in (10, 35, 60):
        frame = flossing.lyapunov_spectrum(
            rnn, inputs[:steps], k=4, frame_transient=0, reorthonormalize=1
        ).final_frame.detach()
        assert_same_lines(found.vectors[steps][..., :1], frame[..., :1])
        for count in (1, 2, 3, 4):
            for trajectory in (0, 1):
                assert_within_span(
                    found.vectors[steps, trajectory, :, :count], frame[trajectory, :, :count]
                )


def test_reversed_in_time_the_same_vectors_come_in_reverse_order():
    jacobians = noise(300, 2, 4, 4)
    options = {"frame_transient": 120, "backward_transient": 120}
    forward = vectors_of_product(jacobians, **options)
    backward = vectors_of_product(torch.linalg.inv(jacobians).flip(0), **options)
    assert_same_lines(backward.vectors.flip(0, -1), forward.vectors, 1e-7)
    torch.testing.assert_close(backward.local.flip(0, -1), -forward.local, atol=1e-6, rtol=0)


def henon(state):
    x, y = state[..., 0], state[..., 1]
    return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], dim=-1)


class TestHenon:
    STATE = torch.tensor([0.1, 0.1], dtype=torch.float64)

    def test_angles_agree_with_brute_force(self):
        found = flossing.covariant_vectors(
            henon,
            state=self.STATE,
            steps=400,
            state_transient=100,
            frame_transient=100,
            backward_transient=100,
        )
        line = linearise(henon, state=self.STATE, steps=400, state_transient=100)
        jacobians = [line.jacobian(step)[0] for step in range(300)]
        for point in (0, 50, 100):
            unstable, stable = noise(2, 1, seed=1), noise(2, 1, seed=2)
            for jacobian in jacobians[: 100 + point]:
                unstable = jacobian @ unstable
                unstable /= unstable.norm()
            for jacobian in reversed(jacobians[100 + point : 160 + point]):
                stable = torch.linalg.solve(jacobian, stable)
                stable /= stable.norm()
            assert_same_lines(found.vectors[point, 0], torch.cat([unstable, stable], dim=1))
            angle = (unstable * stable).sum().abs().acos()
            assert found.smallest_angle[point].item() == pytest.approx(angle.item(), abs=1e-9)
            torch.testing.assert_close(found.subspace_angle()[point], found.smallest_angle[point])

    def test_exponents(self):
        found = flossing.covariant_vectors(
            henon, state=self.STATE, steps=2000, state_transient=100, every=10, chunk=500
        )
        assert found.exponents.sum().item() == pytest.approx(math.log(0.3), abs=2e-3)
        assert found.exponents[0, 0].item() == pytest.approx(0.419217, abs=0.04)

    def test_the_largest_exponent_is_that_of_the_spectrum(self):
        # The first vector is the first one of the frame, whose growth the spectrum counts.
        found = flossing.covariant_vectors(
            henon, state=self.STATE, steps=500, frame_transient=50, backward_transient=0
        )
        spectrum = flossing.lyapunov_spectrum(
            henon, state=self.STATE, steps=500, frame_transient=50, reorthonormalize=1
        )
        torch.testing.assert_close(found.exponents[0, 0], spectrum.exponents[0, 0])


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(2, 23),
    chunk=st.integers(1, 30),
    every=st.integers(1, 4),
    size=st.integers(1, 4),
    lose_rank=st.booleans(),
    data=st.data(),
)
@pytest.mark.filterwarnings("ignore::flossing.LostRankWarning")
def test_results_do_not_depend_on_the_chunks(steps, chunk, every, size, lose_rank, data):
    jacobians = noise(steps, 2, size, size, seed=steps)
    if lose_rank:
        jacobians[data.draw(st.integers(0, steps - 1)), 0, 0] = 0.0
    first = data.draw(st.integers(0, steps - 1))
    every = min(every, steps - first)
    last = data.draw(st.integers(0, steps - first - every))
    options = {"frame_transient": first, "backward_transient": last, "every": every}
    whole = vectors_of_product(jacobians, chunk=steps, **options)
    found = vectors_of_product(jacobians, chunk=chunk, **options)
    # QᵀJQ, which only steps that lose rank need, is rounded as the frames lie in memory.
    close = {"rtol": 1e-12, "atol": 1e-13} if lose_rank else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(found.vectors, whole.vectors, **close)
    torch.testing.assert_close(found.local, whole.local, **close)
    assert torch.equal(found.steps, whole.steps)


def test_points_apart_are_a_selection_and_rates_between_them_means():
    jacobians = noise(43, 2, 3, 3)
    each = vectors_of_product(jacobians)
    apart = vectors_of_product(jacobians, every=5)
    assert apart.steps.tolist() == list(range(4, 40, 5))
    assert torch.equal(apart.vectors, each.vectors[::5])
    rates = each.local.unflatten(0, (7, 5)).mean(dim=1)
    torch.testing.assert_close(apart.local, rates)
    torch.testing.assert_close(apart.exponents, each.local.mean(dim=0))


def test_default_transients_and_chunk_of_a_single_step():
    found = vectors_of_product(noise(1, 1, 2, 2))
    assert found.steps.tolist() == [0, 1]
    assert_covariant(found, noise(1, 1, 2, 2))


def test_one_unit():
    found = flossing.covariant_vectors(
        lambda x: 4 * x * (1 - x), state=torch.tensor([0.3]), steps=9
    )
    assert torch.equal(found.vectors, torch.ones_like(found.vectors))
    assert torch.equal(
        found.inverse_participation_ratio, torch.ones_like(found.inverse_participation_ratio)
    )
    with pytest.raises(InvalidOptionError, match="k=1 .* larger k"):
        _ = found.smallest_angle


class TestLostRank:
    def test_the_kernel_of_a_singular_map_is_a_covariant_vector(self):
        weight, basis = with_eigenvalues(1.2, -0.7, 0.0, 0.0)
        with pytest.warns(flossing.LostRankWarning, match="2 of 4 exponents are −inf"):
            found = vectors_of_matrix(weight, 150, frame_transient=60, backward_transient=60)
        assert_same_lines(found.vectors[:, 0, :, :2], basis[:, :2].expand(31, 4, 2))
        assert float((weight @ found.vectors[..., 2:]).abs().max()) < 1e-12
        assert bool(torch.isneginf(found.local[..., 2:]).all())
        assert bool((torch.linalg.matrix_rank(found.vectors) == 4).all())

    def test_a_chain_that_forgets_after_some_steps(self):
        # The last three directions shift along a chain: each is lost after at most three steps.
        weight = torch.diag(torch.tensor([1.3, 0.8, 0, 0, 0], dtype=torch.float64))
        weight[3, 2] = weight[4, 3] = 1.0
        weight[:2] += noise(2, 5, seed=4).triu(1)
        with pytest.warns(flossing.LostRankWarning, match="3 of 5"):
            found = vectors_of_matrix(weight, 60, frame_transient=20, backward_transient=20)
        lost = torch.linalg.svd(torch.linalg.matrix_power(weight, 3)).Vh[2:].T
        for vectors in found.vectors[:, 0]:
            assert_within_span(vectors[:, 2:], lost, 1e-7)
        assert bool((torch.linalg.matrix_rank(found.vectors, rtol=1e-6) == 5).all())
        pushed = weight @ found.vectors[:-1, ..., :2]
        assert_same_lines(pushed / pushed.norm(dim=-2, keepdim=True), found.vectors[1:, ..., :2])

    def test_rank_lost_in_one_step_of_one_trajectory(self):
        jacobians = noise(40, 2, 4, 4)
        jacobians[20, 1] = jacobians[20, 1] @ torch.diag(torch.tensor([1.0, 1, 1, 0]).double())
        with pytest.warns(flossing.LostRankWarning, match="1 of 4"):
            found = vectors_of_product(jacobians, frame_transient=0, backward_transient=0)
        assert torch.isneginf(found.local).nonzero().tolist() == [[20, 1, 3]]
        assert_same_lines(
            found.vectors[20, 1, :, 3:], torch.tensor([0.0, 0, 0, 1]).double().unsqueeze(-1)
        )
        lost = torch.zeros(40, 2, 4, dtype=torch.bool)
        lost[20, 1, 3] = True
        pushed = jacobians @ found.vectors[:-1]
        torch.testing.assert_close(pushed.norm(dim=-2).log()[~lost], found.local[~lost])

    def test_lost_outside_of_the_points_it_does_not_count(self):
        jacobians = noise(40, 1, 3, 3)
        jacobians[2] = jacobians[37] = 0.0
        found = vectors_of_product(jacobians, frame_transient=5, backward_transient=5)
        assert_covariant(found, jacobians[5:35])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_zero_jacobians(self, dtype):
        with pytest.warns(flossing.LostRankWarning, match="3 of 3"):
            found = vectors_of_product(torch.zeros(9, 2, 3, 3, dtype=dtype))
        assert bool(torch.isneginf(found.exponents).all())
        torch.testing.assert_close(found.vectors.norm(dim=-2), torch.ones(10, 2, 3, dtype=dtype))

    @pytest.mark.parametrize("size", [3, 12])
    def test_units_that_die_at_random(self, size):
        alive = torch.rand(80, 1, size, 1, generator=torch.Generator().manual_seed(6)) < 0.7
        alive[:, :, 0] = True
        jacobians = torch.where(alive, noise(80, 1, size, size), 0.0)
        with pytest.warns(flossing.LostRankWarning):
            found = vectors_of_product(jacobians, frame_transient=20, backward_transient=20)
        finite = ~torch.isneginf(found.exponents[0])
        count = int(finite.sum())
        assert 0 < count < size
        assert finite.tolist() == [True] * count + [False] * (size - count)
        lengths = found.vectors.norm(dim=-2)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        covariant = flossing.CovariantVectors(
            found.vectors[..., :count], found.steps, found.local[..., :count]
        )
        assert_covariant(covariant, jacobians[20:60], 1e-7)
        pushed = jacobians[20:60] @ found.vectors[:-1, ..., count:]
        for image, after in zip(pushed[:, 0], found.vectors[1:, 0, :, count:], strict=True):
            assert_within_span(image, after, 1e-6)

    def test_independent_units_of_which_one_dies_twice(self):
        # A completion that grows faster than the vectors before it, and nothing that mixes them.
        rates = torch.tensor([2.0, 0.5, 0.4], dtype=torch.float64)
        jacobians = torch.diag(rates).repeat(1600, 1, 1, 1)
        jacobians[[100, 1500], :, 0, 0] = 0.0
        with pytest.warns(flossing.LostRankWarning):
            found = vectors_of_product(jacobians, frame_transient=0, backward_transient=0)
        lengths = found.vectors.norm(dim=-2)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        assert not bool(found.local.isnan().any())

    def test_a_later_vector_keeps_its_exponent(self):
        # After 540 steps the first vector is the first axis exactly, and the Jacobian kills it.
        jacobians = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
        jacobians = jacobians.repeat(1500, 1, 1, 1)
        jacobians[1000, :, :, 0] = 0.0
        with pytest.warns(flossing.LostRankWarning, match="1 of 2"):
            found = vectors_of_product(jacobians, frame_transient=800, backward_transient=300)
        assert found.exponents[0].tolist() == [-math.inf, pytest.approx(math.log(0.5))]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_saturated_units_keep_their_vectors(self, dtype):
        # The squares of such factors underflow in single precision.
        jacobians = (1e-25 * noise(12, 1, 3, 3)).to(dtype)
        found = vectors_of_product(jacobians)
        plain = vectors_of_product(jacobians.double() * 1e25)
        torch.testing.assert_close(found.vectors.double(), plain.vectors, atol=1e-3, rtol=0)
        expected = plain.local - 25 * math.log(10)
        torch.testing.assert_close(found.local.double(), expected, atol=1e-3, rtol=0)


def result_of(vectors, exponents):
    vectors = torch.tensor(vectors, dtype=torch.float64).expand(2, 1, -1, -1)
    local = torch.tensor([[exponents]], dtype=torch.float64)
    return flossing.CovariantVectors(vectors, torch.tensor([0, 1]), local)


class TestAngles:
    @pytest.mark.parametrize("angle", [1e-12, 1e-3, 0.7, math.pi / 2])
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_small_angles_are_accurate(self, angle, sign):
        lines = [[1.0, sign * math.cos(angle)], [0.0, sign * math.sin(angle)]]
        found = result_of(lines, [0.1, -0.1])
        assert found.smallest_angle[0].item() == pytest.approx(angle, rel=1e-12)
        assert found.subspace_angle()[0].item() == pytest.approx(angle, rel=1e-12)

    def test_subspaces(self):
        # A line in space makes the angle with a plane that it makes with its projection.
        line = [math.cos(0.3), 0.0, math.sin(0.3)]
        columns = [line, [1.0, 0.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5), 0.0]]
        found = result_of(list(zip(*columns, strict=True)), [0.2, -0.1, -0.3])
        assert found.subspace_angle()[0].item() == pytest.approx(0.3)
        assert found.subspace_angle(2)[0].item() == pytest.approx(math.pi / 4)

    def test_every_trajectory_has_its_own_expanding_subspace(self):
        first = result_of(noise(3, 3).tolist(), [0.1, -0.1, -0.2])
        second = result_of(noise(3, 3, seed=1).tolist(), [0.3, 0.1, -0.2])
        both = flossing.CovariantVectors(
            torch.cat([first.vectors, second.vectors], dim=1),
            first.steps,
            torch.cat([first.local, second.local], dim=1),
        )
        found = both.subspace_angle()
        torch.testing.assert_close(found[:, :1], first.subspace_angle(1))
        torch.testing.assert_close(found[:, 1:], second.subspace_angle(2))

    @pytest.mark.parametrize("split", [None, 2, 5])
    def test_a_side_without_vectors(self, split):
        found = result_of([[1.0, 0.0], [0.0, 1.0]], [-0.1, -0.2])
        with pytest.raises(InvalidOptionError, match="trajectory 0.*split from 1 to 1"):
            found.subspace_angle(split)

    def test_pairs_over_many_points(self):
        jacobians = noise(700, 1, 3, 3)
        found = vectors_of_product(jacobians)
        pairs = found.angles[:, :, [0, 0, 1], [1, 2, 2]].amin(dim=-1)
        torch.testing.assert_close(found.smallest_angle, pairs, atol=1e-7, rtol=0)


def test_signs_are_settled_by_the_largest_entry():
    found = vectors_of_product(noise(30, 2, 4, 4))
    largest = found.vectors.abs().argmax(dim=-2, keepdim=True)
    assert bool((found.vectors.gather(-2, largest) > 0).all())


def test_localisation_from_one_unit_to_all():
    found = result_of(
        [[1.0, 0.5, 0.0], [0.0, 0.5, 0.6], [0.0, 0.5, 0.8], [0.0, 0.5, 0.0]], [0.0] * 3
    )
    expected = torch.tensor([1.0, 0.25, 0.6**4 + 0.8**4], dtype=torch.float64)
    torch.testing.assert_close(found.inverse_participation_ratio[0, 0], expected)


def test_works_in_inference_mode_and_matrix_free():
    weight = noise(80, 80) / 80**0.5
    inputs = noise(12, 1, 80)

    def step(x_t, state):
        return torch.tanh(state @ weight.T + x_t)

    with torch.inference_mode():
        found = flossing.covariant_vectors(step, inputs, torch.zeros(1, 80).double(), k=2)
    line = linearise(step, inputs, torch.zeros(1, 80).double())
    jacobians = torch.stack([line.jacobian(t) for t in range(1, 11)])
    assert_covariant(found, jacobians)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, InvalidOptionError, "k is 0"),
        ({"k": 4}, InvalidOptionError, "k=4 .* 3 dimensions"),
        ({"every": 0}, InvalidOptionError, "every is 0"),
        ({"chunk": 0}, InvalidOptionError, "chunk is 0"),
        ({"frame_transient": -1}, InvalidOptionError, "frame_transient is -1"),
        ({"backward_transient": -1}, InvalidOptionError, "backward_transient is -1"),
        ({"frame_transient": 10, "backward_transient": 11}, InvalidInputError, "leave 0, too few"),
        ({"every": 17}, InvalidInputError, "leave 16, too few for two points every=17 steps"),
        ({"state_transient": 20}, InvalidInputError, "leaves none"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        vectors_of_product(noise(20, 1, 3, 3), **options)
