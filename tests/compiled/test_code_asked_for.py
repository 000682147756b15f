"""Which compiled code a measurement asks for, and what it does until that is ready."""

import pytest
import torch
from torch import nn

import flossing
from flossing import InvalidOptionError, UnsupportedSystemError
from flossing.compiled import compiler
from flossing.compiled.ahead_of_time import Code
from flossing.compiled.cells import GruLayer, LstmLayer, ReluLayer, TanhLayer
from flossing.compiled.tangents import Dense
from flossing.compiled.warm_up import KINDS
from flossing.measurement import backends

NEEDS = [
    (nn.RNN(2, 4), TanhLayer),
    (nn.RNN(2, 4, nonlinearity="relu"), ReluLayer),
    (nn.GRU(2, 4, num_layers=2), GruLayer),
    (nn.LSTMCell(2, 4), LstmLayer),
    (nn.LSTM(2, 4, proj_size=3), Dense),
]


@pytest.fixture
def asked(monkeypatch):
    """What code is asked for; none of it is ready."""
    codes = []

    def is_ready(code):
        codes.append(code)
        return False

    monkeypatch.setattr(backends, "is_ready", is_ready)
    return codes


# A ReLU network of four units with random weights may be dead, which is not the question here.
@pytest.mark.filterwarnings("ignore:the frame lost rank")
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("system", "kind"), NEEDS, ids=lambda each: type(each).__name__)
def test_the_code_that_is_asked_for(system, kind, asked):
    inputs = torch.randn(6, 1, 2)
    flossing.lyapunov_spectrum(system, inputs, k=1)
    flossing.lyapunov_spectrum(system.double(), inputs.double(), k=1)
    dtypes = (torch.float32, torch.float64)
    assert asked == [Code(kind, dtype, parallel=False) for dtype in dtypes]


def test_jacobians_and_callables_ask_for_dense_scans(asked):
    flossing.log_growth_rates(torch.eye(3).repeat(5, 1, 1))
    flossing.lyapunov_spectrum(lambda x: 4 * x * (1 - x), state=torch.tensor([0.3]), steps=20)
    assert asked == [Code(Dense, torch.float32, parallel=False)] * 2


@pytest.mark.skipif(compiler.available_threads() < 2, reason="there is only one thread")
@pytest.mark.parametrize("system", [nn.LSTM(2, 16), None], ids=["layer", "jacobians"])
@pytest.mark.parametrize("work", [-1, 0])
def test_parallel_code_is_asked_for_where_it_would_run(system, work, asked, monkeypatch):
    # Exactly as much work as there is, or one multiplication less.
    rows, weights = 2 * 16, 64 * 16 if system else 20 * 20
    monkeypatch.setattr(compiler, "PARALLEL_WORK", rows * weights - work)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    if system:
        flossing.lyapunov_spectrum(system, torch.randn(6, 2, 2), k=16)
    else:
        flossing.log_growth_rates(torch.eye(20).repeat(5, 2, 1, 1), k=16)
    assert [code.parallel for code in asked] == [work == 0]


@pytest.mark.parametrize(("ready", "same"), [(False, "torch"), (True, "compiled")])
@pytest.mark.parametrize("window", ["full", "detach", 3])
def test_the_backend_until_then(ready, same, window, monkeypatch):
    monkeypatch.setattr(backends, "is_ready", lambda code: ready)
    module, inputs = nn.GRU(2, 12), torch.randn(30, 2, 2)
    values = []
    for backend in ("auto", same):
        module.zero_grad()
        loss = flossing.flossing_loss(module, inputs, k=5, state_gradient=window, backend=backend)
        loss.backward()
        values.append([loss.detach(), *(each.grad.clone() for each in module.parameters())])
    for ours, theirs in zip(*values, strict=True):
        assert torch.equal(ours, theirs)


def test_compile_ahead_is_for_one_system_or_all(monkeypatch):
    codes = []
    monkeypatch.setattr(backends, "compile_here", codes.append)
    monkeypatch.setattr(backends, "available_threads", lambda: 4)
    flossing.compile_ahead(nn.GRU(1, 2).double())
    assert codes == [Code(GruLayer, torch.float64, torch.get_num_threads() > 1)]
    codes.clear()
    flossing.compile_ahead(lambda state: state, dtype=torch.float64, threads=2)
    assert codes == [Code(Dense, torch.float64, parallel=True)]
    codes.clear()
    flossing.compile_ahead(threads=1)
    assert codes == [Code(kind, torch.float32, parallel=False) for kind in KINDS]


def test_compile_ahead_refuses_what_cannot_be_measured():
    with pytest.raises(InvalidOptionError, match="float16"):
        flossing.compile_ahead(dtype=torch.float16)
    with pytest.raises(UnsupportedSystemError, match="bidirectional"):
        flossing.compile_ahead(nn.RNN(1, 2, bidirectional=True))
