"""What depends on the processor and the process: shapes of tiles, forks, threads, and the cache."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from numba.core import types
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.extending import intrinsic

import flossing
from flossing.compiled.compiler import fingerprinted_sources

TESTS = Path(__file__).parent

FORKED = """
import os, torch, flossing
from flossing.compiled import compiler

torch.set_num_threads(2)
compiler.PARALLEL_WORK = 0
module, inputs = torch.nn.RNN(1, 32), torch.zeros(20, 1, 1).normal_()

def exponents():
    with torch.no_grad():
        spectrum = flossing.lyapunov_spectrum(module, inputs, k=32, backend="compiled")
        return spectrum.exponents

before = exponents()
child = os.fork()
if child == 0:
    # As PyTorch has it for forked processes: its own threads and Numba's stayed behind.
    torch.set_num_threads(1)
    os._exit(0 if torch.allclose(exponents(), before) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# The tile is chosen at import, by the features of the processor.
MASKED = """
import sys
import llvmlite.binding

features = llvmlite.binding.get_host_cpu_features()
for name in features:
    if name.startswith(tuple(sys.argv[1].split(","))):
        features[name] = False
llvmlite.binding.get_host_cpu_features = lambda: features

import pytest

result = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[3:]])
# Not before, for pytest rewrites what its plugins import, and wants to be first.
from flossing.compiled.compiler import TILE

assert TILE.vector_bytes == int(sys.argv[2]), TILE
sys.exit(result)
"""


def run(script, *arguments, timeout=120, **environment):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        cwd=TESTS.parent.parent,
        timeout=timeout,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_forked_process_scans_in_one_thread():
    process = run(FORKED)
    assert process.stdout.strip() == "0", process.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("without", "vector_bytes"), [("avx512", 32), ("avx,fma,f16c,vaes", 16)])
def test_tiles_of_other_processors(without, vector_bytes, tmp_path):
    files = ["compiled/test_products.py", "compiled/test_orthonormal.py"]
    files.append("measurement/test_equivalence.py")
    process = run(
        MASKED,
        without,
        str(vector_bytes),
        *(str(TESTS.parent / name) for name in files),
        NUMBA_CACHE_DIR=str(tmp_path),
        timeout=1800,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]


def test_without_a_place_for_the_cache_it_compiles_all_the_same():
    script = """
import numpy as np
from flossing.compiled.compiler import compiled

source = "def double(x):\\n    return 2 * x\\n"
names = {}
exec(source, names)
print(compiled(names["double"])(21))
"""
    process = run(script)
    assert process.stdout.strip() == "42", process.stderr


# In a process of its own, where nothing is linked yet.
LINKING = """
import threading
import llvmlite.binding
import numpy as np
from flossing.compiled import compiler, orthonormal

barrier = threading.Barrier(8)

def link():
    barrier.wait()
    compiler.link(np.dtype(np.float32))

threads = [threading.Thread(target=link) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name in ("multiply", "transpose", "orthonormalise"):
    assert llvmlite.binding.address_of_symbol(f"flossing_{name}_float32"), name
"""


def test_many_threads_link_everything_once():
    process = run(LINKING)
    assert (process.returncode, process.stderr) == (0, "")


# Numba's cache looks at the file of a compiled function only. Other files that it uses must be part
# of the fingerprint, or changes there would leave old machine code in use.

PACKAGE = Path(flossing.__file__).parent


def modules_with_compiled_functions():
    for path in sorted(PACKAGE.rglob("*.py")):
        if "flossing.compiled.compiler import" in path.read_text():
            name = ".".join(("flossing", *path.relative_to(PACKAGE).with_suffix("").parts))
            yield importlib.import_module(name)


def plain(value):
    """The Python functions behind what a compiled function may refer to."""
    if isinstance(value, Dispatcher):
        return [inspect.unwrap(value.py_func)]
    if isinstance(value, dict | tuple | list):
        values = value.values() if isinstance(value, dict) else value
        return [function for each in values for function in plain(each)]
    if isinstance(value, FunctionType):
        return [inspect.unwrap(value), *implementations(value)]
    if isinstance(value, type(intrinsic(lambda typing_context: None))):
        return [inspect.unwrap(value)]
    return []


def implementations(function):
    """What `numba.extending.overload` has registered for a function."""
    kind = cpu_target.typing_context._lookup_global(function)
    templates = kind.templates if isinstance(kind, types.Function) else ()
    return [
        inspect.unwrap(each._overload_func) for each in templates if hasattr(each, "_overload_func")
    ]


def names_in(code):
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)
    yield from code.co_names


def imports_of(path):
    """Names that a file imports from this package, and the files that they come from."""
    return {
        alias.asname or alias.name: PACKAGE.parent.joinpath(*node.module.split(".")).with_suffix(
            ".py"
        )
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flossing.")
        for alias in node.names
    }


def files_used(function, seen):
    """The files of this package in which a function, or what it calls, finds anything."""
    if function in seen or not function.__module__.startswith("flossing."):
        return set()
    seen.add(function)
    path = Path(sys.modules[function.__module__].__file__)
    imported, files = imports_of(path), {path}
    for name in names_in(function.__code__):
        if name in imported:
            files.add(imported[name])
        for called in plain(function.__globals__.get(name)):
            files |= files_used(called, seen)
    return files


def files_that_go_unnoticed(covered):
    unnoticed = set()
    for module in modules_with_compiled_functions():
        for value in vars(module).values():
            if isinstance(value, Dispatcher) and value.stats.cache_path:
                function = inspect.unwrap(value.py_func)
                own = Path(sys.modules[function.__module__].__file__)
                unnoticed |= files_used(function, set()) - set(covered) - {own}
    return {str(path.relative_to(PACKAGE)) for path in unnoticed}


def test_the_fingerprint_covers_all_that_is_compiled():
    assert not files_that_go_unnoticed(fingerprinted_sources())


@pytest.mark.parametrize(
    "name",
    ["compiled/cells.py", "compiled/exponential.py", "compiled/tile.py", "scan/boundaries.py"],
)
def test_a_file_missing_from_the_fingerprint_is_noticed(name):
    covered = [path for path in fingerprinted_sources() if path != PACKAGE / name]
    assert name in files_that_go_unnoticed(covered)
