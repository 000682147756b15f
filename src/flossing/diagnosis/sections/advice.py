"""Whether to floss, how many exponents, and what that will and will not do."""

import math
from dataclasses import asdict

import torch

from flossing.diagnosis.advice import CARRYING_FACTOR, VERDICTS, Verdict, average
from flossing.diagnosis.study import Study
from flossing.report.model import Section, Table
from flossing.support.formatting import counted, number_in_words

PUBLISHED = "Engelken, Gradient Flossing, NeurIPS 2023, arXiv 2312.17306"


def advice_section(study: Study) -> Section:
    """Say whether to floss this network for the horizon, with which k, and by what rule."""
    k = suggested_k(study)
    floss = verdict_of(study) != "carries all"
    return Section(
        heading="What to do",
        meaning=(advice_in_words(study), _need_of_directions(study)),
        tables=(_layers_table(study),) if len(study.advice) > 1 else (),
        text=(_rule(study), *(_limits_of_flossing() if floss else ())),
        code=_code(study, k) if floss else "",
        numbers={
            "floss": floss,
            "k": k,
            "layers": [asdict(each) for each in study.advice],
        },
    )


def suggested_k(study: Study) -> int:
    """Return how many exponents to floss; of a stack, in each layer."""
    return min(each.k for each in study.advice)


def verdict_of(study: Study) -> Verdict:
    """Return the verdict on the layer that needs flossing most."""
    return next(each for each in VERDICTS if each in [advice.verdict for advice in study.advice])


def advice_in_words(study: Study) -> str:
    """Say in a few sentences what to do."""
    over = f"over {counted(study.horizon, 'step')}{_in_which_layers(study)}"
    floss = f"Floss k = {suggested_k(study)} exponents"
    if len(study.advice) > 1:
        floss += " of each layer"
    match verdict_of(study):
        case "explodes":
            return (
                f"{floss}: gradients explode {over}, and pushing exponents to zero brings the "
                "positive ones down too. Keep gradient clipping, and cut the gradient through the "
                "states while flossing."
            )
        case "vanishes":
            return (
                f"{floss}: no direction carries gradients {over}, so hardly anything that lies so "
                "far back can be learned there."
            )
        case "carries some":
            fewest = min(study.advice, key=lambda each: each.carry / each.k)
            return (
                f"{floss} if training stalls at long delays: {fewest.carry} of the {fewest.k} "
                f"directions that flossing could help carry gradients {over} as it is."
            )
        case "carries all":
            return (
                f"There is no need to floss: {over}, all directions that flossing could help carry "
                "gradients already. Longer horizons are asked about with --horizon."
            )


def _in_which_layers(study: Study) -> str:
    worst = verdict_of(study)
    layers = [str(layer) for layer, each in enumerate(study.advice) if each.verdict == worst]
    if len(study.advice) == 1 or len(layers) == len(study.advice):
        return ""
    return f" in layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}"


def _need_of_directions(study: Study) -> str:
    features = study.inputs.shape[-1]
    values, size = study.horizon * features, study.state_size
    more = f", more than the {size} that the state has" if values > size else ""
    return (
        "How many directions are enough depends on the task. To repeat the last "
        f"{counted(study.horizon, 'input')} of {counted(features, 'feature')} takes about "
        f"{counted(values, 'direction')}{more}; to hold one of a few classes takes a handful."
    )


def _rule(study: Study) -> str:
    dtype = study.flossing_dtype
    gap = -math.log(torch.finfo(dtype).eps) / 2
    return (
        "The rule: a direction carries gradients over H steps if |λᵢ| H < "
        f"ln {CARRYING_FACTOR:.0f}, that is, if they change by less than a thousandfold; if fewer "
        "than k do, or if any explodes, flossing has something to do. k counts the exponents that "
        f"{str(dtype).removeprefix('torch.')} can work with: finite, and less than "
        f"{number_in_words(gap, 2)} nats per step below the largest, where a single step leaves "
        "half of the digits; of an LSTM no more than it has cells, since the rest of its state is "
        "a function of them; of a stack the smallest such number of its layers, each of which is "
        "flossed by itself. It is a rule of thumb: the exponents are measured, the threshold is a "
        "choice."
    )


def _limits_of_flossing() -> tuple[str, ...]:
    return (
        "Flossing is gradient descent on the mean squared exponents, before training and, where "
        "horizons are long, again during it. It changes the recurrent weights: floss a network "
        "that is yet to be trained, or train on afterwards. Pass one optimizer for all episodes, "
        "as flossing.Flosser does, for a fresh Adam moves every weight by its full step and undoes "
        f"training. The published setting is 500 steps ({PUBLISHED}).",
        "What to expect: exponents come close to zero, not onto it, and the last of them stay "
        "lowest, so carrying further takes more steps. Zero exponents are not all, either: with "
        "long memory, outputs become more sensitive to parameters even where gradients do not "
        "explode (Zucchet & Orvieto 2024). Run this analysis again on the flossed network.",
    )


def _code(study: Study, k: int) -> str:
    chaotic = ', state_gradient="detach"' if verdict_of(study) == "explodes" else ""
    return (
        f"flosser = flossing.Flosser(network, k={k}{chaotic})\n"
        "flosser.before_training(batches)  # batches: a function that returns fresh inputs\n"
        "for step in range(steps):\n"
        "    flosser.step(step, batches)  # does nothing unless flossing is due\n"
        "    ...  # your training step"
    )


def _layers_table(study: Study) -> Table:
    rows: list[tuple[int | float, ...]] = []
    for layer, (spectrum, advice) in enumerate(zip(study.layer_spectra, study.advice, strict=True)):
        exponents, _ = average(spectrum)
        rows.append((layer, float(exponents[0]), float(exponents[-1]), advice.carry, advice.k))
    return Table(
        caption="Each layer by itself, driven by the one below",
        columns=("Layer", "Largest λ", "Smallest λ", "Carry", "k"),
        rows=tuple(rows),
    )
