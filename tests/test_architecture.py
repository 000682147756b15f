"""The layers of the packages: a module imports its own layer and lower ones only.

Imports are read from the source, so those inside functions and under TYPE_CHECKING count too. The
one exception is the body of a method named `plot` of a result, which may import `flossing.plots`:
at call time only, so that measuring does not need matplotlib.
"""

import ast
import graphlib
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# From the bottom to the top. A name is a module or folder right below the package; `__init__`, the
# package itself, is what `import flossing` means. Entries of one row are layers side by side, which
# do not import each other.
LAYERS = {
    "flossing": [
        ["errors"],
        ["support"],
        ["tasks"],
        ["scan"],
        ["compiled"],
        ["systems"],
        ["measurement"],
        ["spectrum"],
        ["batches"],
        ["loss"],
        ["floss"],
        ["flosser"],
        ["analysis"],
        ["watch"],
        ["plots"],
        ["report"],
        ["diagnosis"],
        ["cli"],
        ["__main__", "__init__"],
    ],
    "flossing_command": [["__init__"]],
    "flossing_lab": [
        ["runs"],
        ["networks"],
        ["training"],
        ["sweeps"],
        ["demo", "studies"],
        ["cli"],
        ["__init__"],
    ],
}
LARGEST_ROOT = 12
LONGEST_FILE = 400


class Import(NamedTuple):
    """One module imports another; `plotting` inside the body of a method named `plot`."""

    importer: str
    imported: str
    plotting: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


class Tree(NamedTuple):
    """The files of both packages by the dotted names of their modules, and all imports in them."""

    files: dict[str, Path]
    imports: list[Import]


def read(source: Path) -> Tree:
    tree = Tree({}, [])
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        tree.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file

    def visit(node: ast.AST, importer: str, plotting: bool) -> None:
        for name in targets(node, importer, tree.files):
            if name.partition(".")[0] in LAYERS:
                tree.imports.append(Import(importer, name, plotting))
        for child in ast.iter_child_nodes(node):
            in_plot = isinstance(node, ast.ClassDef) and getattr(child, "name", "") == "plot"
            visit(child, importer, plotting or in_plot)

    for name, file in tree.files.items():
        visit(ast.parse(file.read_text(encoding="utf-8")), name, False)
    return tree


def targets(node: ast.AST, importer: str, files: dict[str, Path]) -> list[str]:
    """The modules that a node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        here = importer.split(".") + ["__init__"] * (files[importer].stem == "__init__")
        base = ".".join([*here[: -node.level], *filter(None, [base])])
    # In `from package import name` the name may be a module of its own.
    names = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in files else base for name in names]


def layer_of(module: str) -> tuple[str, str]:
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0] or "__init__"


def library_imports_of_the_laboratory(tree: Tree) -> list[str]:
    return [
        str(each)
        for each in tree.imports
        if layer_of(each.importer)[0] == "flossing" and layer_of(each.imported)[0] == "flossing_lab"
    ]


def imports_of_higher_layers(tree: Tree) -> list[str]:
    ranks = {
        (package, layer): rank
        for package, rows in LAYERS.items()
        for rank, row in enumerate(rows)
        for layer in row
    }
    wrong = [f"{name} has no layer" for name in tree.files if layer_of(name) not in ranks]
    for each in tree.imports:
        upper, lower = layer_of(each.importer), layer_of(each.imported)
        if upper == lower or upper[0] != lower[0] or not {upper, lower} <= ranks.keys():
            continue
        if ranks[upper] <= ranks[lower] and not (each.plotting and lower == ("flossing", "plots")):
            wrong.append(str(each))
    return wrong


def circles(tree: Tree) -> list[str]:
    graph: dict[str, set[str]] = {}
    for each in tree.imports:
        if not each.plotting:
            graph.setdefault(each.importer, set()).add(each.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def files_too_large(tree: Tree) -> list[str]:
    # The root of the library: its modules, and `flossing/__init__.py`, named "flossing".
    root = [name for name, file in tree.files.items() if file.parent.name == "flossing"]
    wrong = [f"flossing has {len(root)} files in its root"] if len(root) > LARGEST_ROOT else []
    for name, file in tree.files.items():
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_FILE:
            wrong.append(f"{name} has {lines} lines")
    return wrong


RULES = [
    library_imports_of_the_laboratory,
    imports_of_higher_layers,
    circles,
    files_too_large,
]


@pytest.fixture(scope="module")
def tree():
    return read(SOURCE)


@pytest.mark.parametrize("rule", RULES)
def test_the_packages_keep_the_rule(rule, tree):
    assert len(tree.imports) > 500
    assert rule(tree) == []


# A rule, and a file that breaks it in a tree that is sound otherwise.
MADE_UP = [
    (library_imports_of_the_laboratory, "flossing/cli.py", "import flossing_lab.cli"),
    (library_imports_of_the_laboratory, "flossing/loss.py", "def f():\n    import flossing_lab"),
    (
        library_imports_of_the_laboratory,
        "flossing/loss.py",
        "if TYPE_CHECKING:\n    from flossing_lab import cli",
    ),
    (imports_of_higher_layers, "flossing/loss.py", "from flossing.plots import figure"),
    (imports_of_higher_layers, "flossing/loss.py", "from flossing import plots"),
    (imports_of_higher_layers, "flossing/loss.py", "from .plots import figure"),
    (imports_of_higher_layers, "flossing/loss.py", "import flossing"),
    (imports_of_higher_layers, "flossing/loss.py", "def plot():\n    import flossing.plots"),
    (imports_of_higher_layers, "flossing/helpers.py", ""),
    (
        imports_of_higher_layers,
        "flossing/loss.py",
        "class Result:\n    def plot(self):\n        import flossing.cli",
    ),
    (imports_of_higher_layers, "flossing_lab/demo/demo.py", "import flossing_lab.studies"),
    (
        imports_of_higher_layers,
        "flossing_lab/runs/grid.py",
        "def f():\n    import flossing_lab.cli",
    ),
    (circles, "flossing/plots/axes.py", "from flossing.plots import figure"),
    (files_too_large, "flossing/loss.py", "\n" * 401),
]


@pytest.mark.parametrize(("rule", "name", "content"), MADE_UP)
def test_a_broken_rule_is_found(tmp_path, rule, name, content):
    sound = {
        "flossing/__init__.py": "from flossing.loss import loss",
        "flossing/loss.py": (
            "class Result:\n    def plot(self):\n        from flossing.plots import figure"
        ),
        "flossing/cli.py": "import flossing.loss",
        "flossing/plots/__init__.py": "from flossing.plots.axes import axes",
        "flossing/plots/axes.py": "import matplotlib",
        "flossing_lab/cli.py": "import flossing, flossing_lab.runs.grid",
        "flossing_lab/demo/demo.py": "",
        "flossing_lab/studies/__init__.py": "",
        "flossing_lab/runs/grid.py": "",
    }
    for file, text in sound.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert [each(read(tmp_path)) for each in RULES] == [[]] * len(RULES)
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert rule(read(tmp_path))


def test_too_many_files_in_the_root_are_found(tmp_path):
    (tmp_path / "flossing").mkdir()
    for index in range(LARGEST_ROOT + 1):
        (tmp_path / "flossing" / f"file_{index}.py").touch()
    assert files_too_large(read(tmp_path)) == ["flossing has 13 files in its root"]
