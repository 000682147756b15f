"""Figures 3 to 6: what is run, drawn, and said about made-up outcomes."""

import pytest
from made_up import results

from flossing_lab.runs.differences import flossing_in_words
from flossing_lab.studies.paper import (
    fig3_before_training,
    fig4_during_training,
    fig5_number_of_exponents,
    fig6_architectures,
)
from flossing_lab.studies.registry import FIGURES, STUDIES
from flossing_lab.studies.study import Measurement
from flossing_lab.studies.training_size import TrainingSize

SMALL = TrainingSize(delays=(10, 20, 40), seeds=2, epochs=4, network_size=16, evaluate_every=2)
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

    return [measurement(name, seed) for name in fig6_architectures.NAMES for seed in range(2)]


def test_names_and_sizes():
    assert list(FIGURES) == ["fig1", "fig2", "fig3", "fig4", "fig5", "fig6"]
    assert set(FIGURES) <= set(STUDIES)
    for study in FIGURES.values():
        full, quick = (
            study.configurations(study.sizes[name]) + study.settings(study.sizes[name])
            for name in ("full", "quick")
        )
        assert len(full) > len(quick) > 0
        assert study.statement
        assert study.caption


def test_the_full_size_is_the_papers():
    for name in ("fig3", "fig4", "fig5", "fig6"):
        runs = STUDIES[name].configurations(STUDIES[name].sizes["full"])
        assert {each.training.epochs for each in runs} == {10_000}
        assert {each.training.max_gradient_norm for each in runs} == {0.03}
        assert {each.task.steps for each in runs} == {300}
        assert {each.seed for each in runs} == set(range(10))


def test_figures_share_runs():
    before, during, number = (
        {each.digest for each in STUDIES[name].configurations(STUDIES[name].sizes["quick"])}
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
    assert [finding.agrees for finding in findings] == [False, True, False, True]
    assert "Not flossed, d=10: 2 of 2, d=20: 0 of 2" in findings[1].found
    assert len(fig3_before_training.STUDY.tables(told)[0].rows) == 2 * 3 * 2


def test_figure_3_without_any_effect():
    told = results(fig3_before_training.configurations(SMALL), nowhere)
    verdicts = [finding.agrees for finding in fig3_before_training.findings(told)]
    assert verdicts == [False, None, False, None]


def test_figure_4():
    size = fig4_during_training.Size(temporal=SMALL, spatial=SMALL)
    told = results(fig4_during_training.configurations(size), by_schedule)
    figure = fig4_during_training.draw(told)
    assert len(figure.axes) == 6
    for accuracies, epochs, delays in (figure.axes[:3], figure.axes[3:]):
        # A line of medians and points for each of four schedules; two networks at the last delay.
        assert len(accuracies.lines) == 4 * 2
        assert len(epochs.lines) == 4 * 2
        assert len(delays.lines) == 4
        assert epochs.get_title().endswith("d = 40")
    findings = fig4_during_training.findings(told)
    assert [finding.agrees for finding in findings] == [True, True, True, None] * 2
    assert "0.001 not flossed, 0.1 flossed before training" in findings[2].found


def test_figure_5():
    size = fig5_number_of_exponents.Size(k=(0, 4, 12, 16), training=SMALL)
    configurations = fig5_number_of_exponents.configurations(size)
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
    size = fig6_architectures.Size(
        training=SMALL, gradients=fig6_architectures.QUICK.gradients, seeds=2
    )
    configurations = fig6_architectures.configurations(size)
    told = results(configurations, by_schedule, directions(2.0, before))
    figure = fig6_architectures.draw(told)
    assert len(figure.axes) == 9
    assert figure.axes[1].get_title() == "GRU, temporal XOR"
    assert figure.axes[3].get_title() == "LSTM, delayed copy"
    labels = [text.get_text() for text in figure.axes[6].get_legend().get_texts()]
    assert labels == ["not flossed: 2.0", f"flossed before training: {before}"]
    findings = fig6_architectures.findings(told)
    assert [finding.agrees for finding in findings] == [True] * 6 + [agrees] * 3
    assert findings[1].claim.startswith("GRU, Temporal XOR")
    assert f"2.00 not flossed and {before:.2f} flossed" in findings[6].found
