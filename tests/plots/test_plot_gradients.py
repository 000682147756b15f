import math
import sys

import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure

import flossing
from flossing.plots import GREEN, plot_effective_rank, plot_gradient_horizon


def last_sum_of_squares(output):
    return output[-1].square().sum()


@pytest.fixture(scope="module")
def horizon():
    rnn = torch.nn.RNN(1, 6, dtype=torch.float64)
    return flossing.gradient_horizon(
        rnn, torch.randn(25, 3, 1, dtype=torch.float64), loss=last_sum_of_squares
    )


@pytest.fixture(scope="module")
def rank():
    gru = torch.nn.GRU(1, 6, num_layers=2)
    return flossing.effective_rank(gru, torch.randn(25, 3, 1), loss=last_sum_of_squares)


def curve(ax, name):
    (line,) = [line for line in ax.lines if line.get_label() == name]
    return torch.as_tensor(line.get_ydata(), dtype=torch.float64)


def test_curves_are_geometric_means_in_powers_of_ten(horizon):
    ax = plot_gradient_horizon(horizon)
    for name, reach in (
        ("worst case", horizon.worst),
        ("random directions", horizon.random),
        ("error of the loss", horizon.error),
    ):
        expected = reach.log_norm.mean(dim=-1) / math.log(10)
        torch.testing.assert_close(curve(ax, name), expected)
    prediction = horizon.lags * horizon.exponent.mean() / math.log(10)
    torch.testing.assert_close(curve(ax, "largest exponent"), prediction)
    (band,) = ax.collections
    top = horizon.random_quartiles[1].mean(dim=-1).max().item() / math.log(10)
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(top)
    assert ax.get_xlabel() == "lag (steps)"


def test_what_was_not_measured_is_not_drawn():
    bare = flossing.gradient_horizon(
        torch.nn.RNN(1, 3), torch.randn(5, 1, 1), directions=0, spectral_norm=False
    )
    ax = plot_gradient_horizon(bare)
    assert ax.get_legend_handles_labels()[1] == ["largest exponent"]
    assert not ax.collections


@pytest.mark.parametrize(("gain", "heights"), [(0.5, [-2.0]), (2.0, [-2.0, 2.0])])
def test_the_inverse_of_the_threshold_is_marked_where_it_is_reached(gain, heights):
    result = flossing.gradient_horizon(
        lambda h: gain * h, state=torch.zeros(1, 2), steps=20, threshold=0.01
    )
    ax = plot_gradient_horizon(result)
    dotted = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx(heights)


def test_norms_beyond_floating_point_are_drawn_with_their_powers():
    result = flossing.gradient_horizon(
        lambda h: 0.01 * h, state=torch.zeros(1, 2), steps=300, lags=range(0, 301, 50)
    )
    ax = plot_gradient_horizon(result)
    assert curve(ax, "worst case")[-1].item() == pytest.approx(-600)
    ax.figure.canvas.draw()
    assert "$10^{-600}$" in [label.get_text() for label in ax.get_yticklabels()]


def test_gradients_of_zero_are_noted_not_drawn():
    gains = torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(-1, 1, 1)
    result = flossing.gradient_horizon(lambda x, h: x * h, gains, torch.ones(1, 2))
    ax = plot_gradient_horizon(result, label="a")
    assert curve(ax, "a: worst case").isnan().tolist() == [False] * 3 + [True] * 2
    plot_gradient_horizon(result, ax, label="b")
    assert [text.get_text() for text in ax.texts] == [
        "a: zero from lag 3 on",
        "b: zero from lag 3 on",
    ]
    assert ax.texts[0].xy != ax.texts[1].xy
    ax.figure.canvas.draw()


def test_singular_values_are_relative_to_the_largest(rank):
    ax = plot_effective_rank(rank, label="here")
    assert len(ax.lines) == 2
    for line, (name, values) in zip(ax.lines, rank.matrices.items(), strict=True):
        expected = values.singular_values.double()
        drawn = torch.as_tensor(line.get_ydata())
        torch.testing.assert_close(drawn, expected / expected[0], rtol=1e-6, atol=0)
        ratio = f"{values.participation_ratio:.1f}"
        assert line.get_label() == f"here: {name} ({ratio} directions)"
    assert ax.lines[0].get_marker() != ax.lines[1].get_marker()
    assert ax.get_yscale() == "log"


def test_singular_values_of_zero_are_left_out():
    zero = flossing.GradientRank(torch.tensor([2.0, 1.0, 0.0]))
    ax = plot_effective_rank(flossing.EffectiveRank({"w": zero}, {}, 0.0))
    assert torch.as_tensor(ax.lines[0].get_ydata()).isnan().tolist() == [False, False, True]


def test_axes_are_used_again_and_styles_passed_on(horizon, rank):
    left, right = Figure().subplots(1, 2)
    assert plot_gradient_horizon(horizon, left, color=GREEN) is left
    named = [line for line in left.lines if line.get_label().startswith(("worst", "random"))]
    assert all(same_color(line.get_color(), GREEN) for line in named)
    assert len({line.get_linestyle() for line in named}) == 2
    for _ in range(2):
        assert plot_effective_rank(rank, right, linestyle="--") is right
    assert all(line.get_linestyle() == "--" for line in right.lines)
    assert len(right.lines) == 4


@pytest.mark.parametrize("plot", [plot_gradient_horizon, plot_effective_rank])
def test_missing_matplotlib_is_explained(plot, horizon, rank, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "flossing\[plot\]"'):
        plot(horizon if plot is plot_gradient_horizon else rank)
