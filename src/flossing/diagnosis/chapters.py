"""The report of a network: its sections, one after the other."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from flossing.diagnosis.sections import conditioning, context, convergence, directions, reach
from flossing.diagnosis.sections.advice import advice_in_words, advice_section
from flossing.diagnosis.sections.conditioning import conditioning_section
from flossing.diagnosis.sections.context import context_section
from flossing.diagnosis.sections.convergence import convergence_section
from flossing.diagnosis.sections.directions import directions_section
from flossing.diagnosis.sections.reach import reach_section
from flossing.diagnosis.sections.spectrum import outcome_in_words, spectrum_section
from flossing.diagnosis.study import SectionBuilder, Study
from flossing.errors import FlossingError, NumericalWarning
from flossing.report.model import Fact, Report, Section
from flossing.support.formatting import counted


class Chapter(NamedTuple):
    """A section to be built.

    Attributes:
        key: What it is chosen by.
        name: What is being done meanwhile.
        build: Does it.
        heading: Of the section that says why it could not be built; without one, what goes wrong
            ends the analysis.
    """

    key: str
    name: str
    build: SectionBuilder
    heading: str | None = None


CHAPTERS: tuple[Chapter, ...] = (
    Chapter("spectrum", "Lyapunov spectrum", spectrum_section),
    Chapter(
        "conditioning",
        "long-term Jacobian",
        conditioning_section,
        conditioning.HEADING,
    ),
    Chapter("reach", "reach of gradients", reach_section, reach.HEADING),
    Chapter("convergence", "convergence", convergence_section, convergence.HEADING),
    Chapter("directions", "covariant vectors", directions_section, directions.HEADING),
    Chapter("context", "dynamical context", context_section, context.HEADING),
    Chapter("advice", "what to do", advice_section),
)


def analyse(
    study: Study,
    *,
    chapters: Sequence[Chapter] = CHAPTERS,
    on_progress: Callable[[int, str], None] | None = None,
) -> Report:
    """Analyse a network, section by section.

    Args:
        study: The network with what drives it.
        chapters: The sections to build.
        on_progress: Called before each section with how many are done and what comes next.

    Returns:
        The report; what degrades an answer is noted in its section.

    Raises:
        FlossingError: what `flossing.lyapunov_spectrum` raises. What other analyses raise is said
            in their sections.
    """
    sections: list[Section] = []
    for done, chapter in enumerate(chapters):
        if on_progress is not None:
            on_progress(done, chapter.name)
        sections.append(_with_warnings_as_notes(chapter, study))
    return Report(
        title=f"Lyapunov analysis of {study.name}",
        facts=_facts(study),
        summary=(outcome_in_words(study), advice_in_words(study)),
        sections=tuple(sections),
    )


def _with_warnings_as_notes(chapter: Chapter, study: Study) -> Section:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NumericalWarning)
        section = _built(chapter, study)
    notes: list[str] = []
    for warning in caught:
        if issubclass(warning.category, NumericalWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return replace(section, notes=(*section.notes, *dict.fromkeys(notes)))


def _built(chapter: Chapter, study: Study) -> Section:
    try:
        return chapter.build(study)
    except FlossingError as error:
        if chapter.heading is None:
            raise
        return Section(chapter.heading, meaning=(f"This could not be measured: {error}.",))


def _facts(study: Study) -> tuple[Fact, ...]:
    steps, trajectories, _ = study.inputs.shape
    spectrum = study.spectrum
    assumptions = tuple(Fact("Assumption", each) for each in study.network.assumptions)
    size = study.state_size
    count = spectrum.exponents.shape[-1]
    layer = () if study.layer is None else (Fact("Layer", study.layer),)
    return (
        Fact("Network", study.network.summary),
        Fact("Found under", study.network.prefix or "the top level"),
        *assumptions,
        *layer,
        Fact("Inputs", study.source),
        Fact("Trajectories", f"{trajectories}, {counted(steps, 'step')} each"),
        Fact("Steps not counted", steps - int(spectrum.counted_steps.min())),
        Fact("Exponents", f"{count} of {size}" if count < size else f"all {size}"),
        Fact("Precision", str(spectrum.exponents.dtype).removeprefix("torch.")),
        Fact("Horizon", counted(study.horizon, "step")),
    )
