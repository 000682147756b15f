"""The recommendation: whether to floss, how many exponents, and what to expect of it."""

from dataclasses import asdict

from flossing.diagnosis.advice import CARRYING_FACTOR, VERDICTS, Verdict, average, resolvable_gap
from flossing.diagnosis.subject import Subject
from flossing.report.model import Section, Table, Value
from flossing.support.formatting import format_number, plural

HEADING = "Recommendation"

_LIMITS_OF_FLOSSING = (
    "Flossing is gradient descent on the mean squared exponents, before training and, for long "
    "horizons, again during training. It changes the recurrent weights: apply it to a network that "
    "is yet to be trained, or continue training afterwards. Use one optimizer for all episodes, as "
    "flossing.Flosser does: the first step of a newly created Adam changes every weight by about "
    "the learning rate, however small its gradient, which undoes training. The published setting "
    "is 500 steps (Engelken, Gradient Flossing, NeurIPS 2023, arXiv 2312.17306).",
    "Flossed exponents are close to zero but not exactly zero, and the last of them remain lowest, "
    "so that longer horizons take more steps. Zero exponents do not remove every difficulty of "
    "long memory: outputs become more sensitive to parameters even where gradients do not explode "
    "(Zucchet & Orvieto 2024). Repeat this analysis on the flossed network.",
)


def advice_section(subject: Subject) -> Section:
    """Recommend whether to floss this network for the horizon, with which k, and state the rule."""
    k = suggested_k(subject)
    floss = verdict_of(subject) != "carries all"
    return Section(
        heading=HEADING,
        meaning=(advice_in_words(subject), _directions_needed(subject)),
        tables=(_layers_table(subject),) if len(subject.advice) > 1 else (),
        text=(_rule(subject), *(_LIMITS_OF_FLOSSING if floss else ())),
        code=_code(subject, k) if floss else "",
        numbers={
            "floss": floss,
            "k": k,
            "layers": [asdict(each) for each in subject.advice],
        },
    )


def suggested_k(subject: Subject) -> int:
    """Return the number of exponents to floss, of each layer if it is a stack."""
    return min(each.k for each in subject.advice)


def verdict_of(subject: Subject) -> Verdict:
    """Return the verdict on the layer that needs flossing most."""
    found = {each.verdict for each in subject.advice}
    return next(verdict for verdict in VERDICTS if verdict in found)


def advice_in_words(subject: Subject) -> str:
    """Return the recommendation in a few sentences."""
    over = f"over {plural(subject.horizon, 'step')}{_layers_concerned(subject)}"
    floss = f"Floss k = {plural(suggested_k(subject), 'exponent')}"
    if len(subject.advice) > 1:
        floss += " of each layer"
    match verdict_of(subject):
        case "explodes":
            return (
                f"{floss}: gradients explode {over}. Flossing pushes exponents to zero, the "
                "positive ones included. Keep gradient clipping, and floss with "
                'state_gradient="detach".'
            )
        case "vanishes":
            return (
                f"{floss}: no direction carries gradients {over}. Along each measured direction "
                f"they shrink by a factor of {CARRYING_FACTOR:.0f} or more."
            )
        case "carries some":
            fewest = min(subject.advice, key=lambda each: each.carry / each.k)
            return (
                f"{floss} if training stalls at long delays: {fewest.carry} of the {fewest.k} "
                f"directions that flossing can act on already carry gradients {over}."
            )
        case "carries all":
            return (
                f"Flossing is not needed: all directions that it can act on already carry "
                f"gradients {over}. Use --horizon to examine a longer horizon."
            )


def _layers_concerned(subject: Subject) -> str:
    worst = verdict_of(subject)
    layers = [str(layer) for layer, each in enumerate(subject.advice) if each.verdict == worst]
    if len(layers) == len(subject.advice):
        return ""
    return f" in layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}"


def _directions_needed(subject: Subject) -> str:
    features = subject.inputs.shape[-1]
    values, size = subject.horizon * features, subject.state_size
    more = f", more than the {size} of the state" if values > size else ""
    return (
        "How many directions need to carry gradients depends on the task. Reproducing the last "
        f"{plural(subject.horizon, 'input')} of {plural(features, 'feature')} takes about "
        f"{plural(values, 'direction')}{more}; remembering one of a few classes takes only a few."
    )


def _rule(subject: Subject) -> str:
    dtype = subject.flossing_dtype
    return (
        "The rule: a direction carries gradients over H steps if |λᵢ| H < "
        f"ln {CARRYING_FACTOR:.0f}, so that they change by less than a factor of "
        f"{CARRYING_FACTOR:.0f}. Flossing is recommended if fewer than k directions do, or if "
        "gradients explode along any. The number k counts the exponents that "
        f"{str(dtype).removeprefix('torch.')} can resolve: those that are finite and less than "
        f"{format_number(resolvable_gap(dtype), 2)} nats per step below the largest, a gap at "
        "which a single step loses half of the digits. For an LSTM, k is at most its number of "
        "cells, since the rest of its state is a function of them. For a stack, k is the smallest "
        "of the numbers for its layers, each of which is flossed by itself. The exponents are "
        "measured; the thresholds are a rule of thumb."
    )


def _code(subject: Subject, k: int) -> str:
    chaotic = ', state_gradient="detach"' if verdict_of(subject) == "explodes" else ""
    return (
        f"flosser = flossing.Flosser(network, k={k}{chaotic})\n"
        "flosser.before_training(batches)  # batches: a function that returns new inputs\n"
        "for step in range(steps):\n"
        "    flosser.step(step, batches)  # does nothing unless flossing is due\n"
        "    ...  # your training step"
    )


def _layers_table(subject: Subject) -> Table:
    rows: list[tuple[Value, ...]] = []
    for layer, spectrum in enumerate(subject.layer_spectra):
        exponents, _ = average(spectrum)
        advice = subject.advice[layer]
        rows.append((layer, float(exponents[0]), float(exponents[-1]), advice.carry, advice.k))
    return Table(
        caption=(
            "Each layer by itself, driven by the layer below: exponents in nats per step, number "
            "of directions that carry gradients, and k"
        ),
        columns=("Layer", "Largest λ", "Smallest λ", "Carry", "k"),
        rows=tuple(rows),
    )
