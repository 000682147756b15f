"""Write docs/speed.md from the results of the benchmarks.

Run from the repository's root: `python benchmarks/page.py`.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/speed.md")

INTRODUCTION = """\
# Speed, accuracy and memory, measured

Value and gradient of the mean squared exponents (`flossing_loss` and its backward pass) of
networks with Gaussian recurrent weights of gain 1 under white noise, in float32. Sizes are hidden
units N, exponents k, steps T, trajectories B. Every table names its command; this page is written
from their results by `python benchmarks/page.py`.
"""

SPEED = """\
## Beside the reference, JAX and the products alone

- reference: the same products, unrolled, with a graph through `torch.linalg.qr` at every step;
- JAX: a jitted `scan` with `qr`, and its `grad`, at every step;
- floor: the matrix products alone, by `torch.mm`, in the same shapes and threads.

What is compared runs in turns. Ratios are medians, with the smallest and the largest in brackets.
Errors are relative to float64 with a factorisation at every step, those of the reference in
brackets. `make benchmark`, results in `benchmarks/results/speed.json`.
"""

BREAKDOWN = """\
## What the time is spent on

Milliseconds of a vanilla network, medians. The products' share of the scans is the time of the
same loops for a network whose tangent vectors stay orthonormal. What is around the loops is
Python's and PyTorch's: about two hundred small operations, which is all there is to gain at
N = 32. At (80, 75) λ₁ − λ₇₅ is two nats a step, so that float32 needs a factorisation at nearly
every step; these are sequential within a trajectory and take more arithmetic than the products.
`python benchmarks/breakdown.py`, results in `benchmarks/results/breakdown.json`.
"""

SCALING = """\
## Against one dimension at a time

Vanilla network, milliseconds, with the exponent of a fitted power law; from `make benchmark`.
"""

SCHEDULE = """\
## The published schedule

1500 steps of flossing over 55 time steps (N = 80, k = 75, B = 1) beside 3001 training steps over
300 (B = 16), optimizer steps included; from `make benchmark`.
"""

TOGETHER = """\
## Many networks trained as one

Milliseconds of a training step for each network (N = 80, T = 120, B = 16, one thread): forward,
loss, backward, clipping and Adam. PyTorch alone trains one network through the module's own
forward; so many in one model is how `flossing train` and `sweep` train seeds. In brackets, how many
times faster than one network in a model of its own: cells that are a loop over steps in Python gain
threefold; PyTorch's layers spend their time on arithmetic already when alone, and gain nothing.
`python benchmarks/together.py --output benchmarks/results/together.json`.
"""

MEMORY = """\
## Memory of a long run

N = 256, k = 32, T = 100,000, B = 1, with gradient: peak of resident memory over what it was
before, each in a process of its own. `python benchmarks/memory.py`, results in
`benchmarks/results/memory.json`.
"""

FIRST_CALL = """\
## The first call

Seconds of the first values and gradients in a process (N = 32, one thread). With an empty cache
they are made by PyTorch operations, until another process has compiled the loops; from then on, and
in all later processes, these are loaded from the disk. `python benchmarks/first_call.py`, results
in `benchmarks/results/first_call.json`.
"""


def main() -> None:
    """Write the page."""
    speed = _read("speed")
    sections = [
        INTRODUCTION + "\n" + _environment(speed),
        SPEED + "\n" + speed_table(speed["speed"]),
        BREAKDOWN + "\n" + breakdown_table(_read("breakdown")["rows"]),
        SCALING + "\n" + scaling_table(speed["scaling"]),
        SCHEDULE + "\n" + schedule_sentence(speed["schedule"]),
        TOGETHER + "\n" + together_table(_read("together")["seconds_per_network_and_epoch"]),
        MEMORY + "\n" + memory_table(_read("memory")["results"]),
        FIRST_CALL + "\n" + first_call_table(_read("first_call")["seconds"]),
    ]
    PAGE.write_text("\n".join(sections), encoding="utf-8")


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of all kinds and sizes."""
    names = list(rows[0]["ratios"])
    heading = ["", "N, k, T, B", "ms", *names, "error of exponents", "error of gradient"]
    return _table(
        heading,
        [
            [
                row["kind"],
                _size(row),
                _number(1e3 * statistics.median(row["seconds"]["ours"])),
                *(_spread(row["ratios"][name]) for name in names),
                *(
                    f"{row['errors']['ours'][what]:.0e} ({row['errors']['reference'][what]:.0e})"
                    for what in ("exponents", "gradient")
                ),
            ]
            for row in rows
        ],
    )


def breakdown_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of parts."""
    parts = list(rows[0]["milliseconds"])
    return _table(
        ["N, k, T, B", *parts],
        [[_size(row), *(_number(row["milliseconds"][part]) for part in parts)] for row in rows],
    )


def scaling_table(scaling: dict[str, Any]) -> str:
    """Return the table of power laws."""
    rows = []
    for name, result in scaling.items():
        times = ", ".join(
            f"{_size({'N_k_T_B': size})}: {_number(1e3 * seconds)}"
            for size, seconds in zip(result["N_k_T_B"], result["seconds"], strict=True)
        )
        rows.append([name, times, f"{result['exponent']:.2f}"])
    return _table(["", "N, k, T, B: ms", "exponent"], rows)


def schedule_sentence(schedule: dict[str, Any]) -> str:
    """Return what share of training flossing takes."""
    flossing, training = (schedule["seconds"][name] for name in ("flossing", "training"))
    return (
        f"A flossing step takes {_number(1e3 * statistics.median(flossing))} ms, a training step "
        f"{_number(1e3 * statistics.median(training))} ms; flossing takes "
        f"{_spread(schedule['share'])} of the training's time.\n"
    )


def together_table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the table of milliseconds by the number of networks."""
    alone = "PyTorch alone"
    numbers = [name for name in next(iter(results.values())) if name != alone]

    def cell(taken: dict[str, list[float]], name: str) -> str:
        if name not in taken:
            return "–"
        seconds = statistics.median(taken[name])
        gain = statistics.median(taken[numbers[0]]) / seconds
        return f"{_number(1e3 * seconds)} ({_number(gain)})"

    heading = ["", alone, *(f"{name} in one model" for name in numbers)]
    rows = [
        [kind, cell(taken, alone), *(cell(taken, name) for name in numbers)]
        for kind, taken in results.items()
    ]
    return _table(heading, rows)


def memory_table(results: dict[str, dict[str, float]]) -> str:
    """Return the table of intervals between checkpoints."""
    rows = [
        [f"`{name}`", f"{each['mebibytes']:.0f}", f"{each['seconds']:.1f}"]
        for name, each in results.items()
    ]
    return _table(["", "MiB", "seconds"], rows)


def first_call_table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the table of first calls."""
    names = list(next(iter(results.values())))
    rows = [[kind, *(_spread(taken[name]) for name in names)] for kind, taken in results.items()]
    return _table(["", *names], rows)


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _environment(document: dict[str, Any]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in document["environment"].items())
    return f"Measured with {document['threads']} threads, seed {document['seed']}; {facts}.\n"


def _size(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row["N_k_T_B"]))


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    inner = f"{_number(min(values))}–{_number(max(values))}"
    return f"{_number(statistics.median(values))} ({inner})"


def _number(value: float) -> str:
    """Return three digits, without an exponent."""
    if value == 0:
        return "0"
    decimals = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 4)}f}"


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
