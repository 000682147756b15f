"""What depends on the processor and the process: shapes of tiles, forks, threads, and the cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
