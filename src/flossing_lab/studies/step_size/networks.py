"""Copies of one network, trained together with a step size each."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from flossing.support.torch_typed import vector_norm
from flossing.tasks import DelayedCopy
from flossing_lab.networks.ensemble import clip
from flossing_lab.networks.networks import SequenceNetwork

BATCH_SIZE = 16
MAX_GRADIENT_NORM = 0.03
"""Of each network, as in the released code."""


class Copies(NamedTuple):
    """The parameters of S networks x_t = W tanh(x_{t−1}) + w s_t + b with answers r · x_t + c."""

    recurrent: Float[Tensor, "S N N"]
    inputs: Float[Tensor, "S N"]
    bias: Float[Tensor, "S N"]
    readout: Float[Tensor, "S N"]
    readout_bias: Float[Tensor, "S 1"]


def copies_of(network: SequenceNetwork, count: int) -> Copies:
    """Return copies of a vanilla network of one input channel and one answer."""
    (layer,) = network.vanilla_recurrence().layers
    own = (
        layer.weight_hh,
        layer.weight_ih.squeeze(-1),
        cast(Tensor, layer.bias_ih) + cast(Tensor, layer.bias_hh),
        network.readout.weight.squeeze(0),
        network.readout.bias,
    )
    return Copies(*(_repeated(each, count) for each in own))


def _repeated(parameter: Tensor, count: int) -> Tensor:
    return parameter.detach().expand(count, *parameter.shape).clone().requires_grad_()


def answers(copies: Copies, bits: Float[Tensor, "T #S B"]) -> Float[Tensor, "T S B"]:
    """Return the answers of every network to its own sequences, or to common ones; h_0 = 0."""
    recurrent = copies.recurrent.mT
    currents = bits.unsqueeze(-1) * copies.inputs.unsqueeze(1) + copies.bias.unsqueeze(1)
    hidden = torch.zeros_like(currents[0])
    potentials: list[Tensor] = []
    for current in currents.unbind():
        potentials.append(torch.baddbmm(current, hidden, recurrent))
        hidden = potentials[-1].tanh()
    return torch.einsum("tsbn,sn->tsb", torch.stack(potentials), copies.readout) + (
        copies.readout_bias
    )


def train(
    copies: Copies,
    task: DelayedCopy,
    step_sizes: Sequence[float],
    *,
    steps: int,
    generator: torch.Generator,
) -> None:
    """Train every network by Adam with its own step size, all on the same sequences."""
    # A step of Adam is proportional to its step size: take it with 1, and scale it.
    optimizer = torch.optim.Adam(copies, lr=1.0)
    sizes = torch.tensor(step_sizes)
    for _ in range(steps):
        given, targets = _drawn(task, BATCH_SIZE, generator)
        told = answers(copies, given)[task.delay :]
        losses = binary_cross_entropy_with_logits(
            told, targets.expand_as(told), reduction="none"
        ).mean(dim=(0, 2))
        gradients = torch.autograd.grad(losses.sum(), copies)
        clip(gradients, MAX_GRADIENT_NORM)
        for parameter, gradient in zip(copies, gradients, strict=True):
            parameter.grad = gradient
        before = [parameter.detach().clone() for parameter in copies]
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        with torch.no_grad():
            for parameter, start in zip(copies, before, strict=True):
                parameter.lerp_(start, 1 - sizes.reshape(-1, *[1] * (start.ndim - 1)))


@torch.no_grad()
def accuracies(
    copies: Copies, task: DelayedCopy, *, sequences: int, generator: torch.Generator
) -> Float[Tensor, " S"]:
    """Return the share of correct answers of every network, to the same fresh sequences."""
    given, targets = _drawn(task, sequences, generator)
    told = answers(copies, given)[task.delay :]
    return ((told > 0) == (targets > 0.5)).double().mean(dim=(0, 2))


def sensitivities(
    copies: Copies, task: DelayedCopy, *, sequences: int, generator: torch.Generator
) -> Float[Tensor, " S"]:
    """Return ‖∂y_T/∂W‖ of every network: the root mean square over fresh sequences.

    y_T is the answer at the last step, W the recurrent weights.
    """
    given, _ = _drawn(task, sequences, generator)
    count = len(copies.readout_bias)
    # Each sequence meets parameters of its own, so that one gradient of the sum is that of each.
    apart = Copies(*(each.detach().repeat_interleave(sequences, dim=0) for each in copies))
    recurrent = apart.recurrent.requires_grad_()
    own = given.squeeze(1).repeat(1, count).unsqueeze(-1)
    (gradient,) = torch.autograd.grad(answers(apart, own)[-1].sum(), recurrent)
    squares = vector_norm(gradient.flatten(1), dim=1).double().square()
    return squares.reshape(count, sequences).mean(dim=1).sqrt()


def _drawn(
    task: DelayedCopy, sequences: int, generator: torch.Generator
) -> tuple[Float[Tensor, "T 1 B"], Float[Tensor, "scored 1 B"]]:
    batch = task.sample(sequences, generator=generator)
    targets = batch.targets[task.delay :]
    return batch.inputs.squeeze(-1).unsqueeze(1), targets.squeeze(-1).unsqueeze(1)
