"""Initial weights of the experiments' networks.

The recurrent weights of each gate are "gaussian", "orthogonal", "identity", or the module's own.
The others are those that the literature combines them with, input weights times `input_gain`:

- tanh, relu and leaky: standard normal input weights and biases of zero or of `bias_scale`;
  for "gaussian" and "orthogonal" alike, as in Engelken (NeurIPS 2023, arXiv 2312.17306); with
  "identity", input weights of standard deviation 0.001, after Le, Jaitly & Hinton (2015, arXiv
  1504.00941);
- modrelu: input weights uniform after Glorot & Bengio (2010), biases uniform within ±0.01, as
  Arjovsky, Shah & Bengio (arXiv 1511.06464) and Helfrich, Willmott & Ye (arXiv 1707.09520) do;
- gru, lstm and lem, and everything that is "stock": uniform within ±1/√N, PyTorch's own and that
  of the code of Rusch et al. (ICLR 2022, arXiv 2110.04744).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flossing_lab.runs.configuration import Architecture

IDENTITY_INPUT_SCALE = 0.001
LARGEST_MODRELU_BIAS = 0.01


def initialise(
    recurrence: nn.Module, architecture: Architecture, generator: torch.Generator
) -> None:
    """Draw all weights of a recurrent module of an architecture, in place.

    The second bias of PyTorch's vanilla networks is redundant: unless the initialisation is
    "stock", it is zero and not trained.
    """
    weights = {
        name.removesuffix("_l0"): parameter for name, parameter in recurrence.named_parameters()
    }
    vanilla = architecture.cell in ("tanh", "relu", "leaky", "modrelu")
    with torch.no_grad():
        if architecture.initialisation in ("stock", "chrono") or not vanilla:
            _draw_stock(weights, architecture.size, generator)
        _draw_recurrent(weights, architecture, generator)
        if vanilla and architecture.initialisation != "stock":
            _draw_others(weights, architecture, generator)
        if architecture.initialisation == "chrono":
            _set_time_constants(weights, architecture, generator)
        weights["weight_ih"].mul_(architecture.input_gain)


def _draw_stock(weights: dict[str, nn.Parameter], size: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(size)
    for weight in weights.values():
        weight.uniform_(-bound, bound, generator=generator)


def _draw_recurrent(
    weights: dict[str, nn.Parameter], architecture: Architecture, generator: torch.Generator
) -> None:
    """Draw the recurrent matrix of each gate; a stock one, already drawn, is scaled."""
    size, gain = architecture.size, architecture.gain
    for name in ("weight_hh", "weight_zy"):
        if name not in weights:
            continue
        for matrix in weights[name].chunk(len(weights[name]) // size):
            match architecture.initialisation:
                case "gaussian":
                    matrix.normal_(0, gain / math.sqrt(size), generator=generator)
                case "orthogonal":
                    nn.init.orthogonal_(matrix, gain, generator=generator)
                case "identity":
                    nn.init.eye_(matrix).mul_(gain)
                case "stock" | "chrono":
                    matrix.mul_(gain)


def _draw_others(
    weights: dict[str, nn.Parameter], architecture: Architecture, generator: torch.Generator
) -> None:
    inputs = weights["weight_ih"]
    if architecture.cell == "modrelu":
        nn.init.xavier_uniform_(inputs, generator=generator)
        weights["bias"].uniform_(-LARGEST_MODRELU_BIAS, LARGEST_MODRELU_BIAS, generator=generator)
        return
    scale = IDENTITY_INPUT_SCALE if architecture.initialisation == "identity" else 1.0
    inputs.normal_(0, scale, generator=generator)
    for name in ("bias", "bias_ih", "bias_hh"):
        if name in weights:
            weights[name].zero_()
            if architecture.bias_scale is not None and name != "bias_hh":
                weights[name].normal_(0, architecture.bias_scale, generator=generator)
    if "bias_hh" in weights:
        weights["bias_hh"].requires_grad_(False)


def _set_time_constants(
    weights: dict[str, nn.Parameter], architecture: Architecture, generator: torch.Generator
) -> None:
    """Forget after T steps, T uniform from 1 to the longest memory − 1: b_f = ln T, b_i = −b_f.

    Source: Tallec & Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, arXiv
    1804.11188.
    """
    size = architecture.size
    memories = torch.empty(size).uniform_(1, architecture.longest_memory - 1, generator=generator)
    forget: Float[Tensor, " N"] = memories.log()
    # PyTorch's order of the gates: input, forget, cell, output.
    weights["bias_ih"][: 2 * size] = torch.cat([-forget, forget])
    weights["bias_hh"][: 2 * size] = 0
