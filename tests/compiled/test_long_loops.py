"""Long compiled loops return to Python between pieces, where an interrupt is heard."""

import time

import pytest
import torch

import flossing
from flossing.compiled import compiler, scan_interface
from flossing.compiled.tangents import Dense
from flossing.compiled.warm_up import compile_serial


def test_no_call_of_a_long_scan_takes_long(monkeypatch):
    compile_serial(Dense, torch.float32)
    seconds = []

    def timed(threads, function, *arguments):
        start = time.perf_counter()
        try:
            return in_threads(threads, function, *arguments)
        finally:
            seconds.append(time.perf_counter() - start)

    in_threads = compiler.in_threads
    monkeypatch.setattr(scan_interface, "in_threads", timed)
    jacobians = torch.eye(100).expand(1500, 1, 100, 100).clone().requires_grad_()
    # One interval, and as many as there are steps.
    for interval in (1500, 1):
        seconds.clear()
        spectrum = flossing.log_growth_rates(
            jacobians, backend="compiled", reorthonormalize=interval
        )
        torch.autograd.grad(spectrum.exponents.sum(), jacobians)
        assert len(seconds) >= 6
        assert max(seconds) < 1


def results(kind, dtype, **options):
    torch.manual_seed(0)
    system = getattr(torch.nn, kind)(2, 6, dtype=dtype)
    inputs = torch.randn(50, 3, 2, dtype=dtype)
    spectrum = flossing.lyapunov_spectrum(system, inputs, k=4, backend="compiled", **options)
    gradients = torch.autograd.grad(spectrum.exponents.square().sum(), system.parameters())
    return [spectrum.exponents, spectrum.log_growth, spectrum.final_frame, *gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "GRUCell"])
@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("options", [{}, {"reorthonormalize": 5}, {"state_gradient": 4}])
def test_results_do_not_depend_on_how_many_calls_a_loop_takes(
    monkeypatch, dtype, kind, steps, options
):
    expected = results(kind, dtype, **options)
    for module in ("scan_interface", "layer_interface", "compiler"):
        name = f"flossing.compiled.{module}.steps_per_call"
        monkeypatch.setattr(name, lambda _: steps, raising=False)
    assert compiler.windows(10, 1)[0] == (0, steps)
    for found, wanted in zip(results(kind, dtype, **options), expected, strict=True):
        assert torch.equal(found, wanted)
