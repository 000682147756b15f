"""Hooks of all modules, and weights drawn at random, are not passed over."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import flossing
from flossing import UnsupportedSystemError

INPUTS = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layer(kind=nn.GRU):
    torch.manual_seed(0)
    return kind(3, 5).double()


def test_hooks_of_all_modules_before_the_forward_are_refused():
    hook = nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    with hook, pytest.raises(UnsupportedSystemError, match="pre-hook"):
        flossing.lyapunov_spectrum(layer(), INPUTS)
    flossing.lyapunov_spectrum(layer(), INPUTS)


def test_cells_run_with_hooks_of_all_modules():
    cell, state = layer(nn.RNNCell), torch.zeros(2, 5, dtype=torch.float64)
    expected = flossing.lyapunov_spectrum(
        lambda x, h: 0.5 * cell(x, h), INPUTS, state, k=2
    ).exponents
    with nn.modules.module.register_module_forward_hook(lambda _, __, after: 0.5 * after):
        found = flossing.lyapunov_spectrum(cell, INPUTS, state, k=2).exponents
    torch.testing.assert_close(found, expected)


def test_hooks_after_the_forward_of_a_layer_do_not_matter():
    module = layer()
    expected = flossing.lyapunov_spectrum(module, INPUTS).exponents
    module.register_forward_hook(lambda *_: None)
    assert torch.equal(flossing.lyapunov_spectrum(module, INPUTS).exponents, expected)


class Noise(nn.Module):
    def forward(self, weight):
        return weight + torch.randn_like(weight)


def test_random_weights_are_refused():
    module = layer()
    parametrize.register_parametrization(module, "weight_hh_l0", Noise())
    before = torch.get_rng_state()
    with pytest.raises(UnsupportedSystemError, match="drawn at random.*remove"):
        flossing.lyapunov_spectrum(module, INPUTS)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_with_dropout_are_those_of_eval_mode():
    module = layer()
    parametrize.register_parametrization(module, "weight_hh_l0", nn.Dropout(0.3))
    found = flossing.lyapunov_spectrum(module, INPUTS).exponents
    assert torch.equal(found, flossing.lyapunov_spectrum(module.eval(), INPUTS).exponents)
