"""Compiled code is used once it is complete on disk, and compiled in the background until then."""

import os
import subprocess
import sys
import threading
import time
from multiprocessing import spawn

import numba
import pytest
import torch
from filelock import FileLock

from flossing import CompiledCodeWarning
from flossing.compiled import compiler, disk_cache
from flossing.compiled.ahead_of_time import Code, CodeCache, lock_file, markers
from flossing.compiled.cells import GruLayer, LstmLayer
from flossing.compiled.warm_up import KINDS

CODE = Code(GruLayer, torch.float32, parallel=True)

# What stands in for the compiler: it says that it was started, and waits until it may go on.
STAND_IN = """
import os, pathlib, sys, time
here = pathlib.Path({folder!r})
with (here / "started").open("a") as log:
    print(*sys.argv[1:], file=log)
(here / "modules").write_text("\\n".join(sys.path))
(here / "cache").write_text(os.environ.get("NUMBA_CACHE_DIR", ""))
while not (here / "go").exists():
    time.sleep(0.01)
for marker in (here / "go").read_text().split():
    pathlib.Path(marker).touch()
"""


class Background:
    """An empty cache, and a process that only does as it is told."""

    def __init__(self, folder):
        self.folder = folder
        self.program = STAND_IN.format(folder=str(folder))
        self.cache = CodeCache(folder, program=self.program)

    def go_on(self, *complete):
        # At once, for the process looks for the file.
        (self.folder / "text").write_text(" ".join(map(str, complete)))
        (self.folder / "text").rename(self.folder / "go")
        for attempt in self.cache.attempts.values():
            attempt.join(60)
            assert not attempt.is_alive()

    def finish(self, code=CODE):
        self.go_on(*markers(self.folder, code))

    @property
    def started(self):
        log = self.folder / "started"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def background(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "_SAID", set())
    return Background(tmp_path)


@pytest.fixture
def cache(background):
    return background.cache


def test_ready_once_the_cache_is_complete(background, cache):
    assert not cache.is_ready(CODE)
    assert not cache.is_ready(CODE)
    background.finish()
    assert background.started == ["GruLayer float32 True"]
    assert cache.is_ready(CODE)


def test_what_was_ready_once_remains_so(background, cache):
    for marker in markers(background.folder, CODE):
        marker.touch()
    assert cache.is_ready(CODE)
    for marker in markers(background.folder, CODE):
        marker.unlink()
    assert cache.is_ready(CODE)


def test_the_serial_code_is_ready_before_the_parallel_one(background, cache):
    serial = CODE._replace(parallel=False)
    markers(background.folder, CODE)[0].touch()
    assert cache.is_ready(serial)
    assert not cache.is_ready(CODE)
    background.finish()


def test_each_kind_and_precision_has_code_of_its_own(background, cache):
    for marker in markers(background.folder, CODE):
        marker.touch()
    assert cache.is_ready(CODE)
    assert not cache.is_ready(CODE._replace(kind=LstmLayer))
    assert not cache.is_ready(CODE._replace(dtype=torch.float64))
    background.go_on()


def test_a_failure_is_said_once_and_nothing_is_compiled_here(background, cache):
    assert not cache.is_ready(CODE)
    background.go_on()
    with pytest.warns(CompiledCodeWarning, match="failed or was killed.*compile_ahead"):
        assert not cache.is_ready(CODE)
    assert not cache.is_ready(CODE)
    assert len(background.started) == 1
    # Another process may succeed.
    for marker in markers(background.folder, CODE):
        marker.touch()
    assert cache.is_ready(CODE)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_is_said(background, cache):
    started = []
    popen = subprocess.Popen.__init__

    def remembered(process, *arguments, **options):
        popen(process, *arguments, **options)
        started.append(process)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", remembered)
        assert not cache.is_ready(CODE)
        while not background.started:
            time.sleep(0.01)
    started[0].kill()
    cache.attempts[CODE].join(60)
    with pytest.warns(CompiledCodeWarning, match="failed or was killed"):
        assert not cache.is_ready(CODE)


@pytest.mark.parametrize("error", [OSError("no locks available"), NotImplementedError()])
def test_a_file_system_without_locks(background, cache, monkeypatch, error):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert not cache.is_ready(CODE)
    background.finish()
    assert cache.is_ready(CODE)
    done = []
    other = CodeCache(background.folder, stages=(lambda kind, dtype: done.append((kind, dtype)),))
    other.compile_here(Code(LstmLayer, torch.float32, parallel=False))
    assert done == [(LstmLayer, torch.float32)]


def test_an_interpreter_that_does_not_start_is_a_failure(background):
    not_executable = background.folder / "python"
    not_executable.touch()
    cache = background.cache = CodeCache(background.folder, interpreter=lambda: str(not_executable))
    assert not cache.is_ready(CODE)
    background.go_on()
    with pytest.warns(CompiledCodeWarning, match="failed or was killed"):
        assert not cache.is_ready(CODE)


def test_nothing_is_started_while_another_process_compiles(background, cache):
    with FileLock(lock_file(background.folder, CODE)):
        assert not cache.is_ready(CODE)
        assert not cache.is_ready(CODE._replace(kind=LstmLayer))
    assert not cache.attempts
    assert not cache.is_ready(CODE)
    assert cache.attempts
    background.finish()


def test_a_failure_here_still_waits_for_another_process(background, cache):
    assert not cache.is_ready(CODE)
    background.go_on()
    with FileLock(lock_file(background.folder, CODE)):
        assert not cache.is_ready(CODE)
        for marker in markers(background.folder, CODE):
            marker.touch()
    assert cache.is_ready(CODE)


def test_many_threads_start_one_process(background, cache):
    barrier, answers = threading.Barrier(8), []

    def ask():
        barrier.wait()
        answers.append(cache.is_ready(CODE))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    background.finish()
    assert answers == [False] * 8
    assert len(background.started) == 1


def test_without_a_place_for_a_cache_this_process_compiles():
    stages = []
    cache = CodeCache(None, stages=stand_ins(stages))
    assert cache.is_ready(CODE)
    assert not cache.attempts
    cache.compile_here(CODE._replace(parallel=False))
    assert stages == [("serial", GruLayer, torch.float32)]


@pytest.mark.parametrize("missing", ["frozen", "no file", "none"])
def test_without_an_interpreter_this_process_compiles(background, cache, monkeypatch, missing):
    if missing == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        path = None if missing == "none" else str(background.folder / "python")
        monkeypatch.setattr(spawn, "get_executable", lambda: path)
    with pytest.warns(CompiledCodeWarning, match="no Python interpreter"):
        assert cache.is_ready(CODE)
    assert cache.is_ready(CODE)
    assert not cache.attempts


def test_the_background_has_the_same_modules_and_cache(background, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert not cache.is_ready(CODE)
    background.go_on()
    assert (tmp_path / "cache").read_text() == str(tmp_path)
    assert (tmp_path / "modules").read_text().splitlines()[0] == str(tmp_path)


def stand_ins(log):
    """Stages that only say that they were called."""
    return tuple(
        lambda *what, name=name: log.append((name, *what)) for name in ("serial", "parallel")
    )


def test_compiling_here_does_each_stage_once(background):
    stages = []
    cache = CodeCache(background.folder, stages=stand_ins(stages))
    serial = CODE._replace(parallel=False)
    cache.compile_here(serial)
    assert stages == [("serial", GruLayer, torch.float32)]
    cache.compile_here(CODE)
    cache.compile_here(CODE)
    assert stages == [(name, GruLayer, torch.float32) for name in ("serial", "parallel")]
    # Another process finds it complete.
    assert CodeCache(background.folder).is_ready(CODE)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_code_is_named_to_another_process_by_strings(kind, dtype, parallel):
    code = Code(kind, dtype, parallel)
    assert Code.from_names(*code.names()) == code


PARENT = """
import pathlib, sys
import torch
from flossing.compiled.ahead_of_time import Code, CodeCache, markers
from flossing.compiled.cells import GruLayer

folder = pathlib.Path(sys.argv[1])
code = Code(GruLayer, torch.float32, False)
assert not CodeCache(folder, program=sys.argv[2]).is_ready(code)
while not (folder / "started").exists():
    pass
(folder / "text").write_text(str(markers(folder, code)[0]))
"""


def test_the_parent_may_end_first(background):
    folder = str(background.folder)
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PARENT, folder, background.program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    (background.folder / "text").rename(background.folder / "go")
    marker = markers(background.folder, CODE)[0]
    deadline = time.monotonic() + 60
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# In a process of its own, with nothing loaded before.
COMPLETE = """
import sys
import torch, flossing
from torch import nn
from flossing.compiled import ahead_of_time, compiler, backward, forward, layer_scan
from flossing.compiled.warm_up import KINDS, compile_parallel, compile_serial

dtype, parallel = getattr(torch, sys.argv[1]), sys.argv[2] == "parallel"
for kind in KINDS:
    ahead_of_time.compile_here(ahead_of_time.Code(kind, dtype, parallel))
    # Loads what is on disk already.
    for stage in (compile_serial, compile_parallel)[: 1 + parallel]:
        stage(kind, dtype)
functions = [
    each for module in (layer_scan, forward, backward) for name, each in vars(module).items()
    if name.startswith(("run", "scan_"))
]
assert len(functions) == 8
before = [each.signatures for each in functions]
if parallel:
    torch.set_num_threads(2)
    compiler.PARALLEL_WORK = 0
options = [
    {}, {"reorthonormalize": 1}, {"reorthonormalize": 3},
    {"rounding_tolerance": torch.finfo(dtype).eps ** 0.6}, {"state_gradient": "detach"},
    {"state_gradient": 4, "checkpoint_interval": 7},
]
modules = [
    nn.RNN(2, 9), nn.RNN(2, 9, nonlinearity="relu"), nn.RNN(2, 9, bias=False), nn.GRU(2, 9),
    nn.GRU(2, 9, 2), nn.LSTM(2, 9), nn.LSTM(2, 9, proj_size=5), nn.LSTMCell(2, 9),
]
for module in modules:
    module.to(dtype)
    layer_options = {"layer": 1} if getattr(module, "num_layers", 1) > 1 else {}
    for batch in (1, 5):
        inputs = torch.randn(20, batch, 2, dtype=dtype)
        for chosen in options:
            for given in (inputs, inputs.clone().requires_grad_()):
                spectrum = flossing.lyapunov_spectrum(
                    module, given, backend="compiled", **layer_options, **chosen
                )
                spectrum.exponents[:, :2].square().sum().backward()
        with torch.no_grad():
            flossing.lyapunov_spectrum(module, inputs, k=3, backend="compiled")
jacobians = torch.randn(20, 3, 9, 9, dtype=dtype, requires_grad=True)
flossing.log_growth_rates(jacobians.detach(), k=6, backend="compiled")
for given in (jacobians, jacobians.mT):
    flossing.log_growth_rates(given, backend="compiled").exponents.square().sum().backward()
for function, known in zip(functions, before):
    assert function.signatures == known, function.py_func
    if parallel or not function.targetoptions.get("parallel"):
        assert known, function.py_func
"""


@pytest.mark.parametrize(
    ("dtype", "threads"),
    [("float32", "serial"), pytest.param("float64", "parallel", marks=pytest.mark.slow)],
)
def test_nothing_is_left_to_compile(dtype, threads):
    if threads == "parallel" and compiler.available_threads() < 2:
        pytest.skip("there is only one thread")
    process = subprocess.run(
        [sys.executable, "-c", COMPLETE, dtype, threads],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr


FIRST_CALLS = """
import time
import torch, flossing
from flossing.measurement.backends import chosen_backend
from flossing.measurement.growth import torch_growth
from flossing.measurement.compiled_growth import compiled_growth
from flossing.systems.recurrence import driven_map

torch.set_num_threads(1)
module, inputs = torch.nn.RNN(1, 8), torch.zeros(20, 1, 1).normal_()
problem = driven_map(module, inputs, None, steps=None, layer=None, dtype=None)
assert chosen_backend("auto", problem, 3) is torch_growth
flossing.flossing_loss(module, inputs, k=3).backward()
end = time.monotonic() + 300
while chosen_backend("auto", problem, 3) is torch_growth:
    assert time.monotonic() < end
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_the_background_fills_an_empty_cache(tmp_path):
    for script in (
        FIRST_CALLS,
        FIRST_CALLS.replace("is torch_growth\n", "is compiled_growth\n", 1),
    ):
        process = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        )
        assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
