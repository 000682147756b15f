"""The chapters of the report in their order, and the analysis that builds them."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from flossing.diagnosis.sections import (
    advice,
    context,
    convergence,
    covariant_vectors,
    gradient_horizon,
    long_term_jacobian,
    spectrum,
)
from flossing.diagnosis.subject import SectionBuilder, Subject
from flossing.errors import FlossingError, NumericalWarning
from flossing.report.model import Fact, Report, Section
from flossing.support.formatting import plural
from flossing.support.warning_filters import recorded_warnings


class Chapter(NamedTuple):
    """A section that can be selected.

    Attributes:
        key: Its name for `--sections`.
        heading: Its heading in the report.
        build: Makes the section.
        required: Whether its failure ends the analysis; otherwise the section states the reason.
    """

    key: str
    heading: str
    build: SectionBuilder
    required: bool = False


CHAPTERS: tuple[Chapter, ...] = (
    Chapter("spectrum", spectrum.HEADING, spectrum.spectrum_section, required=True),
    Chapter("advice", advice.HEADING, advice.advice_section, required=True),
    Chapter(
        "conditioning", long_term_jacobian.HEADING, long_term_jacobian.long_term_jacobian_section
    ),
    Chapter("reach", gradient_horizon.HEADING, gradient_horizon.gradient_horizon_section),
    Chapter("convergence", convergence.HEADING, convergence.convergence_section),
    Chapter("directions", covariant_vectors.HEADING, covariant_vectors.covariant_vectors_section),
    Chapter("context", context.HEADING, context.context_section),
)


def analyse(
    subject: Subject,
    *,
    chapters: Sequence[Chapter] = CHAPTERS,
    on_progress: Callable[[int, str], None] | None = None,
) -> Report:
    """Analyse a network, chapter by chapter.

    Args:
        subject: The network with its inputs.
        chapters: The chapters to build.
        on_progress: Called before each chapter with the number of finished ones and its heading.

    Returns:
        The report; numerical warnings become notes of the section that they occurred in.

    Raises:
        FlossingError: A required chapter failed, or the spectrum could not be measured.
    """
    sections: list[Section] = []
    for done, chapter in enumerate(chapters):
        if on_progress is not None:
            on_progress(done, chapter.heading)
        sections.append(_with_warnings_as_notes(chapter, subject))
    return Report(
        title=f"Lyapunov analysis of {subject.name}",
        facts=_facts(subject),
        summary=(
            spectrum.outcome_in_words(subject),
            advice.advice_in_words(subject),
            *subject.conditions,
        ),
        sections=tuple(sections),
    )


def _with_warnings_as_notes(chapter: Chapter, subject: Subject) -> Section:
    with recorded_warnings(NumericalWarning) as caught:
        try:
            section = chapter.build(subject)
        except FlossingError as error:
            if chapter.required:
                raise
            section = Section(chapter.heading, meaning=(f"This could not be measured: {error}.",))
    notes: list[str] = []
    for warning in caught:
        if issubclass(warning.category, NumericalWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return replace(section, notes=(*section.notes, *dict.fromkeys(notes)))


def _facts(subject: Subject) -> tuple[Fact, ...]:
    steps, trajectories, _ = subject.inputs.shape
    measured, size = subject.spectrum, subject.state_size
    count = measured.exponents.shape[-1]
    return (
        Fact("Network", subject.network.summary),
        Fact("Parameter prefix", subject.network.prefix or "none"),
        *_facts_if("Assumption", subject.network.assumptions),
        *_facts_if("Weights", subject.network.rebuilt),
        *(() if subject.layer is None else (Fact("Layer", subject.layer),)),
        Fact("Inputs", subject.source),
        Fact("Trajectories", f"{trajectories}, {plural(steps, 'step')} each"),
        Fact("Transient steps", steps - int(measured.counted_steps.min())),
        Fact("Exponents", f"{count} of {size}" if count < size else f"all {size}"),
        Fact("Precision", str(measured.exponents.dtype).removeprefix("torch.")),
        Fact("Horizon", plural(subject.horizon, "step")),
    )


def _facts_if(name: str, sentences: tuple[str, ...]) -> tuple[Fact, ...]:
    """Return one fact with all the sentences, since a fact is looked up by its name."""
    return (Fact(name, "; ".join(sentences)),) if sentences else ()
