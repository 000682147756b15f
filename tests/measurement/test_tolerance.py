"""Runs that end when their error bars are small enough, and results that are extended."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing
from flossing.errors import InvalidInputError, InvalidOptionError
from flossing.measurement import stopping

TRIGAMMA_OF_A_HALF = math.pi**2 / 2


def product_step(jacobian, state):
    return (jacobian @ state.unsqueeze(-1)).squeeze(-1)


def gaussian_spectrum(steps, *, batch=1, size=4, seed=0, **options):
    """The spectrum of a product of Gaussian matrices, whose exact exponents are known."""
    generator = torch.Generator().manual_seed(seed)
    jacobians = torch.randn(steps, batch, size, size, dtype=torch.float64, generator=generator)
    state = torch.zeros(batch, size, dtype=torch.float64)
    return flossing.lyapunov_spectrum(product_step, jacobians, state, **options)


EXACT = torch.tensor([0.5579658, 0.3648186, 0.0579658, -0.6351814], dtype=torch.float64)


class TestTolerance:
    @pytest.mark.parametrize("interval", [1, 3, "auto"])
    @pytest.mark.parametrize("dt", [1.0, 0.5])
    def test_stops_where_theory_says(self, interval, dt):
        # The last exponent has the largest standard error, √(ψ′(1/2)/4T) per step.
        tolerance = 0.035
        found = gaussian_spectrum(
            9000, tolerance=tolerance / dt, reorthonormalize=interval, dt=dt, frame_transient=50
        )
        expected = TRIGAMMA_OF_A_HALF / 4 / tolerance**2
        assert 0.6 * expected < int(found.counted_steps) < 1.7 * expected
        assert float(found.standard_error.max()) <= tolerance / dt * (1 + 1e-9)
        assert float((found.exponents[0] * dt - EXACT).abs().max()) < 4 * tolerance

    def test_is_exactly_a_run_of_so_many_steps(self):
        options = {"reorthonormalize": 2, "frame_transient": 20}
        found = gaussian_spectrum(1500, batch=2, tolerance=0.06, **options)
        steps = 20 + int(found.counted_steps[0])
        assert steps < 1500
        plain = gaussian_spectrum(1500, batch=2, **options)
        count = (steps - 20) // 2
        torch.testing.assert_close(
            found.local.gather(-1, found.order.argsort(-1).expand_as(found.local)),
            plain.local.gather(-1, plain.order.argsort(-1).expand_as(plain.local))[:count],
        )
        # Which is what is needed to go on: the ends are those of the run as it was.
        generator = torch.Generator().manual_seed(0)
        jacobians = torch.randn(1500, 2, 4, 4, dtype=torch.float64, generator=generator)
        rest = flossing.lyapunov_spectrum(
            product_step,
            jacobians[steps:],
            found.final_state,
            frame=found.final_frame,
            reorthonormalize=2,
        )
        torch.testing.assert_close(found.extended_by(rest).exponents, plain.exponents)

    def test_the_logistic_map_stops_early(self):
        found = flossing.lyapunov_spectrum(
            lambda x: 4 * x * (1 - x),
            state=torch.tensor([0.3], dtype=torch.float64),
            steps=10**8,
            tolerance=5e-3,
        )
        assert int(found.counted_steps) < 20_000
        assert float(found.standard_error) <= 5e-3 * (1 + 1e-9)
        assert found.exponents.item() == pytest.approx(math.log(2), abs=4 * 5e-3)

    @pytest.mark.parametrize("interval", [1, "auto"])
    def test_a_constant_map_stops_as_soon_as_there_are_enough_intervals(self, interval):
        found = flossing.lyapunov_spectrum(
            lambda h: 0.5 * h,
            state=torch.ones(2, 2),
            steps=10**8,
            tolerance=1e-6,
            reorthonormalize=interval,
        )
        assert 300 <= int(found.counted_steps[0]) <= 400
        torch.testing.assert_close(found.exponents, torch.full((2, 2), 0.5).log())

    def test_a_driven_network_with_its_final_state(self):
        gru = nn.GRU(2, 6, dtype=torch.float64)
        inputs = torch.randn(4000, 3, 2, dtype=torch.float64)
        with torch.no_grad():
            found = flossing.lyapunov_spectrum(
                gru, inputs, k=3, tolerance=4e-3, state_transient=30, frame_transient=40
            )
            steps = 70 + int(found.counted_steps[0])
            assert steps < 4000
            torch.testing.assert_close(found.final_state, gru(inputs[:steps])[1])

    @pytest.mark.parametrize("backend", ["torch", "reference"])
    def test_other_backends(self, backend):
        found = gaussian_spectrum(
            3000, size=2, tolerance=0.06, backend=backend, frame_transient=10, reorthonormalize=5
        )
        plain = gaussian_spectrum(
            3000, size=2, tolerance=0.06, frame_transient=10, reorthonormalize=5
        )
        assert found.counted_steps.tolist() == plain.counted_steps.tolist()
        torch.testing.assert_close(found.exponents, plain.exponents)

    def test_all_trajectories_and_exponents_count(self):
        found = gaussian_spectrum(9000, batch=3, tolerance=0.05)
        assert float(found.standard_error.max()) <= 0.05 * (1 + 1e-9)
        counted = [
            gaussian_spectrum(9000, batch=3, tolerance=0.05, k=k).counted_steps for k in (1, 4)
        ]
        assert int(counted[0][0]) < int(counted[1][0])

    def test_exponents_of_lost_rank_do_not_count(self):
        jacobians = torch.randn(8000, 1, 3, 3, dtype=torch.float64)
        jacobians[:, :, 2] = 0.0
        with pytest.warns(flossing.LostRankWarning, match="1 of 3"):
            found = flossing.lyapunov_spectrum(
                product_step, jacobians, torch.zeros(1, 3).double(), tolerance=0.05
            )
        assert int(found.counted_steps) < 4000
        assert found.exponents.isinf().tolist() == [[False, False, True]]

    def test_packed_trajectories(self):
        rnn = nn.RNN(1, 3, dtype=torch.float64)
        inputs = torch.randn(6000, 2, 1, dtype=torch.float64)
        packed = pack_padded_sequence(inputs, torch.tensor([6000, 700]))
        with torch.no_grad():
            found = flossing.lyapunov_spectrum(
                rnn, packed, tolerance=0.03, frame_transient=50, reorthonormalize=1
            )
            longest = 50 + int(found.counted_steps[0])
            assert longest < 6000
            assert int(found.counted_steps[1]) == min(650, longest - 50)
            for row, steps in enumerate((longest, min(700, longest))):
                expected = rnn(inputs[:steps, row : row + 1])[1]
                torch.testing.assert_close(found.final_state[:, row : row + 1], expected)

    def test_a_run_too_short_says_how_long_it_should_be(self):
        with pytest.warns(flossing.ToleranceWarning) as caught:
            gaussian_spectrum(2000, tolerance=0.01, frame_transient=0, reorthonormalize=1)
        message = str(caught[0].message)
        assert "after 2000 counted steps" in message
        assert "tolerance=0.01" in message
        needed = int(re.search(r"about (\d+) steps", message)[1])
        assert needed == pytest.approx(TRIGAMMA_OF_A_HALF / 4 / 1e-4, rel=0.3)

    def test_a_run_of_one_interval_knows_nothing_of_its_error(self):
        with pytest.warns(flossing.ToleranceWarning, match="error is inf after 1 counted steps"):
            gaussian_spectrum(1, tolerance=10.0)

    def test_a_tolerance_reached_at_the_very_end_is_reached(self):
        found = gaussian_spectrum(100, tolerance=1.0, frame_transient=0)
        assert found.counted_steps.tolist() == [100]

    def test_looks_are_few(self, monkeypatch):
        looks = []

        def counted(growth, steps):
            looks.append(len(growth))
            return plain(growth, steps)

        plain = stopping.standard_errors
        monkeypatch.setattr(stopping, "standard_errors", counted)
        gaussian_spectrum(9000, tolerance=0.03, reorthonormalize=1, frame_transient=0)
        assert sum(looks) < 5 * looks[-1]

    def test_the_transient_of_the_frame_does_not_grow_with_the_limit(self):
        found = flossing.lyapunov_spectrum(
            lambda h: h + 1, state=torch.ones(1, 1), steps=100_000, tolerance=0.1, k=1
        )
        # The state moves on by one in every step, those of the transient included.
        assert found.first_state.item() == 1001
        assert found.final_state.item() == 1001 + int(found.counted_steps)

    @pytest.mark.parametrize("tolerance", [0.0, -1.0, math.inf, math.nan])
    def test_what_is_no_tolerance(self, tolerance):
        with pytest.raises(InvalidOptionError, match="tolerance must be a positive standard error"):
            gaussian_spectrum(50, tolerance=tolerance)

    def test_not_with_gradients(self):
        rnn = nn.RNN(1, 3)
        with pytest.raises(InvalidOptionError, match=r"use torch.no_grad\(\)"):
            flossing.lyapunov_spectrum(rnn, torch.randn(50, 1, 1), tolerance=0.1)


STOCK = [nn.RNN, nn.GRU, nn.LSTM]


def assert_same_result(found, expected):
    for name in (
        "exponents",
        "log_growth",
        "order",
        "interval_steps",
        "local",
        "standard_error",
        "first_frame",
        "final_frame",
    ):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other.detach(), equal_nan=True)


class TestExtension:
    @pytest.mark.parametrize("module", STOCK)
    @pytest.mark.parametrize("layer", [None, 1])
    def test_is_the_whole_run(self, module, layer):
        rnn = module(2, 3, num_layers=2, dtype=torch.float64)
        inputs = torch.randn(90, 2, 2, dtype=torch.float64)
        options = {"layer": layer, "reorthonormalize": 5, "dt": 0.1, "k": 3}
        whole = flossing.lyapunov_spectrum(rnn, inputs, frame_transient=10, **options)
        result = flossing.lyapunov_spectrum(rnn, inputs[:40], frame_transient=10, **options)
        for start, stop in ((40, 65), (65, 90)):
            later = flossing.lyapunov_spectrum(
                rnn, inputs[start:stop], result.final_state, frame=result.final_frame, **options
            )
            result = result.extended_by(later)
        assert_same_result(result, whole)
        torch.testing.assert_close(result.first_state, whole.first_state)
        torch.testing.assert_close(result.final_state, whole.final_state)
        assert not result.exponents.requires_grad
        assert result.dt == 0.1

    def test_with_automatic_intervals_up_to_rounding(self):
        gru = nn.GRU(2, 6, dtype=torch.float64)
        inputs = torch.randn(400, 3, 2, dtype=torch.float64)
        with torch.no_grad():
            whole = flossing.lyapunov_spectrum(gru, inputs, frame_transient=10)
            first = flossing.lyapunov_spectrum(gru, inputs[:151], frame_transient=10)
            later = flossing.lyapunov_spectrum(
                gru, inputs[151:], first.final_state, frame=first.final_frame
            )
        found = first.extended_by(later)
        torch.testing.assert_close(found.exponents, whole.exponents, rtol=1e-9, atol=1e-9)
        assert torch.equal(found.counted_steps, whole.counted_steps)

    def test_maps_and_stacks_of_jacobians(self):
        def henon(state):
            x, y = state[..., 0], state[..., 1]
            return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], dim=-1)

        state = torch.tensor([0.1, 0.1], dtype=torch.float64)
        options = {"reorthonormalize": 1, "frame_transient": 0}
        whole = flossing.lyapunov_spectrum(henon, state=state, steps=30, **options)
        first = flossing.lyapunov_spectrum(henon, state=state, steps=20, **options)
        later = flossing.lyapunov_spectrum(
            henon, state=first.final_state, frame=first.final_frame, steps=10, **options
        )
        assert_same_result(first.extended_by(later), whole)
        jacobians = torch.randn(12, 2, 3, 3, dtype=torch.float64)
        first = flossing.log_growth_rates(jacobians[:5], reorthonormalize=1)
        later = flossing.log_growth_rates(
            jacobians[5:], frame=first.final_frame, reorthonormalize=1
        )
        whole = flossing.log_growth_rates(jacobians, reorthonormalize=1)
        assert_same_result(first.extended_by(later), whole)

    def test_the_order_is_settled_by_all_intervals(self):
        jacobians = torch.diag(torch.tensor([2.0, 1.0])).repeat(10, 1, 1)
        jacobians[3:, 1, 1] = 4.0
        frame = torch.eye(2).unsqueeze(0)
        options = {"reorthonormalize": 1}
        first = flossing.log_growth_rates(jacobians[:3], frame=frame, **options)
        later = flossing.log_growth_rates(jacobians[3:], frame=first.final_frame, **options)
        assert (first.order.tolist(), later.order.tolist()) == ([[0, 1]], [[1, 0]])
        found = first.extended_by(later)
        assert_same_result(found, flossing.log_growth_rates(jacobians, frame=frame, **options))
        assert found.order.tolist() == [[1, 0]]

    def test_packed_trajectories(self):
        rnn = nn.RNN(1, 3, dtype=torch.float64)
        inputs = torch.randn(30, 2, 1, dtype=torch.float64)
        options = {"reorthonormalize": 1, "frame_transient": 0}
        first = flossing.lyapunov_spectrum(
            rnn, pack_padded_sequence(inputs[:20], torch.tensor([20, 12])), **options
        )
        later = flossing.lyapunov_spectrum(
            rnn, inputs[20:], first.final_state, frame=first.final_frame, **options
        )
        found = first.extended_by(later)
        assert found.counted_steps.tolist() == [30, 22]
        alone = torch.cat([inputs[:12, 1:], inputs[20:, 1:]])
        whole = flossing.lyapunov_spectrum(rnn, alone, frame=first.first_frame[1:], **options)
        torch.testing.assert_close(found.exponents[1], whole.exponents[0].detach())
        torch.testing.assert_close(found.standard_error[1], whole.standard_error[0])
        course = flossing.convergence(found, points=30)
        assert not bool(course.exponents.isnan().any())

    def test_lost_rank_stays_lost(self):
        jacobians = torch.randn(10, 1, 3, 3, dtype=torch.float64)
        jacobians[2, :, 0] = 0.0
        with pytest.warns(flossing.LostRankWarning):
            first = flossing.log_growth_rates(jacobians[:5])
        later = flossing.log_growth_rates(jacobians[5:], frame=first.final_frame)
        found = first.extended_by(later)
        assert found.exponents.isneginf().tolist() == [[False, False, True]]
        assert bool(found.exponents[:, :2].isfinite().all())

    def test_what_does_not_fit_is_refused(self):
        rnn = nn.RNN(1, 3)
        inputs = torch.randn(40, 2, 1)
        first = flossing.lyapunov_spectrum(rnn, inputs[:20])
        rest, state, frame = inputs[20:], first.final_state, first.final_frame
        later = flossing.lyapunov_spectrum(rnn, rest, state, frame=frame)
        assert first.extended_by(later).counted_steps.tolist() == [38, 38]
        refused = [
            (flossing.lyapunov_spectrum(rnn, rest, state, frame=frame, dt=2.0), "dt=2.0.*dt=1.0"),
            (flossing.lyapunov_spectrum(rnn, rest, state), "not the final one"),
            (flossing.lyapunov_spectrum(rnn, rest, state, frame=frame[..., :2]), r"\(2, 3, 2\)"),
            (flossing.lyapunov_spectrum(rnn, rest, frame=frame), "another state"),
            (
                flossing.lyapunov_spectrum(rnn, rest, state, frame=frame, state_transient=3),
                "another state",
            ),
            (
                flossing.lyapunov_spectrum(rnn, rest, state, frame=frame, frame_transient=3),
                "not the final one",
            ),
            (replace(later, first_frame=later.first_frame.double()), "not the final one"),
            (replace(later, first_state=None), "another state"),
        ]
        for result, message in refused:
            with pytest.raises(InvalidInputError, match=f"does not continue.*{message}"):
                first.extended_by(result)
