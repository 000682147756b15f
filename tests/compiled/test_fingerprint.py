"""The fingerprint of the compiled code covers every file that it is made of.

Numba's cache looks at the file of a compiled function only. Changes in other files that it uses
would leave old machine code in use, if these were not part of the fingerprint.
"""

import ast
import importlib
import inspect
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
    # Numba reads its registries when it first compiles.
    cpu_target.typing_context.refresh()
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
