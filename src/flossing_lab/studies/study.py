"""What a study is: what is run or measured for it, what is drawn, and what it says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import CondensedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flossing.report.model import Table

SizeName: TypeAlias = Literal["quick", "full"]

EXTENTS: Mapping[SizeName, str] = {
    "quick": "fewer networks, delays and epochs; sequences of three delays, at least 60 steps",
    "full": "the paper's own: 10 networks, 10,000 epochs, sequences of 300 steps",
}
"""What the sizes of a figure of the paper are."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Numbers of a network that is not trained.

    Attributes:
        setting: everything that they depend on.
        numbers: what was measured, by name, ready for JSON.
        seconds: wall-clock.
        environment: where it was measured.
    """

    setting: dict[str, Any]
    numbers: dict[str, Any]
    seconds: float = field(compare=False)
    environment: dict[str, Any] = field(compare=False, default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that a study is drawn and judged from.

    Attributes:
        runs: in the order of its configurations.
        measurements: in the order of its settings.
    """

    runs: tuple[CondensedRun, ...] = ()
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A claim, and what the records say about it.

    Attributes:
        claim: what should be found.
        found: what was, in numbers.
        agrees: whether both fit; `None` where the records do not decide.
    """

    claim: str
    found: str
    agrees: bool | None


def _no_configurations(size: Any) -> list[Configuration]:
    del size
    return []


def _no_settings(size: Any) -> list[Any]:
    del size
    return []


def _no_measure(setting: Any) -> dict[str, Any]:
    raise TypeError(f"this study measures nothing, but was given the setting {setting}")


def _no_findings(results: Results) -> list[Finding]:
    del results
    return []


def _no_tables(results: Results) -> "tuple[Table, ...]":
    del results
    return ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs and measurements with a figure, tables and findings; a study may lack some of these.

    Attributes:
        name: what it is called on the command line.
        title: what it is about.
        statement: what the paper states; empty for a study that the paper has not.
        caption: how the figure is read.
        sizes: what `configurations` and `settings` take, by name.
        extents: what a size is, in words.
        configurations: the runs of a size.
        settings: frozen dataclasses, each of which `measure` takes.
        measure: returns numbers, ready for JSON; a function of a module, for other processes.
        draw: the figure.
        tables: what came of it.
        findings: what is claimed, beside what was found.
        in_parts: whether some of its runs can be told without the others.
    """

    name: str
    title: str
    statement: str = ""
    caption: str = ""
    sizes: Mapping[SizeName, Any]
    extents: Mapping[SizeName, str] = field(default_factory=lambda: EXTENTS)
    configurations: Callable[[Any], list[Configuration]] = _no_configurations
    settings: Callable[[Any], list[Any]] = _no_settings
    measure: Callable[[Any], dict[str, Any]] = _no_measure
    draw: "Callable[[Results], Figure] | None" = None
    tables: "Callable[[Results], tuple[Table, ...]]" = _no_tables
    findings: Callable[[Results], list[Finding]] = _no_findings
    in_parts: bool = False
