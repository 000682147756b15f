"""What the README shows works as it stands there."""

import math
import re
import statistics
import tomllib
from pathlib import Path

from flossing.report.rendering import markdown_table
from flossing.support.formatting import counted, number_in_words
from flossing_lab.runs.grid import grid
from flossing_lab.runs.outcomes import arm_of
from flossing_lab.studies.baselines import study as baselines
from flossing_lab.studies.baselines.arms import BENCHMARKS, FLOSSING
from flossing_lab.studies.horizon import study as horizon
from flossing_lab.studies.horizon.tasks import ROWS
from flossing_lab.studies.page import PAGE, page, picture
from flossing_lab.studies.paper.fig2_condition_number import ARMS
from flossing_lab.studies.record import read_record, read_records, recorded_runs
from flossing_lab.studies.registry import FIGURES, STUDIES
from flossing_lab.studies.schedule.variants import FEW, adders, networks, places

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_code_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    use, watch = BLOCKS
    namespace = {}
    exec(compile(use, str(README), "exec"), namespace)
    assert "tensor" in capsys.readouterr().out
    assert (tmp_path / "spectrum.png").stat().st_size > 5000
    exec(compile(watch, str(README), "exec"), namespace)
    # The first call measures; how many later ones do is a matter of time.
    assert re.match(r"0 -?\d", capsys.readouterr().out)


def test_links_and_pictures_of_the_readme_exist():
    targets = re.findall(r"\]\(((?!http)[^)]+)\)", TEXT)
    assert targets
    assert all((README.parent / target).exists() for target in targets)


def test_condition_numbers_of_the_readme_are_the_recorded_ones():
    record = read_record(README.parent / "docs/reproduction/records/fig2.jsonl")
    most = max(each.setting["k"] for each in record.results.measurements)
    networks = [each for each in record.results.measurements if each.setting["k"] == most]
    setting = networks[0].setting
    median, predicted = (
        [round(statistics.median(take(each.numbers[arm]) for each in networks)) for arm in ARMS]
        for take in (
            lambda numbers: numbers["log10_condition_quartiles"][1][-1],
            lambda numbers: numbers["predicted_log10_condition"][-1],
        )
    )
    caption = " ".join(TEXT.split())
    for sentence in (
        f"a vanilla network of {setting['network_size']} units",
        f"Over {setting['horizons'][-1]} steps its condition number, in the subspace of the "
        f"{most} exponents that are flossed, is 10^{median[0]} before flossing and "
        f"10^{median[1]} after it, in the median over {setting['origins']} origins in each of "
        f"{counted(len(networks), 'network')}; the exponents (dashed) predict 10^{predicted[0]} "
        f"and 10^{predicted[1]}.",
    ):
        assert sentence in caption


def test_the_horizon_of_the_readme_is_the_recorded_one():
    record = read_record(README.parent / "docs/reproduction/records/horizon.jsonl")
    (table,) = horizon.tables(record.results)
    assert markdown_table(table) in TEXT


def test_verdicts_on_the_paper_in_the_readme_are_the_recorded_ones():
    records = read_records(README.parent / "docs/reproduction/records")
    assert FIGURES.keys() <= records.keys()
    verdicts = [
        finding.agrees
        for name, study in FIGURES.items()
        for finding in study.findings(records[name].results)
    ]
    agree, disagree, undecided = (verdicts.count(each) for each in (True, False, None))
    assert (
        f"Of {len(verdicts)} statements {agree} agree, {disagree} disagree and {undecided} are "
        "undecided" in TEXT
    )


def test_what_flossing_loses_and_gains_in_the_readme_is_recorded():
    results = read_record(README.parent / "docs/reproduction/records/baselines.jsonl").results
    runs = {each.configuration.digest: each for each in results.runs}
    caption = " ".join(TEXT.split())
    xor, _, copied, added, _ = (
        {name: arm_of(arm, runs) for name, arm in benchmark.configurations().items()}
        for benchmark in BENCHMARKS
    )
    flossed, modrelu = (copied[name] for name in (FLOSSING, "modReLU, orthogonal"))
    quiet = "orthogonal initialisation, small inputs"
    for sentence in (
        f"On copy memory flossing loses: {100 * flossed.median_accuracy:.0f} % of the symbols "
        f"where modReLU has {100 * modrelu.median_accuracy:.1f} %",
        f"given all epochs, they have {100 * xor[quiet].median_accuracy:.1f} % on temporal XOR and "
        f"{100 * copied[quiet].median_accuracy:.1f} % on copy memory",
        f"with an error of {number_in_words(added['long expressive memory'].median_loss, 2)} after "
        "four times as long",
    ):
        assert sentence in caption
    ratio = added["long expressive memory"].seconds / added[FLOSSING].seconds
    assert round(ratio) == 4
    verdicts = {
        each.claim.partition(" does")[0]: each.agrees for each in baselines.findings(results)
    }
    lost = [claim for claim, agrees in verdicts.items() if agrees is False]
    undecided = [claim for claim, agrees in verdicts.items() if agrees is None]
    assert lost == ["copy memory, 100 steps: at equal wall-clock time flossing"]
    assert len(undecided) == 2
    assert all(claim.startswith("adding, 200 steps") for claim in undecided)


def test_what_small_input_weights_do_in_the_readme_is_recorded():
    runs = recorded_runs(README.parent / "docs/reproduction/records")
    caption = " ".join(TEXT.split())

    def medians(arms):
        found = {name: arm_of(arm, runs) for name, arm in arms.items()}
        assert all(len(arm.runs) == 3 for arm in found.values() if arm)
        return {name: f"{100 * arm.median_accuracy:.1f} %" for name, arm in found.items() if arm}

    loud, loud_first, quiet, quiet_first = (
        value for name, value in medians(places(seeds=3)).items() if "noise" in name
    )
    assert (
        f"held through 200 steps of noise, digits come to {quiet} rather than {loud}, in the "
        f"median of three networks, and to {quiet_first} rather than {loud_first} flossed at their "
        "beginning only"
    ) in caption
    named = medians(networks(seeds=3))
    xor = [value for name, value in named.items() if name.startswith("temporal XOR")]
    copied = [value for name, value in named.items() if name.startswith("copy memory")]
    assert f"Over 70 steps XOR has {xor[1]} without them and {xor[3]} with them" in caption
    assert f"With input weights of 0.3 it has {copied[1]}" in caption
    assert f"XOR over 70 steps then has {xor[-1]} and copy memory {copied[-1]}." in caption


def test_what_is_said_of_adding_in_the_readme_is_recorded():
    runs = recorded_runs(README.parent / "docs/reproduction/records")
    caption = " ".join(TEXT.split())
    errors = [arm_of(arm, runs).median_loss for arm in adders(seeds=3).values()]
    plain, flossed, *_ = (number_in_words(each, 2) for each in errors)
    assert f"comes to a mean squared error of {plain}; flossed, it stays at {flossed}" in caption
    assert f"{FEW} exponents or weights that start from the identity" in caption
    assert max(errors[1:]) - min(errors[1:]) < 0.01
    summing = [row.configurations() for row in ROWS if row.architecture.cell == "relu"]
    without, flossed = (
        [arm_of(row[arm], runs) for row in summing] for arm in ("without", "default")
    )
    told = number_in_words(without[0].median_loss, 2)
    assert f"Over 100 steps it comes to {told} without flossing" in caption
    lost = [sum(math.isinf(each) for each in arm.losses) for arm in without[1:]]
    assert f"{lost[0]} and {lost[1]} networks of five end at infinite errors" in caption
    medians = [number_in_words(arm.median_loss, 2) for arm in flossed[1:]]
    assert (
        f"with that exponent flossed the median is {medians[0]} and {medians[1]}, over 400 steps "
        "with two networks of five above 0.01" in caption
    )
    assert sum(each > 0.01 for each in flossed[-1].losses) == 2


def test_the_page_of_the_rerun_follows_from_its_records():
    folder = README.parent / "docs/reproduction"
    records = read_records(folder / "records")
    assert (folder / PAGE).read_text(encoding="utf-8") == page(records, STUDIES)
    drawn = [STUDIES[name] for name in records if STUDIES[name].draw is not None]
    assert all((folder / picture(study)).exists() for study in drawn)


def test_the_grid_of_the_readme_can_be_run():
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    configurations = grid(tomllib.loads(block))
    assert len(configurations) == 2 * 2 * 5
