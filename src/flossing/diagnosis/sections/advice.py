"""The recommendation: whether to floss, how many exponents, and what to expect of it."""

from dataclasses import asdict

from flossing.diagnosis.advice import (
    CARRYING_FACTOR,
    GATED_SHARE,
    VERDICTS,
    Verdict,
    average,
    resolvable_gap,
)
from flossing.diagnosis.subject import Subject
from flossing.report.model import Section, Table, Value
from flossing.support.formatting import format_number, plural

HEADING = "What to do"

_LIMITS_OF_FLOSSING = (
    "Flossing is gradient descent on the mean squared exponents, before training and, for long "
    "horizons, again during training. It changes the recurrent weights: apply it to a network that "
    "is yet to be trained, or continue training afterwards. Use one optimizer for all episodes, as "
    "flossing.Flosser does: the first step of a newly created Adam changes every weight by about "
    "the learning rate, however small its gradient, which undoes training.",
    "Flossed exponents are close to zero but not exactly zero, and the last of them remain lowest, "
    "so that longer horizons take more steps. Zero exponents do not remove every difficulty of "
    "long memory: outputs become more sensitive to parameters even where gradients do not explode "
    "(Zucchet & Orvieto 2024). Repeat this analysis on the flossed network. The method: Engelken, "
    "Gradient Flossing, NeurIPS 2023, arXiv 2312.17306.",
)
_GATED = (
    "Of an LSTM or GRU, floss few exponents, about a quarter of its units: with most of them "
    "flossed, the gradient of its weights points in fewer directions than before. How much it "
    "helps is not settled. In our experiments (docs/results.md) no LSTM or GRU that starts as "
    "PyTorch draws it has solved its task because it was flossed: accuracies on a delayed copy "
    "rose, and those on temporal XOR stayed at chance."
)
# Containers of a state dict in trainers' checkpoints, and wrappers whose attribute they are.
_CONTAINERS = ("state_dict", "model_state_dict", "module", "_orig_mod")


def advice_section(subject: Subject) -> Section:
    """Recommend whether to floss this network for the horizon, with which k, and state the rule."""
    k = suggested_k(subject)
    floss = verdict_of(subject) != "carries enough"
    gated = (_GATED,) if floss and subject.gated else ()
    return Section(
        heading=HEADING,
        meaning=(advice_in_words(subject), *gated, _unknown(subject), _directions_needed(subject)),
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
    """Return the recommendation in a few sentences, each with what it follows from."""
    over = f"over {plural(subject.horizon, 'step')}{_layers_concerned(subject)}"
    floss = f"floss k = {plural(suggested_k(subject), 'exponent')}"
    if len(subject.advice) > 1:
        floss += " of each layer"
    stalls = "If the network is yet to be trained, or training stalls at long delays"
    done = "If it does its task already, leave it as it is"
    match verdict_of(subject):
        case "explodes":
            return (
                f"{stalls}, {floss}: gradients explode {over}. Flossing pushes exponents to zero, "
                "the positive ones included. Keep gradient clipping, and floss with "
                f'state_gradient="detach". {done}: chaos need not hinder it.'
            )
        case "vanishes":
            return (
                f"{stalls}, {floss}: no direction carries gradients {over}; along each measured "
                f"one they shrink by a factor of {CARRYING_FACTOR:.0f} or more. {done}: a network "
                "that holds what it remembers in stable states, as a flip-flop does, contracts "
                "along all directions, too."
            )
        case "carries some":
            fewest = min(subject.advice, key=lambda each: each.carry / each.k)
            return (
                f"{stalls}, {floss}: {fewest.carry} of the {fewest.k} directions that flossing "
                f"would act on already carry gradients {over}. {done}."
            )
        case "carries enough":
            return (
                f"Flossing is not needed: as many directions as it would act on already carry "
                f"gradients {over}. Use --horizon to examine a longer horizon."
            )


def _layers_concerned(subject: Subject) -> str:
    worst = verdict_of(subject)
    layers = [str(layer) for layer, each in enumerate(subject.advice) if each.verdict == worst]
    if len(layers) == len(subject.advice):
        return ""
    return f" in layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}"


def _unknown(subject: Subject) -> str:
    uncertain = subject.counts.uncertain
    doubt = (
        f", and on which side of the threshold {plural(uncertain, 'exponent')} "
        f"{'lies' if uncertain == 1 else 'lie'}, within two standard errors of it"
        if uncertain
        else ""
    )
    return (
        "What this page does not know: whether the network has been trained and does its task, "
        f"its exponents under other inputs than {subject.source}{doubt}."
    )


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
        "which a single step loses half of the digits. For an LSTM it is at most the number of "
        "cells, since the rest of its state is a function of them; for LSTMs and GRUs alike at "
        f"most 1/{GATED_SHARE} of their units. For a stack, k is the smallest of the numbers for "
        "its layers, each of which is flossed by itself. The exponents are measured; the "
        "thresholds are a rule of thumb."
    )


def _code(subject: Subject, k: int) -> str:
    chaotic = ', state_gradient="detach"' if verdict_of(subject) == "explodes" else ""
    return (
        f"flosser = flossing.Flosser({_module_in_code(subject)}, k={k}{chaotic})\n"
        "flosser.before_training(batches)  # batches: a function that returns new inputs\n"
        "for step in range(steps):\n"
        "    flosser.step(step, batches)  # does nothing unless flossing is due\n"
        "    ...  # your training step"
    )


def _module_in_code(subject: Subject) -> str:
    """Return how a program would name the layer, after its place in the checkpoint."""
    path = [part for part in subject.network.prefix.split(".") if part]
    while path and path[0] in _CONTAINERS:
        del path[0]
    if path[:1] == ["model"]:
        del path[0]
    if all(part.isidentifier() for part in path):
        return ".".join(["model", *path])
    return f"model.get_submodule({'.'.join(path)!r})"


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
