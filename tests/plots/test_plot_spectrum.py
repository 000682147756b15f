import math
import sys
from dataclasses import replace

import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure

import flossing
from flossing.plots import BLUE, plot_gradient_norm, plot_learning_curve, plot_spectrum


@pytest.fixture(scope="module")
def spectrum():
    rnn = torch.nn.RNN(1, 8)
    inputs = torch.randn(60, 3, 1, generator=torch.Generator().manual_seed(0))
    return flossing.lyapunov_spectrum(rnn, inputs)


@pytest.fixture(scope="module")
def one_trajectory():
    return flossing.log_growth_rates(torch.randn(40, 8, 8), frame_transient=2, reorthonormalize=1)


def with_lost_rank(spectrum, count):
    exponents = spectrum.exponents.detach().clone()
    exponents[0, -count:] = -math.inf
    local = spectrum.local.detach().clone()
    local[0, 0, -count:] = -math.inf
    return replace(spectrum, exponents=exponents, local=local)


def bars(ax):
    """Lower and upper end of each error bar, (k, 2)."""
    (lines,) = ax.containers[0].lines[2]
    return torch.tensor([[low[1], high[1]] for low, high in lines.get_segments()])


def test_spectrum_of_one_trajectory(one_trajectory):
    one = one_trajectory
    ax = plot_spectrum(one, label="here")
    (line,) = ax.lines
    assert line.get_xdata().tolist() == list(range(1, 9))
    torch.testing.assert_close(torch.tensor(line.get_ydata()), one.exponents[0].detach().double())
    half = (bars(ax)[:, 1] - bars(ax)[:, 0]) / 2
    torch.testing.assert_close(half, one.standard_error[0].detach().double(), rtol=1e-6, atol=1e-9)
    assert ax.get_xlabel() == "index of the exponent"
    assert ax.get_ylabel() == "Lyapunov exponent (nats per step)"
    assert ax.get_legend_handles_labels()[1] == ["here"]
    assert not ax.texts


def test_spectrum_of_several_trajectories_is_their_mean_over_light_lines(spectrum):
    ax = plot_spectrum(spectrum)
    mean, *each = ax.lines
    assert len(each) == 3
    expected = spectrum.exponents.detach().double().mean(dim=0)
    torch.testing.assert_close(torch.tensor(mean.get_ydata()), expected)
    assert all(line.get_alpha() < 0.5 and same_color(line.get_color(), BLUE) for line in each)


def test_infinite_exponents_are_noted_not_drawn(spectrum):
    ax = plot_spectrum(with_lost_rank(spectrum, 3))
    assert torch.tensor(ax.lines[0].get_ydata()).isnan().tolist() == [False] * 5 + [True] * 3
    assert [text.get_text() for text in ax.texts] == ["3 of 8 exponents are −∞"]
    ax.figure.canvas.draw()


def test_notes_of_two_spectra_do_not_cover_each_other(spectrum):
    ax = plot_spectrum(with_lost_rank(spectrum, 3), label="a")
    plot_spectrum(with_lost_rank(spectrum, 1), ax, label="b")
    assert [text.get_text() for text in ax.texts] == [
        "a: 3 of 8 exponents are −∞",
        "b: 1 of 8 exponents are −∞",
    ]
    assert ax.texts[0].xy != ax.texts[1].xy


def test_unit_of_time_is_named(spectrum):
    ax = plot_spectrum(replace(spectrum, dt=0.1))
    assert ax.get_ylabel() == "Lyapunov exponent (nats per unit of time)"


def test_the_result_plots_itself(spectrum):
    ax = Figure().add_subplot()
    assert spectrum.plot(ax) is ax
    assert ax.lines


def test_gradient_norm():
    ax = plot_gradient_norm([1, 2, 3], [1.0, 0.1, 0.0], label="here")
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata()[:2].tolist() == [1.0, 0.1]
    assert math.isnan(line.get_ydata()[2])
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "lag (steps)"


def test_learning_curve_marks_chance():
    ax = plot_learning_curve([0, 10], [0.5, 0.9], chance=0.5)
    curve, chance = ax.lines
    assert curve.get_ydata().tolist() == [0.5, 0.9]
    assert chance.get_linestyle() == "--"
    assert list(chance.get_ydata()) == [0.5, 0.5]
    assert [text.get_text() for text in ax.texts] == ["chance"]
    assert ax.get_xlabel() == "training step"
    assert ax.get_ylabel() == "accuracy"


def test_axes_are_used_again_and_styles_passed_on(spectrum):
    ax = Figure().add_subplot()
    assert plot_spectrum(spectrum, ax, color="black", linestyle="--") is ax
    assert plot_spectrum(spectrum, ax) is ax
    assert len(ax.containers) == 2
    assert ax.lines[0].get_linestyle() == "--"
    assert all(same_color(line.get_color(), "black") for line in ax.lines[:4])


def test_two_curves_on_the_same_axes():
    gradients, learning = Figure().subplots(1, 2)
    for _ in range(2):
        assert plot_gradient_norm([1, 2], [1.0, 0.5], gradients) is gradients
        assert plot_learning_curve([1, 2], [0.5, 1.0], learning) is learning
    assert len(gradients.lines) == len(learning.lines) == 2


def test_pyplot_is_not_touched(spectrum):
    before = "matplotlib.pyplot" in sys.modules
    plot_spectrum(spectrum)
    assert ("matplotlib.pyplot" in sys.modules) == before


@pytest.mark.parametrize(
    "plot",
    [
        lambda spectrum: plot_spectrum(spectrum),
        lambda _: plot_gradient_norm([1], [1.0]),
        lambda _: plot_learning_curve([1], [1.0]),
    ],
)
def test_missing_matplotlib_is_explained(plot, spectrum, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "flossing\[plot\]"'):
        plot(spectrum)
