"""Compiled code on disk: damaged files, folders that cannot be written to, and no compiler."""

import compileall
import importlib
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numba
import pytest
from numba.core import caching
from numba.core.codegen import CPUCodegen

from flossing import CompiledCodeWarning
from flossing.compiled import disk_cache
from flossing.compiled.compiler import FINGERPRINT, fingerprinted_sources
from flossing.compiled.disk_cache import DiskCache

ROOT = Path(__file__).parent.parent.parent


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


class Doubling:
    """A function small enough to be compiled for every test, and its place on disk."""

    def __init__(self, folder):
        self.cache = folder / "cache"
        self.source = folder / "doubling.py"
        self.source.write_text("def double(x):\n    return 2 * x\n")

    def called(self):
        """Call it as a new process does; return what was said and how much was found on disk."""
        sys.modules.pop("doubling", None)
        importlib.invalidate_caches()
        function = numba.njit(importlib.import_module("doubling").double)
        function._cache = DiskCache(function.py_func)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert function(21) == 42
            assert function(2.5) == 5.0
        said = [str(each.message) for each in caught if each.category is CompiledCodeWarning]
        return said, sum(function.stats.cache_hits.values())


@pytest.fixture
def doubling(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "_SAID", set())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    doubling = Doubling(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(doubling.cache))
    assert doubling.called() == ([], 0)
    assert doubling.called() == ([], 2)
    return doubling


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
    files = list(doubling.cache.rglob(f"*.{suffix}"))
    assert files
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    (said,), hits = doubling.called()
    assert "is damaged" in said
    assert hits == 0
    assert doubling.called() == ([], 2)


def test_missing_files_are_compiled_again_without_a_word(doubling):
    for file in doubling.cache.rglob("*.nbc"):
        file.unlink()
    assert doubling.called() == ([], 0)
    assert doubling.called() == ([], 2)


def test_a_cache_that_can_no_longer_be_written_is_said_once(doubling):
    for file in doubling.cache.rglob("*.nb?"):
        file.unlink()
        # What is to be a file is a folder: not even root can write it.
        file.mkdir()
        (file / "full").touch()
    (said,), hits = doubling.called()
    assert "cannot be kept in" in said
    assert hits == 0
    assert doubling.called() == ([], 0)


def test_a_clock_that_goes_backwards(doubling):
    # Contents decide what is new, not times.
    os.utime(doubling.source, (0, 0))
    for file in doubling.cache.rglob("*.nb?"):
        os.utime(file, (2**33, 2**33))
    assert doubling.called() == ([], 2)
    doubling.source.write_text("def double(x):\n    return x + x\n")
    os.utime(doubling.source, (0, 0))
    assert doubling.called() == ([], 0)
    assert doubling.called() == ([], 2)


def test_code_of_another_processor_is_not_used(doubling, monkeypatch):
    elsewhere = "x86_64", "another", "+another"
    with monkeypatch.context() as other:
        other.setattr(CPUCodegen, "magic_tuple", lambda _: elsewhere)
        assert doubling.called() == ([], 0)
        assert doubling.called() == ([], 2)
    # Neither replaces the other's.
    assert doubling.called() == ([], 2)


def test_without_a_place_for_the_cache_it_is_said_once(doubling, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    (said,), hits = doubling.called()
    assert "cannot be kept on disk" in said
    assert "NUMBA_CACHE_DIR" in said
    assert hits == 0
    assert doubling.called() == ([], 0)


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


PRINT_FINGERPRINT = """
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
    (packed_line,) = run(PRINT_FINGERPRINT, str(ROOT), path=[archive], cwd=tmp_path)
    assert packed_line == f"{FINGERPRINT} {len(fingerprinted_sources())}"


def test_the_package_may_be_byte_code_only(tmp_path):
    shutil.copytree(
        ROOT / "src" / "flossing",
        tmp_path / "flossing",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    compileall.compile_dir(tmp_path / "flossing", quiet=1, legacy=True)
    for file in (tmp_path / "flossing").rglob("*.py"):
        file.unlink()
    (line,) = run(PRINT_FINGERPRINT, str(ROOT), path=[tmp_path], cwd=tmp_path)
    assert line.split()[1] == str(len(fingerprinted_sources()))
