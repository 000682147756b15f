import math
from dataclasses import replace

import pytest

from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, cost
from flossing_lab.runs.records import Epoch, Evaluation, Run, condensed
from flossing_lab.studies.baselines import study as baselines
from flossing_lab.studies.baselines.arms import BENCHMARKS
from flossing_lab.studies.horizon import study as horizon
from flossing_lab.studies.horizon.tasks import ARMS, AT_ONCE, ROWS
from flossing_lab.studies.schedule.study import variant_table
from flossing_lab.studies.study import Results


def results_of(runs):
    return Results(runs=tuple(map(condensed, runs)))


def run_of(configuration: Configuration, final: float, *, epochs=10, seconds=10.0, flossing=0.0):
    """A run whose accuracy, or error, rises linearly from 0 to its final value."""
    regression = configuration.task.kind == "regression"
    evaluations = tuple(
        Evaluation(
            epoch=epoch,
            loss=final * epoch / epochs,
            accuracy=None if regression else final * epoch / epochs,
        )
        for epoch in range(epochs + 1)
    )
    return Run(
        configuration=configuration,
        epochs=tuple(Epoch(epoch=e + 1, loss=1.0, gradient_norm=1.0) for e in range(epochs)),
        episodes=(),
        evaluations=evaluations,
        final=replace(evaluations[-1]),
        flossing_seconds=flossing,
        training_seconds=seconds,
    )


def cells(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def named(start):
    return next(row for row in ROWS if row.name.startswith(start))


XOR, DIGITS, ADDING = map(named, ("temporal XOR", "digits", "adding problem, 1000"))


def test_every_row_of_the_table_is_there():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) == 21
    for row in ROWS:
        arms = row.configurations(seeds=2)
        assert list(arms) == list(ARMS)
        assert all([each.seed for each in arm] == [0, 1] for arm in arms.values())
        digests = {each.digest for arm in arms.values() for each in arm}
        assert len(digests) == 2 * len(ARMS)


def test_delayed_tasks_have_sequences_of_three_delays():
    for row in ROWS:
        delay = getattr(row.task, "delay", None)
        assert delay is None or row.task.steps >= 3 * delay


def test_outcomes_and_costs():
    arms = XOR.configurations(seeds=3)
    runs = [run_of(each, 0.5) for each in arms["without"]]
    runs += [run_of(each, 0.9 + 0.04 * each.seed, flossing=3.0) for each in arms["default"]]
    (line,) = cells(*horizon.tables(results_of(runs)))
    assert line["without"] == "0/3 (50.0 %)"
    assert line["default"] == "1/3 (94.0 %)"
    assert line["published"] == "not run"
    assert line["cost, default"] == "1.30"
    assert line["cost, published"] == "–"


@pytest.mark.parametrize(("row", "shown"), [(DIGITS, "80.0 %"), (ADDING, "0.8")])
def test_digits_and_errors(row, shown):
    runs = [run_of(each, 0.8) for each in row.configurations(seeds=2)["default"]]
    (line,) = cells(*horizon.tables(results_of(runs)))
    assert line["default"] == shown


def judged(row, finals, *, flossing=3.0, at_once=0.9):
    """The finding where the default schedule ends at these accuracies or errors."""
    arms = row.configurations()
    runs = [run_of(each, 0.5) for each in arms["without"]]
    runs += [
        run_of(each, final, flossing=flossing)
        for each, final in zip(arms["default"], finals, strict=False)
    ]
    if row is not AT_ONCE:
        runs += [run_of(each, at_once) for each in AT_ONCE.configurations()["default"]]
    (found, *others) = horizon.findings(results_of(runs))
    assert not others
    return found


@pytest.mark.parametrize(
    ("start", "finals", "agrees"),
    [
        ("temporal XOR d=40", [0.96] * 5, True),
        ("temporal XOR d=40", [0.96] * 4 + [0.94], False),
        ("temporal XOR d=70", [0.96] * 4 + [0.94], True),
        ("temporal XOR d=70", [0.96] * 3 + [0.94] * 2, False),
        ("digits, asked after 200 blank", [0.86] * 5, True),
        ("digits, asked after 200 blank", [0.84] * 5, False),
        ("digits, asked after 60 steps of noise", [0.81] * 5, True),
        ("digits, asked after 60 steps of noise", [0.79] * 5, False),
        ("adding problem, 1000", [0.009] * 5, True),
        ("adding problem, 1000", [0.011] * 5, False),
    ],
)
def test_goals(start, finals, agrees):
    assert judged(named(start), finals).agrees is agrees


def test_a_goal_holds_within_a_cost():
    row = named("temporal XOR d=70")
    assert judged(row, [0.99] * 5, flossing=5.0).agrees
    dear = judged(row, [0.99] * 5, flossing=5.1)
    assert dear.agrees is False
    assert "5/5 (99.0 %); 1.51 times" in dear.found


def test_delays_are_drawn_with_the_sizes_of_their_networks():
    rows = [row for row in ROWS if row.name.startswith(("temporal", "spatial"))]
    runs = [run_of(each, 0.9) for row in rows for each in row.configurations()["default"]]
    figure = horizon.draw(results_of(runs))
    temporal, spatial = figure.axes
    assert temporal.get_title() == "Temporal XOR"
    ticks = [each.get_text() for each in temporal.get_xticklabels()]
    assert ticks == ["40\nN=80", "70\nN=80", "100\nN=128", "200\nN=256"]
    left, right = spatial.get_xlim()
    assert left < 39 < 41 < right


def test_errors_are_drawn_against_the_length():
    rows = [row for row in ROWS if row.name.startswith("adding")]
    arms = ("without", "default")
    runs = [run_of(each, 0.1) for row in rows for arm in arms for each in row.configurations()[arm]]
    for place, loss in enumerate((math.inf, math.nan, 1e9)):
        runs[place] = replace(runs[place], final=replace(runs[place].final, loss=loss))
    tanh, relu = horizon.draw(results_of(runs)).axes
    assert tanh.get_title() == "Adding problem, tanh"
    assert tanh.get_xscale() == tanh.get_yscale() == "log"
    assert [each.get_text() for each in tanh.get_xticklabels()] == ["50", "100", "200", "1000"]
    assert [each.get_text() for each in relu.get_xticklabels()] == ["100", "200", "400"]
    median, points, flossed = tanh.lines[:3]
    assert list(median.get_ydata()) == pytest.approx([1.0, 0.1, 0.1, 0.1])
    assert list(points.get_ydata())[:4] == pytest.approx([1.0, 1.0, 1.0, 0.1])
    assert median.get_xdata()[0] < 50 < flossed.get_xdata()[0]


def test_of_networks_that_add_up_one_exponent_is_flossed():
    rows = [row for row in ROWS if row.architecture.cell == "relu"]
    flossed = [row.configurations(seeds=1)[arm] for row in rows for arm in ("default", "published")]
    assert [each.flossing.k for (each,) in flossed] == [1] * 6


def test_without_something_to_compare_with_nothing_is_decided():
    row = named("digits, asked after 200 blank")
    runs = [run_of(each, 0.9) for each in row.configurations()["default"]]
    (found,) = horizon.findings(results_of(runs))
    assert found.agrees is None


def test_baselines_at_the_wall_clock_time_of_flossing():
    arms = BENCHMARKS[0].configurations(seeds=2)
    assert len(arms) == 11
    runs = [run_of(each, 1.0, seconds=6.0, flossing=2.0) for each in arms["flossing"]]
    runs += [run_of(each, 1.0, seconds=40.0) for each in arms["chrono LSTM"]]
    table = cells(*baselines.tables(results_of(runs)))
    assert [line["network"] for line in table] == ["flossing", "chrono LSTM"]
    slow = table[1]
    assert slow["solved"] == "2/2"
    assert slow["after all epochs"] == "100.0 %"
    # Eight seconds are two of ten epochs at four seconds each.
    assert slow["at equal wall-clock time"] == "20.0 %"
    assert slow["seconds per epoch"] == "4.000"
    assert slow["epochs to 95 %"] == "10"
    assert slow["seconds to 95 %"] == "40"


def test_without_flossing_there_is_no_equal_wall_clock():
    runs = [run_of(each, 0.9) for each in BENCHMARKS[0].configurations(seeds=2)["chrono LSTM"]]
    (line,) = cells(*baselines.tables(results_of(runs)))
    assert line["at equal wall-clock time"] == "–"
    assert line["after all epochs"] == "90.0 %"


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_methods_differ(benchmark):
    digests = {each.digest for each in benchmark.methods().values()}
    assert len(digests) == 11


def compared(benchmark, ends):
    """Runs whose methods end at these accuracies or errors, all others at 0.5."""
    return results_of(
        run_of(each, ends.get(name, 0.5), flossing=2.0 * (name == "flossing"))
        for name, arm in benchmark.configurations().items()
        for each in arm
    )


@pytest.mark.parametrize(
    ("index", "ends", "agrees"),
    [
        (0, {"flossing": 0.99, "chrono LSTM": 0.9}, True),
        (0, {"flossing": 0.99, "chrono LSTM": 0.993}, True),
        (0, {"flossing": 0.9, "chrono LSTM": 0.99}, False),
        (3, {"flossing": 0.01, "chrono LSTM": 0.05}, True),
        (3, {"flossing": 0.05, "chrono LSTM": 0.01}, False),
    ],
)
def test_flossing_is_judged_at_equal_wall_clock_time(index, ends, agrees):
    found, quiet = baselines.findings(compared(BENCHMARKS[index], ends))
    assert found.agrees is agrees
    assert "the best baseline, chrono LSTM" in found.found
    assert quiet.agrees is False


def test_where_all_errors_are_those_of_guessing_nothing_is_decided():
    ends = {"flossing": 0.16, "flossing, small inputs": 0.05, "chrono LSTM": 0.14}
    guessed, learned = baselines.findings(compared(BENCHMARKS[3], ends))
    assert guessed.agrees is None
    assert learned.agrees


def test_small_inputs_are_judged_by_themselves():
    loud, quiet = baselines.findings(compared(BENCHMARKS[0], {"flossing, small inputs": 0.99}))
    assert loud.agrees
    assert quiet.agrees
    assert "flossing, small inputs has 99.0 %" in quiet.found
    assert "50.0 %" in quiet.found


def test_a_benchmark_that_lacks_a_run_is_undecided():
    results = compared(BENCHMARKS[0], {})
    found = baselines.findings(Results(runs=results.runs[:-1]))
    assert [each.agrees for each in found] == [None, None]


def test_a_slow_baseline_is_judged_by_what_it_has_reached_in_time():
    results = compared(BENCHMARKS[0], {"flossing": 0.9, "penalty Ω": 0.99})
    slow = tuple(
        replace(each, training_seconds=40.0) if each.configuration.training.norm_penalty else each
        for each in results.runs
    )
    found, _ = baselines.findings(Results(runs=slow))
    assert found.agrees
    assert "the best baseline, penalty Ω, 99.0 %" in found.found


def test_methods_are_drawn():
    runs = [
        each
        for benchmark in (BENCHMARKS[0], BENCHMARKS[3])
        for each in compared(benchmark, {"flossing": 0.8}).runs
    ]
    figure = baselines.draw(Results(runs=tuple(runs)))
    copy, adding = figure.axes
    names = [each.get_text() for each in copy.get_yticklabels()]
    assert names[-3:] == ["flossing, small inputs", "flossing", "clipping"]
    (legend,) = figure.legends
    assert [each.get_text() for each in legend.texts] == [
        "after all epochs",
        "at equal wall-clock time",
    ]
    assert adding.get_xscale() == "log"
    # Points, the end and the median for each of eleven, and flossing's own line.
    assert len(copy.lines) == 3 * 11 + 1


def test_digits_are_drawn_against_their_hold():
    rows = [row for row in ROWS if row.name.startswith("digits")]
    runs = [run_of(each, 0.9) for row in rows for each in row.configurations()["default"]]
    blank, noise = horizon.draw(results_of(runs)).axes
    assert [round(each) for each in blank.get_xticks()] == [0, 60, 200, 500]
    assert [round(each) for each in noise.get_xticks()] == [0, 60, 200]
    assert noise.get_xlabel() == "hold (steps), N=128"
    assert noise.get_ylim()[0] < 0.1


def test_what_was_tried_is_told_by_errors_where_there_is_no_accuracy():
    arms = {
        "adding": ADDING.configurations(seeds=3)["default"],
        "diverged": ADDING.configurations(seeds=3)["without"],
        "xor": XOR.configurations(seeds=3)["default"],
    }
    finals = {
        "adding": (0.1, 0.3, 0.2),
        "diverged": (0.3, math.nan, math.inf),
        "xor": (0.96, 0.5, 0.97),
    }
    runs = [
        run_of(each, final)
        for name, arm in arms.items()
        for each, final in zip(arm, finals[name], strict=True)
    ]
    adding, diverged, xor = cells(variant_table("Both", arms, results_of(runs)))
    assert [adding[name] for name in ("solved", "median", "worst")] == ["–", "0.2", "0.3"]
    assert [diverged[name] for name in ("solved", "median", "worst")] == ["–", "∞", "∞"]
    assert [xor[name] for name in ("solved", "median", "worst")] == ["2/3", "96.0 %", "50.0 %"]


def test_a_cost_does_not_depend_on_how_fast_the_machine_was():
    arms = XOR.configurations(seeds=3)
    without = Arm(tuple(run_of(each, 0.5, seconds=10.0) for each in arms["without"]))
    # Four times slower, and done after half of the steps.
    flossed = Arm(
        tuple(run_of(each, 0.9, epochs=5, seconds=20.0, flossing=4.0) for each in arms["default"])
    )
    assert cost(flossed, without) == pytest.approx(0.6)
