import math
import sys

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import flossing
from flossing.plots import new_figure, plot_weight_spectrum


@pytest.fixture(scope="module")
def context():
    return flossing.dynamical_context(nn.GRU(1, 6, num_layers=2), torch.ones(30, 2, 1), k=2)


def radii(ax):
    return {line.get_label(): max(line.get_xdata()) for line in ax.lines}


def test_eigenvalues_of_every_gate_and_two_circles(context):
    ax = plot_weight_spectrum(context)
    assert len(ax.collections) == 6
    for drawn, weights in zip(ax.collections, context.weights.values(), strict=True):
        expected = torch.view_as_real(weights.eigenvalues)
        torch.testing.assert_close(torch.tensor(drawn.get_offsets().tolist()).double(), expected)
    growth = math.exp(context.spectrum.exponents[:, 0].mean())
    assert sorted(radii(ax).values()) == pytest.approx(sorted([1.0, growth]))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == "layer 0, reset"
    assert labels[-2:] == ["unit circle", f"exp(λ₁) = {growth:.3g}"]
    assert ax.get_aspect() == 1.0
    # The whole of both circles is in sight.
    low, high = ax.get_xlim()
    assert low < -1 < 1 < high


@pytest.mark.parametrize("panels", [1, 2])
def test_nothing_is_clipped(context, panels):
    figure = new_figure(5.0 * panels, 3.6)
    for ax in figure.subplots(1, panels, squeeze=False)[0]:
        plot_weight_spectrum(context, ax)
    figure.draw_without_rendering()
    inside = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert 0 <= inside.x0 < inside.x1 <= width
    assert 0 <= inside.y0 < inside.y1 <= height


def test_styles_differ_by_more_than_colour(context):
    ax = plot_weight_spectrum(context)
    shapes = {tuple(map(tuple, drawn.get_paths()[0].vertices)) for drawn in ax.collections}
    assert len(shapes) == 6


def test_a_single_layer_is_not_numbered():
    context = flossing.dynamical_context(nn.RNN(1, 4), torch.ones(30, 1, 1), k=1)
    ax = plot_weight_spectrum(context, Figure().add_subplot())
    assert ax.get_legend().get_texts()[0].get_text() == "hidden"


def test_systems_without_weights_and_without_growth():
    with pytest.warns(flossing.LostRankWarning):
        context = flossing.dynamical_context(lambda h: 0 * h, state=torch.ones(1, 2), steps=5)
    ax = plot_weight_spectrum(context)
    assert not ax.collections
    assert radii(ax) == {"unit circle": 1.0, "exp(λ₁) = 0": 0.0}


def test_missing_matplotlib_is_explained(context, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "flossing\[plot\]"'):
        plot_weight_spectrum(context)
