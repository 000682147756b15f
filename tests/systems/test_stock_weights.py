"""Stock modules whose weights are computed, buffers or shared: measured as they compute."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import flossing

STEPS, UNITS = 12, 4
INPUTS = torch.randn(STEPS, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
KINDS = [nn.RNN, nn.GRU, nn.LSTM]
CELLS = [nn.RNNCell, nn.GRUCell, nn.LSTMCell]


def made(kind):
    torch.manual_seed(1)
    return kind(3, UNITS, dtype=torch.float64)


def hidden_name(module):
    return "weight_hh_l0" if isinstance(module, nn.RNNBase) else "weight_hh"


def old_style(function):
    def apply(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            function(module, hidden_name(module))

    return apply


def pruned_twice(module):
    prune.l1_unstructured(module, hidden_name(module), amount=0.3)
    prune.random_unstructured(module, hidden_name(module), amount=0.3)


CHANGES = {
    "plain": lambda module: None,
    "pruned": lambda module: prune.l1_unstructured(module, hidden_name(module), amount=0.5),
    "pruned twice": pruned_twice,
    "old weight_norm": old_style(nn.utils.weight_norm),
    "old spectral_norm": old_style(nn.utils.spectral_norm),
    "weight_norm": lambda module: parametrizations.weight_norm(module, hidden_name(module)),
    "spectral_norm": lambda module: parametrizations.spectral_norm(module, hidden_name(module)),
    "orthogonal": lambda module: parametrizations.orthogonal(module, hidden_name(module)),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


def with_effective_weights(module):
    """Return a plain module with the weights that a call computes with."""
    plain = made(next(kind for kind in KINDS + CELLS if isinstance(module, kind)))
    kept = {key: value.clone() for key, value in module.state_dict().items()}
    for hook in module._forward_pre_hooks.values():
        hook(module, ())
    effective = {key: getattr(module, key).detach() for key, _ in plain.named_parameters()}
    module.load_state_dict(kept)
    with torch.no_grad():
        for key, parameter in plain.named_parameters():
            parameter.copy_(effective[key])
    return plain


def changed(module):
    """Change what the weights are computed from, so that an attribute from before is stale."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS + CELLS)
@every_change
def test_exponents_are_those_of_the_weights_that_a_call_computes_with(change, kind, training):
    module = made(kind).train(training)
    change(module)
    if not parametrize.is_parametrized(module):
        changed(module)
    found = flossing.lyapunov_spectrum(module, INPUTS, k=2).exponents
    expected = flossing.lyapunov_spectrum(with_effective_weights(module), INPUTS, k=2).exponents
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTMCell])
@every_change
def test_measuring_leaves_the_module_unchanged_to_the_last_bit(change, kind):
    module = made(kind)
    change(module)
    before = copy.deepcopy(module.state_dict())
    flossing.lyapunov_spectrum(module, INPUTS, k=2)
    flossing.flossing_loss(module, INPUTS, k=2).backward()
    flossing.gradient_horizon(module, INPUTS)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "name", ["pruned", "old weight_norm", "old spectral_norm", "spectral_norm"]
)
def test_gradient_reaches_what_the_weights_are_computed_from(name, training):
    module = made(nn.RNN).train(training)
    CHANGES[name](module)
    loss = flossing.flossing_loss(module, INPUTS, k=2)
    parameter, gradient = next(
        (parameter, torch.autograd.grad(loss, parameter)[0])
        for key, parameter in module.named_parameters()
        if "weight_hh" in key and parameter.shape == (UNITS, UNITS)
    )
    direction, step = torch.randn_like(parameter), 1e-6
    losses = []
    # Power iteration changes with the weights, but to second order only once it has converged.
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(direction, alpha=sign * step)
            losses.append(flossing.flossing_loss(module, INPUTS, k=2))
            parameter.sub_(direction, alpha=sign * step)
    numerical = (losses[0] - losses[1]) / (2 * step)
    converged = training is False or name in ("pruned", "old weight_norm")
    torch.testing.assert_close(
        (gradient * direction).sum(), numerical, rtol=1e-5 if converged else 0.5, atol=1e-7
    )


def test_pruned_weights_are_still_zero_after_flossing():
    module = made(nn.GRU)
    prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)
    before = module.weight_hh_l0_orig.detach().clone()
    flossing.floss(module, lambda: INPUTS, k=2, steps=3, lr=1e-2)
    module(INPUTS)
    assert torch.equal(module.weight_hh_l0 == 0, module.weight_hh_l0_mask == 0)
    assert not torch.equal(module.weight_hh_l0_orig, before)


def test_two_backward_passes_through_the_same_module():
    module = made(nn.RNN)
    parametrizations.spectral_norm(module, "weight_hh_l0")
    first, second = (flossing.flossing_loss(module, INPUTS, k=2) for _ in range(2))
    assert torch.equal(first, second)
    (first + second).backward()


def test_weights_that_are_buffers():
    module, plain = made(nn.RNN), made(nn.RNN)
    weight = module.weight_hh_l0.data
    del module.weight_hh_l0
    module.register_buffer("weight_hh_l0", weight)
    found = flossing.lyapunov_spectrum(module, INPUTS, k=2).exponents
    assert torch.equal(found, flossing.lyapunov_spectrum(plain, INPUTS, k=2).exponents)
    flossing.flossing_loss(module, INPUTS, k=2).backward()
    assert module.weight_ih_l0.grad.abs().sum() > 0
    torch.testing.assert_close(module(INPUTS)[0], plain(INPUTS)[0])


def test_all_weights_are_buffers():
    module, plain = made(nn.GRU), made(nn.GRU)
    for name, parameter in list(module.named_parameters()):
        delattr(module, name)
        module.register_buffer(name, parameter.data)
    found = flossing.lyapunov_spectrum(module, INPUTS, k=2).exponents
    assert torch.equal(found, flossing.lyapunov_spectrum(plain, INPUTS, k=2).exponents)
    with pytest.raises(flossing.InvalidInputError, match="system works in torch.float64"):
        flossing.lyapunov_spectrum(module, INPUTS.float(), k=2)


def test_weights_that_are_plain_tensors():
    cell = made(nn.RNNCell)
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    weight = cell.weight_hh.detach()
    del cell.weight_hh
    cell.weight_hh = scale * weight
    flossing.flossing_loss(cell, INPUTS, k=2).backward()
    plain = made(nn.RNNCell)
    plain.weight_hh.data.mul_(0.9)
    found = flossing.lyapunov_spectrum(cell, INPUTS, k=2).exponents
    assert torch.equal(found, flossing.lyapunov_spectrum(plain, INPUTS, k=2).exponents)
    assert scale.grad is not None


def test_weights_shared_between_layers():
    tied, free = (nn.RNN(3, UNITS, 2, dtype=torch.float64) for _ in range(2))
    tied.weight_hh_l1 = tied.weight_hh_l0
    with torch.no_grad():
        for name, parameter in free.named_parameters():
            parameter.copy_(getattr(tied, name))
    losses = [flossing.flossing_loss(module, INPUTS, k=2) for module in (tied, free)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    total = free.weight_hh_l0.grad + free.weight_hh_l1.grad
    torch.testing.assert_close(tied.weight_hh_l0.grad, total)


def shrink_weights(module, _):
    module.get_parameter(hidden_name(module)).data.mul_(0.5)


def test_layers_with_an_unknown_pre_hook_are_refused():
    module = made(nn.GRU)
    handle = module.register_forward_pre_hook(shrink_weights)
    with pytest.raises(flossing.UnsupportedSystemError, match="shrink_weights.*remove the hook"):
        flossing.lyapunov_spectrum(module, INPUTS, k=2)
    handle.remove()
    flossing.lyapunov_spectrum(module, INPUTS, k=2)


def test_a_hook_on_what_a_weight_is_computed_from_is_refused():
    module = made(nn.RNN)
    CHANGES["old weight_norm"](module)
    prune.l1_unstructured(module, "weight_hh_l0_v", amount=0.5)
    with pytest.raises(flossing.UnsupportedSystemError, match="L1Unstructured.*remove the hook"):
        flossing.lyapunov_spectrum(module, INPUTS, k=2)


class OwnPruning(prune.CustomFromMask):
    def __call__(self, module, inputs):
        super().__call__(module, inputs)
        module.bias_hh_l0.data.zero_()


def test_a_known_hook_that_does_something_else_is_refused():
    module = made(nn.RNN)
    OwnPruning.apply(module, "weight_hh_l0", torch.ones(UNITS, UNITS))
    with pytest.raises(flossing.UnsupportedSystemError, match="OwnPruning"):
        flossing.lyapunov_spectrum(module, INPUTS, k=2)


def test_cells_with_unknown_hooks_run_as_they_are():
    state = torch.zeros(2, UNITS, dtype=torch.float64)
    before, after, plain = (made(nn.RNNCell) for _ in range(3))
    mask = 1.0 - 0.5 * torch.eye(UNITS, dtype=torch.float64)
    original = plain.weight_hh.detach().clone()

    # It returns nothing: what a hook returns takes the place of the inputs.
    def mask_weights(cell, _):
        cell.weight_hh.data.copy_(original * mask)

    before.register_forward_pre_hook(mask_weights)
    plain.weight_hh.data.mul_(mask)
    found = flossing.lyapunov_spectrum(before, INPUTS, state, k=2).exponents
    expected = flossing.lyapunov_spectrum(plain, INPUTS, state, k=2).exponents
    torch.testing.assert_close(found, expected)

    after.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    found = flossing.lyapunov_spectrum(after, INPUTS, state, k=2).exponents
    same = made(nn.RNNCell)
    expected = flossing.lyapunov_spectrum(
        lambda x, h: 0.5 * same(x, h), INPUTS, state, k=2
    ).exponents
    torch.testing.assert_close(found, expected)
