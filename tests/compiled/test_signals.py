"""A signal whose handler raises ends a compiled call like any other, whenever it comes."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numba.core import types
from numba.core.dispatcher import Dispatcher
from torch import nn

import flossing

PACKAGE = Path(flossing.__file__).parent

INTERRUPTED = """
import random, signal, sys, time
import torch, flossing

class Interrupted(Exception):
    pass

def interrupt(number, frame):
    raise Interrupted

torch.set_num_threads(1)
rnn, inputs = torch.nn.RNN(1, 24), torch.randn(60, 1, 1)
flossing.compile_ahead(rnn, threads=1)
flossing.floss(rnn, inputs, k=20, steps=2, backend="compiled")
signal.signal(signal.SIGALRM, interrupt)
random.seed(int(sys.argv[1]))
count, end = 0, time.monotonic() + 4
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 2e-2))
        while True:
            flossing.floss(rnn, inputs, k=20, steps=20, lr=1e-6, backend="compiled")
    except Interrupted:
        count += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(count)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGALRM")
def test_signals_at_random_moments():
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, f"ended with {process.returncode}: {process.stderr[-2000:]}"
    assert int(process.stdout) > 50


def called_from_python():
    """All compiled functions of modules that have some, once they have been called."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "flossing.compiled.compiler import" in path.read_text():
            name = ".".join(("flossing", *path.relative_to(PACKAGE).with_suffix("").parts))
            for each in vars(importlib.import_module(name)).values():
                if isinstance(each, Dispatcher):
                    yield each


def test_compiled_functions_return_nothing_that_python_has_to_make():
    # Numba makes a named tuple by calling its class. A signal handler may run in there and raise,
    # which the compiled code does not look for: it goes on with a null pointer.
    with torch.no_grad():
        for module in (nn.RNN(2, 4), nn.GRU(2, 4), nn.LSTM(2, 4)):
            flossing.lyapunov_spectrum(module, torch.randn(20, 1, 2), backend="compiled")
            flossing.long_term_jacobian(module, torch.randn(20, 1, 2), horizons=[2])
    compiled = [(each, each.overloads.values()) for each in called_from_python()]
    returned = {
        each.py_func.__qualname__: overload.signature.return_type
        for each, overloads in compiled
        for overload in overloads
        if each.targetoptions.get("nogil")
    }
    assert len(returned) >= 3
    for name, kind in returned.items():
        kinds = kind.types if isinstance(kind, types.BaseTuple) else (kind,)
        assert not isinstance(kind, types.BaseNamedTuple), name
        assert all(
            isinstance(each, types.Number | types.Boolean | types.NoneType | types.Array)
            for each in kinds
        ), name
