"""Several networks of one architecture, their parameters stacked, trained as one model."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from flossing.support.torch_typed import vector_norm
from flossing_lab.networks.networks import SequenceNetwork


class Ensemble:
    """S networks with the same shapes, each the owner of one slice of the stacked parameters.

    Every network stays a module of its own: its parameters are views of the stacked ones, so that
    what changes the one (a training step of the ensemble, a flossing step of a network) changes
    the other. Elementwise optimizers such as Adam treat each network as if it were alone.

    Args:
        networks: of one architecture; their parameters are rebound to the stacked ones.

    Attributes:
        networks: the networks.
        parameters: what is trained, by name; each (S, ...).

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing_lab.networks.networks import make_network
        >>> networks = [
        ...     make_network(
        ...         Architecture(size=8),
        ...         input_size=1,
        ...         output_size=1,
        ...         generator=torch.Generator().manual_seed(seed),
        ...     )
        ...     for seed in (0, 1)
        ... ]
        >>> ensemble = Ensemble(networks)
        >>> ensemble.answers(torch.zeros(2, 20, 4, 1)).shape
        torch.Size([2, 20, 4, 1])
    """

    def __init__(self, networks: Sequence[SequenceNetwork]) -> None:
        self.networks = list(networks)
        self._tensors = _stacked([dict(network.named_parameters()) for network in networks])
        self._buffers = _stacked([dict(network.named_buffers()) for network in networks])
        for index, network in enumerate(self.networks):
            _bind(dict(network.named_parameters()), self._tensors, index)
            _bind(dict(network.named_buffers()), self._buffers, index)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The stacked parameters that require gradients."""
        return {name: each for name, each in self._tensors.items() if each.requires_grad}

    def answers(self, inputs: Float[Tensor, "S T B D"]) -> Float[Tensor, "S T B C"]:
        """Each network's answers to its own inputs, differentiable in the stacked parameters.

        A network whose loops are compiled is run by itself, which leaves little but arithmetic;
        the others step together, their small products done as batches of products.
        """
        tensors = self._tensors | self._buffers
        if not self.networks[0].runs_compiled:
            # A step must not differ from network to network by the randomness it draws.
            together = torch.vmap(self._answer, randomness="different")
            return together(tensors, inputs)
        each = {name: tensor.unbind() for name, tensor in tensors.items()}
        return torch.stack(
            [
                self._answer({name: parts[index] for name, parts in each.items()}, own)
                for index, own in enumerate(inputs)
            ]
        )

    def _answer(self, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self.networks[0], tensors, (inputs,))


def keep(ensemble: Ensemble, optimizer: torch.optim.Adam, kept: Sequence[int]) -> Ensemble:
    """Return an ensemble of some of the networks, and have the optimizer go on with them.

    Args:
        ensemble: of S networks.
        optimizer: of its stacked parameters, all in one group.
        kept: which of them, as indices.
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


def clip(gradients: Sequence[Float[Tensor, "S ..."]], max_norm: float) -> Float[Tensor, " S"]:
    """Clip each network's gradient to a norm, in place; as `torch.nn.utils.clip_grad_norm_`.

    A gradient that is not finite becomes zero: it says nothing, and must not end the run.

    Args:
        gradients: of the stacked parameters.
        max_norm: the largest norm that is left as it is.

    Returns:
        The norms before.
    """
    norms = vector_norm(
        torch.stack([vector_norm(each.flatten(1), dim=1) for each in gradients]), dim=0
    )
    scales = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient *= scales.reshape(-1, *[1] * (gradient.ndim - 1))
        gradient[~norms.isfinite()] = 0.0
    return norms


def _stacked(each: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    first = each[0]
    return {
        name: torch.stack([tensors[name].detach() for tensors in each]).requires_grad_(
            tensor.requires_grad
        )
        for name, tensor in first.items()
    }


def _bind(
    own: dict[str, Tensor] | dict[str, nn.Parameter], stacked: dict[str, Tensor], index: int
) -> None:
    for name, tensor in own.items():
        tensor.data = stacked[name].data[index]
