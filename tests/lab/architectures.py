"""Every cell, with every initialisation and form that it has."""

import itertools
from typing import get_args

import torch

from flossing.errors import InvalidOptionError
from flossing_lab.networks.networks import make_network
from flossing_lab.runs.configuration import Architecture, Cell, Form, Initialisation


def _all():
    options = (get_args(Cell), get_args(Initialisation), get_args(Form), (False, True))
    for cell, initialisation, form, orthogonal in itertools.product(*options):
        leak = 0.5 if cell == "leaky" else 1.0
        try:
            yield Architecture(
                cell=cell, size=8, initialisation=initialisation, form=form, orthogonal=orthogonal,
                leak=leak,
            )  # fmt: skip
        except InvalidOptionError:
            continue


def name(architecture):
    words = [architecture.cell, architecture.initialisation, architecture.form]
    return "-".join(words + ["kept"] * architecture.orthogonal)


ARCHITECTURES = list(_all())


def made(architecture, seed=0, input_size=2, output_size=3):
    generator = torch.Generator().manual_seed(seed)
    return make_network(
        architecture, input_size=input_size, output_size=output_size, generator=generator
    )
