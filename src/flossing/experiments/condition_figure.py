"""The condition number of the long-term Jacobian before and after flossing, as a figure.

`python -m flossing.experiments.condition_figure --output PATH.png --records PATH.json`
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flossing.analysis.long_term_jacobian import LongTermJacobian, long_term_jacobian
from flossing.backends import compile_ahead
from flossing.experiments.configuration import Architecture, Flossing
from flossing.experiments.environment import environment
from flossing.experiments.member import stream_seed
from flossing.experiments.networks import SequenceNetwork, make_network
from flossing.experiments.schedules import PUBLISHED, before_only
from flossing.flosser import Flosser
from flossing.plots import (
    BLUE,
    VERMILLION,
    new_figure,
    plot_condition_number,
    plot_singular_values,
)
from flossing.tasks import DelayedCopy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
ARMS = ("before flossing", "after flossing")
# Markers differ too, for print in grey; the lines of the prediction are dashed.
STYLES: dict[str, dict[str, Any]] = {
    "before flossing": {"color": VERMILLION, "marker": "o"},
    "after flossing": {"color": BLUE, "marker": "s"},
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is flossed and analysed: by default the network and schedule that were published.

    Attributes:
        size: Number N of units.
        gain: Scale of the Gaussian recurrent weights.
        flossing: The schedule before training.
        horizons: Numbers of steps s.
        origins: How many long-term Jacobians are taken.
        steps: Length of the sequence that is analysed, of random bits.
        state_transient: So many of its steps only move the state.
        frame_transient: So many further ones align the frame.
    """

    size: int = 80
    gain: float = 1.0
    flossing: Flossing = field(default_factory=lambda: before_only(80))
    horizons: tuple[int, ...] = (1, 2, 5, 10, *range(20, 301, 20))
    origins: int = 20
    steps: int = 1000
    state_transient: int = 100
    frame_transient: int = 100


QUICK = Setting(
    size=10,
    flossing=Flossing(k=8, time_steps=30, schedule=PUBLISHED | {"before": 5, "times": 0}),
    horizons=(1, 5, 10),
    origins=3,
    steps=40,
    state_transient=5,
    frame_transient=5,
)


def measure(setting: Setting, seed: int) -> dict[str, LongTermJacobian]:
    """Floss a network on random bits, and analyse it before and after.

    Args:
        setting: What is flossed and analysed.
        seed: What all randomness follows from; at least 0.
    """
    network = make_network(
        Architecture(size=setting.size, gain=setting.gain, form="rate"),
        input_size=1,
        output_size=1,
        generator=_generator(seed, "weights"),
    )
    # That no result depends on when this is done in the background.
    compile_ahead(network.system)
    before = _analysed(network, setting, seed)
    flossing = setting.flossing
    flosser = Flosser(
        network.system,
        k=flossing.k,
        state_transient=flossing.state_transient,
        frame_transient=flossing.frame_transient,
        generator=_generator(seed, "flossing frames"),
        **flossing.schedule,
    )
    task = _task(flossing.time_steps)
    flosser.before_training(task.batches(1, seed=stream_seed(seed, "flossing inputs")))
    return dict(zip(ARMS, (before, _analysed(network, setting, seed)), strict=True))


def condition_figure(results: dict[str, LongTermJacobian]) -> "Figure":
    """Draw condition numbers in one panel, and the singular values of each arm in one of its own.

    Args:
        results: What `measure` returned.
    """
    figure = new_figure(12.5, 3.9)
    condition, *others = figure.subplots(1, 1 + len(results))  # pyright: ignore[reportUnknownMemberType]
    for (arm, result), axes in zip(results.items(), others, strict=True):
        plot_condition_number(result, condition, label=arm, **STYLES[arm])
        plot_singular_values(result, axes)
        _title(axes, f"Singular values {arm}")
    condition.legend(frameon=False, fontsize="small")
    _title(condition, "Condition number of the long-term Jacobian")
    lowest = min(axes.get_ylim()[0] for axes in others)
    highest = max(axes.get_ylim()[1] for axes in others)
    for axes in others:
        axes.set_ylim(lowest, highest)
    return figure


def records(
    results: dict[str, LongTermJacobian], setting: Setting, seed: int, seconds: float
) -> dict[str, Any]:
    """All numbers of the figure with what they depend on, ready for JSON."""
    return {
        "seed": seed,
        "setting": asdict(setting),
        "wall_clock_seconds": seconds,
        "environment": environment(),
        "arms": {
            arm: {
                "origins": result.origins.tolist(),  # pyright: ignore[reportUnknownMemberType]
                "horizons": result.horizons.tolist(),  # pyright: ignore[reportUnknownMemberType]
                **_numbers(result),
            }
            for arm, result in results.items()
        },
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m flossing.experiments.condition_figure")
    parser.add_argument("--output", type=Path, required=True, help="where the figure goes")
    parser.add_argument("--records", type=Path, help="where all numbers go, as JSON")
    parser.add_argument("--seed", type=int, default=0, help="what all randomness follows from")
    parser.add_argument("--quick", action="store_true", help="a tiny size that shows no effect")
    arguments = parser.parse_args()
    setting = QUICK if arguments.quick else Setting()
    start = time.perf_counter()
    results = measure(setting, arguments.seed)
    seconds = time.perf_counter() - start
    figure = condition_figure(results)
    figure.savefig(arguments.output, dpi=DOTS_PER_INCH)  # pyright: ignore[reportUnknownMemberType]
    if arguments.records is not None:
        document = records(results, setting, arguments.seed, seconds)
        text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
        arguments.records.write_text(text + "\n", encoding="utf-8")


def _analysed(network: SequenceNetwork, setting: Setting, seed: int) -> LongTermJacobian:
    generator = _generator(seed, "spectrum")
    batch = _task(setting.steps).sample(1, generator=generator)
    return long_term_jacobian(
        network.system,
        batch.inputs,
        network.initial_state(1),
        horizons=setting.horizons,
        k=setting.flossing.k,
        origins=setting.origins,
        state_transient=setting.state_transient,
        frame_transient=setting.frame_transient,
        dtype=torch.float64,
        generator=generator,
    )


def _numbers(result: LongTermJacobian) -> dict[str, Any]:
    """What is drawn, to eight digits."""
    drawn = {
        "log10_condition_quartiles": result.log10_condition_quartiles,
        "predicted_log10_condition": result.predicted_log10_condition.mean(dim=1),
        "median_log_singular_values": result.log_singular_values.flatten(1, 2).median(dim=1)[0],
        "exponents": result.exponents.mean(dim=0),
    }
    return {name: _rounded(values.tolist()) for name, values in drawn.items()}  # pyright: ignore[reportUnknownMemberType]


def _rounded(values: Any) -> Any:
    if isinstance(values, list):
        return [_rounded(value) for value in values]  # pyright: ignore[reportUnknownVariableType]
    return float(f"{values:.8g}")


def _task(steps: int) -> DelayedCopy:
    """What gives random bits; only its inputs are used."""
    return DelayedCopy(delay=1, steps=steps)


def _generator(seed: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, stream))


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, fontsize="medium")  # pyright: ignore[reportUnknownMemberType]


if __name__ == "__main__":
    main()
