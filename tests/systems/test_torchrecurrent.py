"""Every cell of torchrecurrent, as its authors wrote it, measured and flossed."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jaxtyping
import pytest
import torch
import torchrecurrent
from torch import Tensor
from torchrecurrent import base

import flossing

HIDDEN = 5
FEATURES = 3
STEPS = 10
BATCH = 2
EXPONENTS = 3

CELLS = {
    name: cell
    for name, cell in sorted(vars(torchrecurrent).items())
    if inspect.isclass(cell) and issubclass(cell, base.RecurrentCellBase)
}


@dataclass(frozen=True)
class Special:
    """What a cell needs that most do not."""

    arguments: dict[str, Any] = field(default_factory=dict)
    features: int = FEATURES
    state_sizes: tuple[int, ...] | None = None
    rank: int | None = None


SPECIAL = {
    # The output mixes the input with a new state of the hidden size, so both sizes must agree.
    "IntersectionRNNCell": Special(features=HIDDEN),
    # The new first state is a function of the new second one (h' = c', h' = tanh(c')), so the
    # Jacobian has half the size of the state as its rank.
    "JANETCell": Special(rank=HIDDEN),
    "RANCell": Special(rank=HIDDEN),
    # PyTorch has no second derivative of the default gate, a hard sigmoid; see HARD_SIGMOID.
    "SGUCell": Special(arguments={"gate_nonlinearity": "sigmoid"}),
    "DSGUCell": Special(arguments={"gate_nonlinearity": "sigmoid"}),
    # The second state is the previous input: of the input's size, and forgotten at every step, so
    # only the first state adds to the rank.
    "TGRUCell": Special(state_sizes=(HIDDEN, FEATURES), rank=HIDDEN),
    "TLSTMCell": Special(state_sizes=(HIDDEN, FEATURES), rank=HIDDEN),
}

HARD_SIGMOID = ["SGUCell", "DSGUCell"]

every_cell = pytest.mark.parametrize("name", CELLS)
rank_deficient_cells = pytest.mark.parametrize(
    "name", [name for name, special in SPECIAL.items() if special.rank]
)
hard_sigmoid_cells = pytest.mark.parametrize("name", HARD_SIGMOID)


@dataclass(frozen=True)
class Case:
    """A cell with inputs and an initial state in the cell's own convention."""

    cell: torch.nn.Module
    inputs: Tensor
    state: Any
    rank: int

    @property
    def state_size(self) -> int:
        return sum(block.shape[1] for block in blocks(self.state))

    def frame(self, exponents: int) -> Tensor:
        noise = torch.randn(BATCH, self.state_size, exponents, dtype=self.inputs.dtype)
        return torch.linalg.qr(noise).Q


def make_case(name: str, dtype: torch.dtype, **arguments: Any) -> Case:
    torch.manual_seed(0)
    special = SPECIAL.get(name, Special())
    cell = CELLS[name](special.features, HIDDEN, **(special.arguments | arguments)).to(dtype)
    sizes = special.state_sizes or (HIDDEN, HIDDEN)
    state = tuple(0.3 * torch.randn(BATCH, size, dtype=dtype) for size in sizes)
    if not cell.uses_double_state():
        state, sizes = state[0], sizes[:1]
    inputs = torch.randn(STEPS, BATCH, special.features, dtype=dtype)
    return Case(cell, inputs, state, special.rank or sum(sizes))


def blocks(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def next_state(cell: torch.nn.Module, inputs: Tensor, state: Any) -> Any:
    """Return what recurs; decoupled cells return their output besides."""
    decoupled = (base.DecoupledSingleStateCellBase, base.DecoupledDoubleStateCellBase)
    result = cell(inputs, state)
    return result[1] if isinstance(cell, decoupled) else result


def on_flat_states(cell: torch.nn.Module, inputs: Tensor, like: Any) -> Callable[[Tensor], Tensor]:
    sizes = [block.shape[1] for block in blocks(like)]

    def step(flat: Tensor) -> Tensor:
        split = flat.split(sizes, dim=1)
        state = split[0] if isinstance(like, Tensor) else tuple(split)
        return torch.cat(blocks(next_state(cell, inputs, state)), dim=1)

    return step


def trajectory(case: Case) -> list[Any]:
    """Return the states before every step and after the last one."""
    states = [case.state]
    with torch.no_grad():
        for inputs in case.inputs:
            states.append(next_state(case.cell, inputs, states[-1]))
    return states


def naive_jacobians(case: Case, states: list[Any]) -> Tensor:
    """Return the Jacobian of every step (T, B, n, n), all rows differentiated at once."""
    step = on_flat_states(case.cell, case.inputs.flatten(0, 1), case.state)
    rows = torch.cat([torch.cat(blocks(state), dim=1) for state in states])
    summed = torch.autograd.functional.jacobian(lambda flat: step(flat).sum(0), rows)
    return summed.transpose(0, 1).unflatten(0, (STEPS, BATCH))


def naive_exponents(case: Case, frame: Tensor) -> Tensor:
    growth: list[Tensor] = []
    for jacobian in naive_jacobians(case, trajectory(case)[:-1]):
        frame, triangular = torch.linalg.qr(jacobian @ frame)
        growth.append(triangular.diagonal(dim1=-2, dim2=-1).abs().log())
    return torch.stack(growth).mean(0).sort(descending=True).values


def flat_gradient(exponents: Tensor, cell: torch.nn.Module) -> Tensor:
    gradients = torch.autograd.grad(
        exponents.square().mean(), list(cell.parameters()), materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch):
    """Spare the many steps of flossing the run-time checks, which the other tests do."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_discovery_finds_every_exported_cell():
    exported = {name for name in torchrecurrent.__all__ if name.endswith("Cell")}
    assert set(CELLS) == exported
    assert len(CELLS) >= 30
    assert set(SPECIAL) <= exported


@every_cell
def test_exponents_and_last_state_without_gradients_agree_with_a_naive_run(name: str):
    case = make_case(name, torch.float64)
    frame = case.frame(case.rank)
    with torch.no_grad():
        spectrum = flossing.lyapunov_spectrum(case.cell, case.inputs, case.state, frame=frame)
    expected = naive_exponents(case, frame)
    torch.testing.assert_close(spectrum.exponents, expected, rtol=1e-8, atol=1e-10)
    last, found = trajectory(case)[-1], spectrum.final_state
    assert type(found) is type(last)
    torch.testing.assert_close(blocks(found), blocks(last), rtol=1e-10, atol=1e-12)


@every_cell
def test_exponents_and_gradients_agree_with_the_reference_backend(name: str):
    case = make_case(name, torch.float64)
    fast, reference = (
        flossing.lyapunov_spectrum(
            case.cell, case.inputs, case.state, k=EXPONENTS, backend=backend
        ).exponents
        for backend in ("auto", "reference")
    )
    torch.testing.assert_close(fast, reference, rtol=1e-8, atol=1e-10)
    expected = flat_gradient(reference, case.cell)
    error = flat_gradient(fast, case.cell) - expected
    assert expected.norm() > 0
    assert error.norm() <= 1e-8 * expected.norm()


@pytest.mark.usefixtures("unchecked_shapes")
@every_cell
def test_flossing_lowers_the_loss(name: str):
    case = make_case(name, torch.float32)
    before = [parameter.detach().clone() for parameter in case.cell.parameters()]
    history = flossing.floss(
        case.cell,
        case.inputs[:6],
        k=EXPONENTS,
        steps=8,
        lr=0.01,
        state=case.state,
        frame=case.frame(EXPONENTS),  # the same at every step, so that the losses compare
    )
    assert bool(torch.isfinite(history.loss).all())
    assert not bool(history.skipped.any())
    assert history.loss[-1] < history.loss[0]
    assert not all(map(torch.equal, before, case.cell.parameters()))


@rank_deficient_cells
def test_exponents_beyond_the_rank_of_a_cell_are_minus_infinity(name: str):
    case = make_case(name, torch.float64)
    frame = case.frame(case.state_size)
    with pytest.warns(flossing.LostRankWarning):
        spectrum = flossing.lyapunov_spectrum(case.cell, case.inputs, case.state, frame=frame)
    found = spectrum.exponents.detach()
    expected = naive_exponents(case, frame[..., : case.rank])
    torch.testing.assert_close(found[:, : case.rank], expected, rtol=1e-8, atol=1e-10)
    assert bool(torch.isneginf(found[:, case.rank :]).all())


@rank_deficient_cells
def test_gradients_are_those_of_the_finite_exponents_where_others_are_minus_infinity(name: str):
    case = make_case(name, torch.float64)
    frame = case.frame(case.state_size)
    with pytest.warns(flossing.LostRankWarning):
        whole = flossing.lyapunov_spectrum(case.cell, case.inputs, case.state, frame=frame)
    part = flossing.lyapunov_spectrum(
        case.cell, case.inputs, case.state, frame=frame[..., : case.rank]
    )
    expected = flat_gradient(part.exponents, case.cell)
    error = flat_gradient(whole.exponents[:, : case.rank], case.cell) - expected
    assert expected.norm() > 0
    assert error.norm() <= 1e-8 * expected.norm()


@hard_sigmoid_cells
def test_hard_sigmoid_gates_are_measured_without_gradients(name: str):
    case = make_case(name, torch.float64, gate_nonlinearity="hard_sigmoid")
    frame = case.frame(case.rank)
    with torch.no_grad():
        spectrum = flossing.lyapunov_spectrum(case.cell, case.inputs, case.state, frame=frame)
    expected = naive_exponents(case, frame)
    torch.testing.assert_close(spectrum.exponents, expected, rtol=1e-8, atol=1e-10)


@hard_sigmoid_cells
def test_hard_sigmoid_gates_cannot_be_differentiated(name: str):
    """PyTorch has no derivative of the hard sigmoid's derivative, so no backend can have it."""
    case = make_case(name, torch.float64, gate_nonlinearity="hard_sigmoid")
    with pytest.raises((RuntimeError, flossing.UnsupportedSystemError), match="hardsigmoid"):
        flossing.flossing_loss(case.cell, case.inputs, case.state, k=EXPONENTS).backward()


def test_the_recurrent_highway_cell_cannot_be_imported():
    """Its module is in the package, unexported, and needs a base class that is gone."""
    assert not hasattr(torchrecurrent, "RHNCell")
    with pytest.raises(ImportError, match="BaseRecurrentLayer"):
        importlib.import_module("torchrecurrent.cells.rhn_cell")
