"""Networks of one architecture with stacked parameters, trained as one model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from flossing.support.torch_typed import vector_norm
from flossing_lab.networks.networks import SequenceNetwork
from flossing_lab.runs.configuration import Clipping


class Ensemble:
    """S networks of the same shapes, each with one slice of the stacked parameters.

    The parameters of each network become views of the stacked ones: a training step of the
    ensemble changes the networks, and a flossing step of a network changes the ensemble.
    Elementwise optimizers such as Adam treat each network as if it were alone.

    Networks are stepped together by `torch.vmap`, which batches their small matrix products. It
    cannot map over a layer of PyTorch, which takes all steps in one operation; there it would also
    gain nothing (docs/speed.md, Many networks trained as one), so layers come one at a time.

    Attributes:
        networks: the networks.
    """

    def __init__(self, networks: Sequence[SequenceNetwork]) -> None:
        self.networks = list(networks)
        self._tensors = _stacked([dict(network.named_parameters()) for network in networks])
        self._buffers = _stacked([dict(network.named_buffers()) for network in networks])

    @property
    def parameters(self) -> dict[str, Float[Tensor, "S ..."]]:
        """The stacked parameters that require gradients, by name."""
        return {name: each for name, each in self._tensors.items() if each.requires_grad}

    def answers(self, inputs: Float[Tensor, "S T B D"]) -> Float[Tensor, "S T B C"]:
        """Return each network's answers to its own inputs, differentiable in the parameters."""
        tensors = self._tensors | self._buffers
        if len(self.networks) == 1:
            own = {name: each.squeeze(0) for name, each in tensors.items()}
            return self._answers_of_one(own, inputs.squeeze(0)).unsqueeze(0)
        # Random numbers that a step draws differ from network to network.
        return torch.vmap(self._answers_of_one, randomness="different")(tensors, inputs)

    def _answers_of_one(self, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self.networks[0], tensors, (inputs,))


def keep(ensemble: Ensemble, optimizer: torch.optim.Adam, kept: Sequence[int]) -> Ensemble:
    """Return an ensemble of some of the networks, whose training the optimizer continues.

    Args:
        ensemble: of S networks.
        optimizer: of its stacked parameters, in one group.
        kept: indices of the networks to keep.
    """
    smaller = Ensemble([ensemble.networks[index] for index in kept])
    (group,) = optimizer.param_groups
    before, after = list(ensemble.parameters.values()), list(smaller.parameters.values())
    for old, new in zip(before, after, strict=True):
        moments: dict[str, Any] = optimizer.state.pop(old, {})
        optimizer.state[new] = {
            name: value[list(kept)] if value.shape == old.shape else value
            for name, value in moments.items()
        }
    group["params"] = after
    return smaller


def clip(
    gradients: Sequence[Float[Tensor, "S ..."]], max_norm: float, clipping: Clipping = "network"
) -> Float[Tensor, " S"]:
    """Clip each network's gradient to a norm, in place; return its norms over all arrays before.

    With "network" as `torch.nn.utils.clip_grad_norm_`, with "array" each array by itself. A
    gradient that is not finite becomes zero: the run continues without this step.
    """
    own = torch.stack([vector_norm(each.flatten(1), dim=1) for each in gradients])
    norms = vector_norm(own, dim=0)
    if clipping == "network":
        scales = (max_norm / (norms + 1e-6)).clamp(max=1.0).expand_as(own)
    else:
        scales = (max_norm / own).clamp(max=1.0)
    for gradient, scale in zip(gradients, scales, strict=True):
        gradient *= scale.reshape(-1, *[1] * (gradient.ndim - 1))
        gradient[~norms.isfinite()] = 0.0
    return norms


def _stacked(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack tensors by name, and make the given ones views of the stacks."""
    stacks: dict[str, Tensor] = {}
    for name, first in each[0].items():
        stack = torch.stack([tensors[name].detach() for tensors in each])
        for index, tensors in enumerate(each):
            tensors[name].data = stack[index]
        stacks[name] = stack.requires_grad_(first.requires_grad)
    return stacks
