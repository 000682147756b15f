"""Systems in train mode are measured without dropout and batch statistics, and stay in it."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

import flossing


class Cell(nn.Module):
    """A cell with dropout and batch normalisation."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Sequential(nn.Dropout(0.3), nn.Identity())

    def forward(self, inputs, state):
        return torch.tanh(self.norm(self.recurrent(self.dropout(state))) + inputs)

    def one_step(self, inputs, state):
        return self(inputs, state)


def lstm():
    return nn.LSTM(4, 4, num_layers=2, dropout=0.4)


def state_of(system):
    return None if isinstance(system, nn.LSTM) else torch.zeros(3, 4)


def modes(module):
    return [each.training for each in module.modules()]


def mixed(module):
    """Put every second submodule into eval mode."""
    for index, each in enumerate(module.modules()):
        each.training = index % 2 == 0
    return module


INPUTS = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", [lambda m: m.train(), lambda m: m.eval(), mixed])
@pytest.mark.parametrize("make", [lstm, Cell])
def test_values_are_those_of_eval_mode(make, mode):
    def run(mode):
        torch.manual_seed(0)
        system = mode(make())
        before = modes(system)
        buffers = [each.clone() for each in system.buffers()]
        state = state_of(system)
        loss = flossing.flossing_loss(system, INPUTS, state, k=2)
        assert modes(system) == before
        loss.backward()
        history = flossing.floss(system, INPUTS, k=2, steps=2, state=state)
        flosser = flossing.Flosser(system, k=2, before=2, every=1, state=state, piece=10)
        flosser.before_training(INPUTS)
        flosser.step(1, INPUTS)
        assert modes(system) == before
        assert all(map(torch.equal, buffers, system.buffers()))
        return [loss.detach(), history.loss, *system.parameters()]

    assert all(map(torch.equal, run(mode), run(lambda m: m.eval())))


@pytest.mark.parametrize("make", [lstm, Cell])
def test_modes_are_put_back_after_an_error(make):
    system = mixed(make())
    before = modes(system)
    bad = torch.full((20, 3, 4), torch.nan)
    with pytest.raises(flossing.InvalidInputError):
        flossing.floss(system, bad, k=2, steps=2, state=state_of(system))
    with pytest.raises(flossing.InvalidInputError):
        flossing.flossing_loss(system, bad, state_of(system), k=2)
    flosser = flossing.Flosser(system, k=99, before=2, state=state_of(system))
    with pytest.raises(flossing.InvalidOptionError):
        flosser.before_training(INPUTS)
    assert modes(system) == before


def test_the_callers_own_code_runs_in_its_own_mode():
    system, seen = Cell(), []

    def batches():
        seen.append(system.training)
        return INPUTS

    def state(inputs):
        seen.append(system.training)
        return torch.zeros(3, 4)

    flossing.floss(
        system,
        batches,
        k=2,
        steps=2,
        state=state,
        callback=lambda *_: (seen.append(system.training), system.eval()),
    )
    assert seen == [True, True, True, False, False, False]
    assert not system.training


def mean_square(outputs):
    return outputs[-1].square().mean()


ANALYSES = {
    "spectrum": flossing.lyapunov_spectrum,
    "long-term Jacobian": lambda *given: flossing.long_term_jacobian(*given, horizons=[5, 10]),
    "horizon": lambda *given: flossing.gradient_horizon(*given, loss=mean_square),
    "rank": lambda system, *given: flossing.effective_rank(
        system, *given, loss=mean_square, parameters=[next(iter(system.named_parameters()))[0]]
    ),
    "context": flossing.dynamical_context,
    "vectors": flossing.covariant_vectors,
    "closed loop": lambda system, _, state: flossing.lyapunov_spectrum(
        flossing.closed_loop(system, nn.Sequential(nn.Dropout(0.5), nn.Identity())),
        state=(torch.full((2, 3, 4), 0.1),) * 2 if state is None else state,
        steps=20,
    ),
}


def tensors(found):
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict) or dataclasses.is_dataclass(found):
        for value in (found if isinstance(found, dict) else vars(found)).values():
            yield from tensors(value)


@pytest.mark.parametrize("make", [lstm, Cell])
@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)
def test_analyses(analysis, make):
    system = mixed(make())
    before = modes(system)
    found = list(tensors(analysis(system, INPUTS, state_of(system))))
    assert modes(system) == before
    expected = list(tensors(analysis(system.eval(), INPUTS, state_of(system))))
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", ["torch", "compiled", "reference"])
def test_a_checkpointed_segment_is_repeated_as_it_was(backend):
    """In the backward pass the module is in train mode again."""
    cell = Cell().double()
    parameters = [*cell.recurrent.parameters(), *cell.norm.parameters()]
    options = {"backend": backend, "dtype": torch.float64}
    inputs = INPUTS.double()

    def run(**more):
        loss = flossing.flossing_loss(
            cell, inputs, torch.zeros(3, 4).double(), k=2, **options, **more
        )
        return torch.autograd.grad(loss, parameters)

    torch.testing.assert_close(run(checkpoint_interval=6), run())
    assert all(modes(cell))


def test_modules_inside_other_callables():
    """Of a method, a partial function, and an object that is called."""
    cell = Cell()

    class Step:
        def __init__(self):
            self.cell = cell

        def __call__(self, inputs, state):
            return self.cell(inputs, state)

    expected = flossing.lyapunov_spectrum(cell, INPUTS, state_of(cell)).exponents
    for system in (cell.one_step, functools.partial(cell), Step()):
        found = flossing.lyapunov_spectrum(system, INPUTS, state_of(cell)).exponents
        assert torch.equal(found, expected)
        history = flossing.floss(
            system, INPUTS, k=2, steps=1, state=state_of(cell), parameters=[*cell.parameters()]
        )
        assert not history.skipped.any()
        assert all(modes(cell))
        expected = flossing.lyapunov_spectrum(cell, INPUTS, state_of(cell)).exponents


def test_what_is_random_by_itself_is_refused():
    def step(inputs, state):
        return torch.tanh(nn.functional.dropout(state, 0.5) + inputs)

    with pytest.raises(flossing.UnsupportedSystemError, match="random"):
        flossing.lyapunov_spectrum(step, INPUTS, torch.ones(3, 4))
    cell = Cell()
    # A function around a module is not looked into.
    with pytest.raises(flossing.UnsupportedSystemError, match=r"random.*\.eval\(\)"):
        flossing.lyapunov_spectrum(lambda *given: cell(*given), INPUTS, torch.ones(3, 4))


def test_an_optimizer_that_raises_leaves_everything_as_it_was():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("of the optimizer")

    cell = mixed(Cell())
    before = modes(cell)
    with pytest.raises(RuntimeError, match="of the optimizer"):
        flossing.floss(
            cell, INPUTS, k=2, steps=1, state=state_of(cell), optimizer=lambda p: Broken(p, lr=1)
        )
    assert modes(cell) == before
    assert all(parameter.grad is None for parameter in cell.parameters())
