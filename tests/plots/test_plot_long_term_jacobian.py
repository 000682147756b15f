import math
import sys
from dataclasses import replace

import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure

import flossing
from flossing.plots import BLUE, plot_condition_number, plot_singular_values


@pytest.fixture(scope="module")
def result():
    inputs = torch.randn(60, 2, 1, generator=torch.Generator().manual_seed(0))
    return flossing.long_term_jacobian(torch.nn.RNN(1, 6), inputs, k=5, horizons=[1, 4, 16])


def with_lost_rank(result):
    values = result.log_singular_values.clone()
    values[2, :, :, -1] = -math.inf
    return replace(result, log_singular_values=values)


def test_condition_number(result):
    ax = plot_condition_number(result, label="here")
    median, prediction = ax.lines
    assert median.get_xdata().tolist() == [1, 4, 16]
    assert median.get_ydata().tolist() == result.log10_condition_quartiles[1].tolist()
    expected = result.predicted_log10_condition.mean(dim=1)
    assert prediction.get_ydata().tolist() == expected.tolist()
    assert prediction.get_linestyle() == "--"
    assert ax.get_legend_handles_labels()[1][0] == "here"
    (band,) = ax.collections
    lower, upper = result.log10_condition_quartiles[[0, 2]]
    heights = torch.tensor(band.get_paths()[0].vertices[:, 1])
    assert heights.min() == lower.min()
    assert heights.max() == upper.max()
    assert not ax.texts


def test_prediction_may_be_left_out(result):
    assert len(plot_condition_number(result, prediction=False).lines) == 1


def test_infinite_condition_numbers_are_noted_not_drawn(result):
    ax = plot_condition_number(with_lost_rank(result), label="a")
    assert [math.isnan(height) for height in ax.lines[0].get_ydata()] == [False, False, True]
    plot_condition_number(with_lost_rank(result), ax, label="b")
    assert [note.get_text() for note in ax.texts] == [
        "a: infinite at 1 of 3 horizons",
        "b: infinite at 1 of 3 horizons",
    ]
    assert ax.texts[0].xy != ax.texts[1].xy
    ax.figure.canvas.draw()


def test_singular_values(result):
    ax = plot_singular_values(result)
    assert len(ax.lines) == 5
    medians = result.log_singular_values.flatten(1, 2).median(dim=1).values / math.log(10)
    for index, line in enumerate(ax.lines):
        assert line.get_ydata().tolist() == medians[:, index].tolist()
    assert len(ax.get_legend().get_texts()) == 3
    assert len({line.get_color() for line in ax.lines}) == 5
    assert not ax.texts


def test_singular_values_of_zero_are_noted(result):
    ax = plot_singular_values(with_lost_rank(result))
    assert [note.get_text() for note in ax.texts] == [
        "1 of 5 singular values are zero at some origin"
    ]


def test_axes_are_used_again_and_styles_passed_on(result):
    ax = Figure().add_subplot()
    assert plot_condition_number(result, ax, color="black") is ax
    assert result.plot(ax) is ax
    assert same_color(ax.lines[0].get_color(), "black")
    assert same_color(ax.lines[2].get_color(), BLUE)
    assert plot_singular_values(result, ax, color="black") is ax
    assert same_color(ax.lines[-1].get_color(), "black")


@pytest.mark.parametrize("plot", [plot_condition_number, plot_singular_values])
def test_missing_matplotlib_is_explained(plot, result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "flossing\[plot\]"'):
        plot(result)
