"""Figures 3 to 6: runs, figures and findings, for given outcomes."""

import pytest
from made_up import results

from flossing_lab.runs.differences import flossing_in_words
from flossing_lab.runs.grid import grid
from flossing_lab.runs.setups import as_released
from flossing_lab.studies.paper import (
    fig3_before_training,
    fig4_during_training,
    fig5_number_of_exponents,
    fig6_architectures,
)
from flossing_lab.studies.registry import FIGURES, STUDIES
from flossing_lab.studies.study import Measurement
from flossing_lab.studies.training_runs import TrainingSize

SMALL = TrainingSize(delays=(10, 20, 40), seeds=3, epochs=4, network_size=16, evaluate_every=2)
REACH = {"none": 10, "before": 20, "published": 40, "default": 40}


def by_schedule(configuration):
    return REACH[flossing_in_words(configuration).partition(",")[0]]


def nowhere(configuration):
    return 0


def directions(none, before):
    def measurement(name, seed):
        ratios = {"none": none, "before": before}
        return Measurement(
            setting={"name": name, "seed": seed, "delay": 40},
            numbers={
                arm: {"singular_values": [1.0, 1e-20], "participation_ratio": ratio}
                for arm, ratio in ratios.items()
            },
            seconds=0.0,
        )

    return [
        measurement(name, seed) for name in fig6_architectures.ARCHITECTURES for seed in range(3)
    ]


def test_names_and_sizes():
    assert list(FIGURES) == ["fig1", "fig2", "fig3", "fig4", "fig5", "fig6"]
    assert set(FIGURES) <= set(STUDIES)
    for study in FIGURES.values():
        full, quick = (
            len(study.configurations.get(name, ())) + len(study.settings.get(name, ()))
            for name in ("full", "quick")
        )
        assert full > quick > 0
        assert study.statement
        assert study.caption


def test_number_of_runs_and_measurements():
    quick = {
        name: len(study.configurations.get("quick", ())) + len(study.settings.get("quick", ()))
        for name, study in STUDIES.items()
    }
    assert quick == {
        "fig1": 3 * 10 + 3 * 3,
        "fig2": 3,
        "fig3": 2 * 4 * 2 * 3,
        "fig4": (4 + 3) * 4 * 3,
        "fig5": 3 * 6 * 3,
        "fig6": 2 * 3 * 2 * 2 * 3 + 3 * 3,
        "horizon": 3 * 5 * 14,
        "schedule": (19 + 3 + 4 + 2 + 8 + 6) * 3,
        "windows": 11 * 3 * 3,
        "baselines": 2 * 11 * 5,
        "step-size": 2 * 2,
    }
    assert len(STUDIES["horizon"].configurations["full"]) == 3 * 5 * 21
    assert len(STUDIES["baselines"].configurations["full"]) == 5 * 11 * 5


def test_the_full_size_is_the_papers():
    for name in ("fig3", "fig4", "fig5", "fig6"):
        runs = STUDIES[name].configurations["full"]
        assert {each.training.epochs for each in runs} == {10_000}
        assert {each.training.max_gradient_norm for each in runs} == {0.03}
        assert {(each.training.patience, each.training.solved) for each in runs} == {(3, 0.99)}
        assert {each.task.steps for each in runs} == {300}
        assert {each.seed for each in runs} >= set(range(3))


@pytest.mark.parametrize(
    ("task", "delay", "first"), [("temporal-xor", 70, 0), ("spatial-xor", 40, 20)]
)
def test_the_full_size_begins_with_the_runs_on_which_a_statement_hangs(task, delay, first):
    document = {
        "setup": "released",
        "task": f"{task}:delay={delay}",
        "seeds": 10,
        "floss": ["published", "before"],
        "evaluate_every": 100,
        "gradients": True,
        "training": {"epochs": 10_000, "patience": 3, "solved": 0.99},
    }
    full = list(map(as_released, STUDIES["fig4"].configurations["full"]))
    assert full[first : first + 20] == grid(document)
    assert len({each.digest for each in full}) == len(full)


def test_figures_share_runs():
    before, during, number = (
        {each.digest for each in STUDIES[name].configurations["quick"]}
        for name in ("fig3", "fig4", "fig5")
    )
    # Temporal XOR of three networks: four delays with two schedules; three with none and k = 75.
    assert len(before & during) == 3 * 4 * 2
    assert len(during & number) == 3 * 3 * 2


def test_figure_3():
    told = results(fig3_before_training.configurations(SMALL), by_schedule)
    figure = fig3_before_training.draw(told)
    assert [axes.get_title() for axes in figure.axes] == [
        "Delayed copy, d = 40",
        "Delayed copy, after training",
        "Temporal XOR, d = 40",
        "Temporal XOR, after training",
    ]
    findings = fig3_before_training.findings(told)
    # Neither solves d = 40, but flossing reaches 20 rather than 10.
    assert [finding.agrees for finding in findings] == [None, True, None, True]
    assert "not flossed, d=10: 3 of 3, d=20: 0 of 3" in findings[1].found
    assert len(fig3_before_training.STUDY.tables(told)[0].rows) == 2 * 3 * 2


def test_figure_3_without_any_effect():
    told = results(fig3_before_training.configurations(SMALL), nowhere)
    verdicts = [finding.agrees for finding in fig3_before_training.findings(told)]
    assert verdicts == [None] * 4


def test_figure_4():
    told = results(fig4_during_training.configurations(SMALL, SMALL), by_schedule)
    figure = fig4_during_training.draw(told)
    assert len(figure.axes) == 8
    for accuracies, successes, epochs, delays in (figure.axes[:4], figure.axes[4:]):
        # A line of medians and points for each of four schedules; three networks at the last delay.
        assert len(accuracies.lines) == 4 * 2
        assert len(successes.containers) == 4
        assert len(epochs.lines) == 4 * 3
        assert len(delays.lines) == 4
        assert epochs.get_title().endswith("d = 40")
    findings = fig4_during_training.findings(told)
    compared = [True, True, None, True]
    # Three of three at d = 40 are too few for "most"; d = 70 was not run.
    assert [finding.agrees for finding in findings] == [*compared, None, *compared]
    assert "0.001 not flossed, 0.1 flossed before training" in findings[3].found


@pytest.mark.parametrize(
    ("published", "before", "agrees"), [(70, 40, [True, True]), (40, 70, [False, False])]
)
def test_figure_4_at_the_deciding_delay(published, before, agrees):
    reach = {"published": published, "before": before}
    runs = [each for each in STUDIES["fig4"].configurations["full"][:20] if each.task.delay == 70]
    told = results(runs, lambda each: reach[flossing_in_words(each)])
    most, few, further = fig4_during_training.findings(told)
    assert [most.agrees, few.agrees] == agrees
    assert further.agrees is agrees[0]
    assert ("(published), 10 of 10 (69 to 100 %)" in most.found) is agrees[0]
    fig4_during_training.draw(told)


def test_figure_5():
    configurations = fig5_number_of_exponents.configurations((0, 4, 12, 16), SMALL)
    assert {each.flossing and each.flossing.k for each in configurations} == {None, 4, 12, 16}
    told = results(configurations, lambda each: 2.5 * (each.flossing.k if each.flossing else 4))
    figure = fig5_number_of_exponents.draw(told)
    delays, sizes = figure.axes
    assert len(delays.lines) == 4 * 2
    assert [line.get_xdata().tolist() for line in sizes.lines] == [[0, 4, 12, 16]] * 3
    assert [finding.agrees for finding in fig5_number_of_exponents.findings(told)] == [True, True]
    turned = results(
        configurations, lambda each: 40 if each.flossing and each.flossing.k == 4 else 0
    )
    assert [finding.agrees for finding in fig5_number_of_exponents.findings(turned)] == [
        False,
        False,
    ]


@pytest.mark.parametrize(("before", "agrees"), [(3.0, True), (1.0, False)])
def test_figure_6(before, agrees):
    configurations = fig6_architectures.configurations(SMALL, SMALL)
    told = results(configurations, by_schedule, directions(2.0, before))
    figure = fig6_architectures.draw(told)
    assert len(figure.axes) == 9
    assert figure.axes[1].get_title() == "GRU, temporal XOR"
    assert figure.axes[3].get_title() == "LSTM, delayed copy"
    labels = [text.get_text() for text in figure.axes[6].get_legend().get_texts()]
    assert labels == ["not flossed: 2.0", f"flossed before training: {before}"]
    findings = fig6_architectures.findings(told)
    assert [finding.agrees for finding in findings] == [True] * 6 + [agrees] * 3
    assert findings[1].claim.startswith("GRU, temporal XOR")
    assert all(ratio in findings[6].found for ratio in ("2.00", f"{before:.2f}"))
