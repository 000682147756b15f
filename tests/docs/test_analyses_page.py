"""The page on analyses: its code runs, and its table of costs is that of the recorded results."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "analyses.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "analyses.py"
    specification = importlib.util.spec_from_file_location("analyses_benchmark", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def document():
    path = ROOT / "benchmarks" / "results" / "analyses.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_table_is_that_of_the_results(benchmark, document):
    assert f"\n\n{benchmark.markdown_table(document)}\n\n" in TEXT
    assert TEXT.count("| `") == len(document["analyses"]) + 1


def test_the_results_are_of_all_analyses_and_sizes(benchmark, document):
    assert list(document["analyses"]) == list(benchmark.ANALYSES)
    assert document["N_T"] == [list(size) for size in benchmark.SIZES]
    assert all(len(row) == len(document["N_T"]) for row in document["analyses"].values())
    runs = [cell["seconds"] for row in document["analyses"].values() for cell in row]
    assert min(map(len, runs)) >= benchmark.FEWEST_RUNS
    assert (document["dtype"], document["threads"]) == ("float32", 1)
    assert document["environment"]["torch"]


@pytest.mark.filterwarnings("ignore::flossing.NumericalWarning")
def test_every_analysis_is_measured(benchmark):
    steps = benchmark.WARM_UP_STEPS
    for name in benchmark.ANALYSES:
        cell = benchmark.measure(name, 16, steps, seconds=0.0)
        assert len(cell["seconds"]) == benchmark.FEWEST_RUNS
        assert cell["mebibytes"] >= 0


def test_the_share_of_a_watcher_is_measured(benchmark):
    found = benchmark.measure_share(6, benchmark.WARM_UP_STEPS, seconds=0.0)
    assert found["training_steps"] == benchmark.LEAST_TRAINING_STEPS
    assert 0 < found["share"] < 1


def test_the_code_of_the_page():
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
    namespace = {}
    exec(compile(code, str(PAGE), "exec"), namespace)
    assert namespace["numbers"]["flossing/exponent_1"] < 0
    assert namespace["free"].exponents.shape == (1, 4)


def test_links_of_the_page_exist():
    links = re.findall(r"\[[^\]]+\]\(((?!http)[^)#]+)\)", TEXT)
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
