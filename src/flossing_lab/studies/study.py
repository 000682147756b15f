"""Studies: what is run and measured, and how it is drawn, tabulated and judged."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from flossing_lab.runs.comparison import tables
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, arm_of, arms
from flossing_lab.runs.records import CondensedRun
from flossing_lab.runs.setups import as_released

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flossing.report.model import Table

SizeName: TypeAlias = Literal["quick", "full"]
Source: TypeAlias = Literal[
    "abstract", "released code", "secondary source", "recollection", "this project"
]
"""Where a claim is known from; a secondary source is a later paper of the same author."""

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

EXTENTS: Mapping[SizeName, str] = {
    "quick": "fewer networks, delays and epochs than in the paper",
    "full": "as in the paper: sequences of 300 steps, 10,000 epochs or until the task is solved",
}
"""Descriptions of the two sizes of the paper's figures."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Quantities measured on a network that is not trained.

    Attributes:
        setting: the fields of the dataclass that `Study.measure` was called with.
        numbers: the measured values by name.
        seconds: wall-clock time.
        environment: versions and machine.
    """

    setting: dict[str, Any]
    numbers: dict[str, Any]
    seconds: float = field(compare=False)
    environment: dict[str, Any] = field(compare=False, default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The runs and measurements of a study, from which everything shown is computed."""

    runs: tuple[CondensedRun, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    @cached_property
    def arms(self) -> list[Arm]:
        """The runs, grouped by what they have in common except the seed."""
        return arms(self.runs)

    @cached_property
    def by_digest(self) -> dict[str, CondensedRun]:
        """The runs by the digests of their configurations."""
        return {run.configuration.digest: run for run in self.runs}

    def named_arms(self, configurations: Mapping[str, Iterable[Configuration]]) -> dict[str, Arm]:
        """Return the named groups of configurations that were run, in full or in part."""
        found = {name: arm_of(each, self.by_digest) for name, each in configurations.items()}
        return {name: arm for name, arm in found.items() if arm is not None}


@dataclass(frozen=True)
class Finding:
    """A claim and the evidence for or against it.

    Attributes:
        claim: the expected result.
        found: the recorded result.
        agrees: whether the two agree; `None` where the records do not decide.
        source: where the claim is known from; `None` outside the paper's figures.
    """

    claim: str
    found: str
    agrees: bool | None
    source: Source | None = None


def _run_tables(results: Results) -> "tuple[Table, ...]":
    return tables(results.runs)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs and measurements with the figure, tables and findings computed from them.

    Attributes:
        name: the name on the command line.
        title: the heading on the page.
        statement: the paper's claim; empty for a study that is not in the paper.
        caption: the caption of the figure.
        extents: a description of each size.
        configurations: the training runs of each size.
        settings: the arguments of `measure` for each size, frozen dataclasses.
        measure: measures one setting and returns numbers that JSON can hold; a module-level
            function, because other processes call it.
        draw: draws the figure.
        tables: tabulates the results; by default a row for each arm.
        findings: compares claims with the results.
        partial: whether unfinished results can be shown.
    """

    name: str
    title: str
    statement: str = ""
    caption: str = ""
    extents: Mapping[SizeName, str] = field(default_factory=lambda: EXTENTS)
    configurations: Mapping[SizeName, Sequence[Configuration]] = field(
        default_factory=dict[SizeName, Sequence[Configuration]]
    )
    settings: Mapping[SizeName, Sequence[Any]] = field(
        default_factory=dict[SizeName, Sequence[Any]]
    )
    measure: Callable[[Any], dict[str, Any]] | None = None
    draw: "Callable[[Results], Figure] | None" = None
    tables: "Callable[[Results], tuple[Table, ...]]" = _run_tables
    findings: Callable[[Results], list[Finding]] = lambda _: []
    partial: bool = False


def in_released_setup(study: Study) -> Study:
    """Return a study of the paper with its runs in the set-up of the released code."""
    configurations = {
        size: [as_released(each) for each in own] for size, own in study.configurations.items()
    }
    return replace(study, configurations=configurations)


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group items by a key, in order of first appearance.

    Example:
        >>> group_by([1, 2, 3, 4], lambda number: number % 2)
        {1: [1, 3], 0: [2, 4]}
    """
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
