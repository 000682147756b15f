import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma

from flossing.analysis.numerics.graded_product import GradedProduct
from flossing.errors import NonFiniteError


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def log_singular_values(factors):
    """Of A_T ⋯ A_1 for factors A_1, …, A_T, (T, n, n) or (T, B, n, n)."""
    size = factors.shape[-1]
    matrices = factors.double().reshape(len(factors), -1, size, size)
    product = GradedProduct.on(torch.eye(size).expand(matrices.shape[1], -1, -1))
    for each in matrices:
        product = product.times(each @ product.frame, lambda each=each: each)
    return product.log_singular_values().reshape(factors.shape[1:-1])


def orthogonal(size, generator, *batch):
    noise = torch.randn(*batch, size, size, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(noise).Q


def ill_conditioned(count, size, digits, seed=0):
    """Dense factors, neither rows nor columns graded, with condition numbers up to 10^digits."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (orthogonal(size, generator, count) for _ in range(2))
    powers = digits * torch.rand(count, 1, dtype=torch.float64, generator=generator)
    grading = torch.linspace(0, -1, size, dtype=torch.float64)
    return left * 10 ** (powers * grading).unsqueeze(-2) @ right


def exact(factors, digits):
    """Logarithms of the singular values of the product, multiplied out with so many digits.

    By QR iterations on the product, whose diagonals converge to the singular values.
    """
    with mpmath.workdps(digits):
        product = mpmath.eye(factors.shape[-1])
        for factor in factors:
            product = mpmath.matrix(factor.tolist()) * product
        previous = None
        for _ in range(40):
            _, triangular = mpmath.qr(product)
            diagonal = [abs(triangular[i, i]) for i in range(triangular.rows)]
            current = torch.tensor(
                sorted((float(mpmath.log(entry)) for entry in diagonal), reverse=True),
                dtype=torch.float64,
            )
            if previous is not None and bool((current - previous).abs().max() < 1e-13):
                return current
            previous, product = current, triangular.T
    raise AssertionError("the reference did not converge")


def assert_relatively_close(values, expected, tolerance=1e-10):
    assert values.isfinite().all()
    assert ((values - expected).abs() / expected.abs().clamp(min=1)).max() < tolerance


def test_the_reference_agrees_with_a_singular_value_decomposition():
    factors = ill_conditioned(4, 5, 6)
    with mpmath.workdps(60):
        product = mpmath.eye(5)
        for factor in factors:
            product = mpmath.matrix(factor.tolist()) * product
        expected = [float(mpmath.log(value)) for value in mpmath.svd_r(product, compute_uv=False)]
    torch.testing.assert_close(exact(factors, 80), double(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("digits", [3, 6, 12, 15])
def test_ill_conditioned_factors(digits):
    factors = ill_conditioned(20, 8, digits)
    expected = exact(factors, 40 + 20 * digits)
    assert_relatively_close(log_singular_values(factors), expected, 1e-13 if digits > 5 else 1e-12)


def test_many_ill_conditioned_factors():
    factors = ill_conditioned(200, 20, 12)
    assert_relatively_close(log_singular_values(factors), exact(factors, 2500), 1e-12)


def test_one_factor_alone_with_twice_the_digits_of_the_type():
    size = 10
    hilbert = 1 / (torch.arange(size)[:, None] + torch.arange(size) + 1.0).double()
    factors = torch.stack([hilbert, hilbert.flip(0), hilbert])
    assert_relatively_close(log_singular_values(factors), exact(factors, 200), 1e-13)


def test_saturated_units_are_rows_of_very_different_size():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, dtype=torch.float64, generator=generator)
    slopes = 10 ** (-40 * torch.rand(20, 8, 1, dtype=torch.float64, generator=generator))
    factors = slopes * weight
    assert_relatively_close(log_singular_values(factors), exact(factors, 1500), 1e-13)


def test_saturated_units_are_columns_of_very_different_size():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, dtype=torch.float64, generator=generator)
    slopes = 10 ** (-40 * torch.rand(20, 1, 8, dtype=torch.float64, generator=generator))
    factors = weight * slopes
    assert_relatively_close(log_singular_values(factors), exact(factors, 1500), 1e-13)


def test_condition_numbers_beyond_the_range_of_floats():
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3000, 3, 3, dtype=torch.float64, generator=generator)
    factors = factors * double([1e60, 1.0, 1e-60])
    values = log_singular_values(factors)
    assert (values[0] - values[-1]) / math.log(10) > 50_000
    # The sum is the logarithm of the determinant, which the factors give one by one.
    expected = torch.linalg.slogdet(factors).logabsdet.sum()
    assert abs(values.sum() - expected) < 1e-11 * values.abs().sum()


def test_diagonal_matrices():
    diagonals = double([[2.0, 1e-200, 1e150, 3.0], [1e-150, 1e-200, 5.0, 7.0]])
    values = log_singular_values(torch.diag_embed(diagonals).repeat(500, 1, 1))
    expected = 500 * diagonals.log().sum(dim=0).sort(descending=True).values
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)


def test_orthogonal_matrices_have_no_grading():
    factors = orthogonal(12, torch.Generator().manual_seed(0), 1000)
    assert log_singular_values(factors).abs().max() < 1e-12
    scaled = log_singular_values(0.5 * factors)
    torch.testing.assert_close(scaled, double([-1000 * math.log(2)] * 12))


def test_equal_singular_values_of_a_shear():
    shear = double([[1.0, 1.0], [0.0, 1.0]])
    steps = 1000
    values = log_singular_values(shear.repeat(steps, 1, 1))
    expected = math.asinh(steps / 2)
    torch.testing.assert_close(values, double([expected, -expected]), rtol=1e-12, atol=0)


def test_products_of_gaussian_matrices():
    """Newman, "The distribution of Lyapunov exponents: exact results for random matrices", 1986."""
    size, steps = 10, 3000
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(steps, size, size, dtype=torch.float64, generator=generator)
    index = np.arange(1, size + 1)
    expected = torch.from_numpy(0.5 * (math.log(2) + digamma((size - index + 1) / 2)))
    assert (log_singular_values(factors) / steps - expected).abs().max() < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 3), st.integers(0, 1000), st.booleans())
def test_short_products_equal_those_multiplied_out(size, steps, batch, seed, single):
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, size, size) if batch == 0 else (steps, batch, size, size)
    factors = torch.randn(shape, generator=generator, dtype=torch.float64)
    product = factors[0]
    for factor in factors[1:]:
        product = factor @ product
    expected = torch.linalg.svdvals(product)
    factors = factors.float().double() if single else factors
    values = log_singular_values(factors).exp()
    tolerance = 1e-4 if single else 1e-12
    assert values.shape == expected.shape
    assert (values - expected).abs().max() < tolerance * (1 + expected.max())


def test_one_dimension():
    factors = double([-2.0, 1e-300, 1e-300, 3.0]).reshape(-1, 1, 1)
    values = log_singular_values(factors)
    torch.testing.assert_close(values, double([math.log(6) - 600 * math.log(10)]))


def test_products_do_not_depend_on_those_beside_them():
    mild, steep = ill_conditioned(30, 6, 1), ill_conditioned(30, 6, 14, seed=1)
    together = log_singular_values(torch.stack([mild, steep, mild], dim=1))
    for row, factors in zip(together, (mild, steep, mild), strict=True):
        assert torch.equal(row, log_singular_values(factors))


class TestSingularFactors:
    def lost(self, factors):
        values = log_singular_values(factors)
        assert not values.isnan().any()
        return int(values.isneginf().sum()), values

    def test_zero(self):
        factors = torch.randn(5, 3, 3).double()
        factors[2] = 0
        assert self.lost(factors)[0] == 3

    @pytest.mark.parametrize("rank", [1, 2, 4])
    def test_dense_factor_of_low_rank(self, rank):
        generator = torch.Generator().manual_seed(rank)
        # Integers, so that the product has that rank exactly.
        left, right = (
            torch.randint(-9, 10, (5, rank), generator=generator).double() for _ in range(2)
        )
        factors = torch.randn(6, 5, 5, dtype=torch.float64, generator=generator)
        factors[3] = left @ right.T
        count, values = self.lost(factors)
        product = torch.linalg.multi_dot([*factors.flip(0)])
        assert count == 5 - rank
        expected = torch.linalg.svdvals(product)[:rank].log()
        torch.testing.assert_close(values[:rank], expected, rtol=1e-9, atol=1e-9)

    def test_dead_units(self):
        weight = torch.randn(6, 6).double()
        alive = double([[1, 1, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1]])
        factors = (alive.unsqueeze(-1) * weight).repeat(200, 1, 1)
        count, values = self.lost(factors)
        # The rank of the factors in turn, and what is left of them.
        assert count == 1
        assert values[:5].isfinite().all()

    def test_dead_columns(self):
        factors = torch.randn(50, 4, 4).double()
        factors[20, :, 2] = 0
        assert self.lost(factors)[0] == 1

    def test_shift_register_forgets_everything(self):
        shift = torch.diag(torch.ones(4), -1).double()
        for steps in range(1, 7):
            assert self.lost(shift.repeat(steps, 1, 1))[0] == min(5, steps)

    def test_the_direction_lost_may_be_the_one_that_grew(self):
        factors = torch.diag(double([1e3, 1.0, 1e-3])).repeat(300, 1, 1)
        factors[150] = torch.diag(double([0.0, 1.0, 1.0]))
        count, values = self.lost(factors)
        assert count == 1
        expected = double([0.0, -299 * math.log(1e3)])
        torch.testing.assert_close(values[:2], expected, rtol=1e-13, atol=1e-13)

    def test_the_direction_lost_is_hidden_in_dense_factors(self):
        basis = double([[1.0, 1.0], [1.0, -1.0]])
        growing = basis @ torch.diag(double([4.0, 0.25])) @ basis / 2
        projecting = basis @ torch.diag(double([0.0, 1.0])) @ basis / 2
        factors = growing.repeat(9, 1, 1)
        factors[4] = projecting
        count, values = self.lost(factors)
        assert count == 1
        assert values[0] == pytest.approx(-8 * math.log(4), rel=1e-6)

    def test_nearly_singular_is_not_singular(self):
        factors = torch.eye(3).double().repeat(2, 1, 1)
        factors[0, 2] = torch.tensor([1.0, 1.0, 2.0**-52])
        factors[1, 2] = torch.tensor([-1.0, -1.0, 1.0])
        count, values = self.lost(factors)
        assert count == 0
        assert_relatively_close(values, exact(factors, 60), 1e-13)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_infinite_factors_are_refused(bad):
    factors = torch.eye(2).repeat(3, 1, 1)
    factors[1, 0, 0] = bad
    with pytest.raises(NonFiniteError, match="infinite or NaN"):
        log_singular_values(factors)


def test_mixing_stays_well_conditioned_where_exponents_coincide():
    generator = torch.Generator().manual_seed(0)
    product = GradedProduct.on(torch.eye(10).double().unsqueeze(0))
    for _ in range(1500):
        scales = torch.randn(10, 1, generator=generator).double().exp()
        factor = (
            scales * (torch.eye(10) + torch.randn(10, 10, generator=generator).triu(1)).double()
        )
        product = product.times(factor @ product.frame, lambda exact=factor: exact.unsqueeze(0))
    rows = product.mixing / product.mixing.norm(dim=-1, keepdim=True)
    assert torch.linalg.cond(rows) < 1e5
