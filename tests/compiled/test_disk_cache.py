"""Compiled code on disk: damaged files, folders that cannot be written to, and no compiler."""

import compileall
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# Small enough to be compiled for every test.
COMPILED = """
import sys, warnings
from flossing.compiled.disk_cache import DiskCache
import numba, numpy
import doubling

function = numba.njit(doubling.double)
function._cache = DiskCache(doubling.double)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert function(21) == 42
    assert function(2.5) == 5.0
for warning in caught:
    print(warning.category.__name__, warning.message)
print("hits", sum(function.stats.cache_hits.values()))
"""


def run(script, *arguments, path=(), cwd=ROOT, **environment):
    modules = os.pathsep.join(map(str, [*path, ROOT / "src"]))
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": modules} | environment,
        cwd=cwd,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout.splitlines()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a module and the compiled code of its function."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "doubling.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "cache").mkdir()
    assert called(folder, folder / "cache") == ["hits 0"]
    return folder


def called(folder, cache):
    return run(COMPILED, path=[folder], cwd=folder, NUMBA_CACHE_DIR=str(cache))


@pytest.fixture
def doubling(prepared, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(prepared / "cache", cache)
    return lambda: called(prepared, cache), cache


def empty(_):
    return b""


def cut(contents):
    return contents[: len(contents) // 2]


def garbage(contents):
    return bytes(reversed(contents))


def one_bit(contents):
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [empty, cut, garbage, one_bit])
def test_damaged_files_are_compiled_again_and_said_once(doubling, damage, suffix):
    call, cache = doubling
    files = list(cache.rglob(f"*.{suffix}"))
    assert files
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    said, hits = call()
    assert said.startswith("CompiledCodeWarning compiled code in ")
    assert "damaged" in said
    assert hits == "hits 0"
    if damage is cut:
        assert call() == ["hits 2"]


def test_missing_files_are_compiled_again_without_a_word(doubling):
    call, cache = doubling
    for file in cache.rglob("*.nbc"):
        file.unlink()
    assert call() == ["hits 0"]
    assert call() == ["hits 2"]


def test_a_cache_that_can_no_longer_be_written_is_said(doubling):
    call, cache = doubling
    for file in cache.rglob("*.nb?"):
        file.unlink()
        # What is to be a file is a folder: not even root can write it.
        file.mkdir()
        (file / "full").touch()
    lines = call()
    assert lines[0].startswith("CompiledCodeWarning compiled code cannot be kept in")
    assert lines[1:] == ["hits 0"]


WITHOUT_COMPILER = """
import warnings
import torch, flossing

flossing.compile_ahead()
jacobians = torch.eye(3).expand(4, 1, 3, 3)
automatic = flossing.lyapunov_spectrum(torch.nn.GRU(1, 3), torch.randn(9, 1, 1))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        assert flossing.log_growth_rates(jacobians, backend="compiled").exponents.abs().max() < 1e-6
print(len(caught), caught[0].category.__name__, caught[0].message)
"""


def test_without_a_compiler_pytorch_operations_are_used():
    (line,) = run(WITHOUT_COMPILER, NUMBA_DISABLE_JIT="1")
    assert line.startswith("1 CompiledCodeWarning backend='compiled' uses PyTorch operations")


IMPORTED = """
import builtins, os, sys, tempfile

opened = []

def audit(event, arguments):
    if event == "open" and isinstance(arguments[2], int):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            opened.append(arguments[0])
    elif event in ("os.mkdir", "os.rename", "os.remove", "tempfile.mkstemp"):
        opened.append((event, *arguments))

import torch, numba
sys.addaudithook(audit)
import flossing, flossing.compiled.warm_up
print([each for each in opened if str(each) != os.devnull])
"""


def test_an_import_writes_no_files(tmp_path):
    lines = run(IMPORTED, NUMBA_CACHE_DIR=str(tmp_path), PYTHONDONTWRITEBYTECODE="1")
    assert lines == ["[]"]
    assert not list(tmp_path.iterdir())


FINGERPRINT = """
import sys, warnings
import torch, flossing
from flossing.compiled.compiler import FINGERPRINT, fingerprinted_sources

assert not flossing.__file__.startswith(sys.argv[1]), flossing.__file__
print(FINGERPRINT, len(fingerprinted_sources()))
spectrum = flossing.log_growth_rates(torch.eye(2).expand(3, 1, 2, 2), backend="torch")
"""


def test_the_package_may_be_in_an_archive(tmp_path):
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in (ROOT / "src" / "flossing").rglob("*.py"):
            packed.write(file, file.relative_to(ROOT / "src"))
    (packed_line,) = run(FINGERPRINT, str(ROOT), path=[archive], cwd=tmp_path)
    (plain,) = run(FINGERPRINT, "nowhere")
    assert packed_line == plain


def test_the_package_may_be_byte_code_only(tmp_path):
    shutil.copytree(
        ROOT / "src" / "flossing",
        tmp_path / "flossing",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    compileall.compile_dir(tmp_path / "flossing", quiet=1, legacy=True)
    for file in (tmp_path / "flossing").rglob("*.py"):
        file.unlink()
    (line,) = run(FINGERPRINT, str(ROOT), path=[tmp_path], cwd=tmp_path)
    (plain,) = run(FINGERPRINT, "nowhere")
    assert line.split()[1] == plain.split()[1]


NO_PLACE = """
import warnings
import numba, doubling
from flossing.compiled.disk_cache import DiskCache

class Homeless(DiskCache):
    _files = numba.core.caching.NullCache()

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        function = numba.njit(doubling.double)
        function._cache = Homeless(doubling.double)
        assert function(21) == 42
(said,) = caught
print(said.category.__name__, said.message)
"""


def test_without_a_place_for_the_cache_it_is_said_once(prepared):
    (line,) = run(NO_PLACE, path=[prepared], cwd=prepared)
    assert line.startswith("CompiledCodeWarning compiled code cannot be kept on disk")
    assert "NUMBA_CACHE_DIR" in line
