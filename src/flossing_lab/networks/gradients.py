"""Norms of the gradient of the loss with respect to states at growing lags.

The state h is the whole state, of an LSTM both of its vectors.
"""

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.gradient_horizon import log_total_gradient
from flossing.analysis.linearisation import linearise
from flossing.support.pytree import flatten
from flossing.support.torch_typed import vector_norm
from flossing.tasks import Batch, Kind, task_loss
from flossing_lab.networks.cells import State
from flossing_lab.networks.networks import SequenceNetwork


def first_state_gradient_norm(network: SequenceNetwork, kind: Kind, batch: Batch) -> float:
    """Return ‖∂L/∂h_0‖ for the loss over whole sequences, root mean square over the sequences."""
    network, batch = _in_double_precision(network, batch)
    leaves, rebuild = flatten(_start(network, batch))
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    loss = task_loss(kind, network(batch.inputs, rebuild(leaves)), batch)
    gradients = torch.autograd.grad(loss, leaves)
    rows = torch.cat([gradient.reshape(gradient.shape[-2:]) for gradient in gradients], dim=-1)
    return float(_over_sequences(vector_norm(rows, dim=-1)))


def gradient_norm_by_lag(network: SequenceNetwork, kind: Kind, batch: Batch) -> Float[Tensor, " T"]:
    """Return ‖∂L/∂h_{T−s}‖ for the lags s = 1 … T, root mean square over the sequences.

    L is the loss at the last step alone, which must have a target: a loss over several steps would
    mix their lags.
    """
    network, batch = _in_double_precision(network, batch)
    last = Batch(batch.inputs[-1:], batch.targets[-1:], batch.mask[-1:])
    trajectory = linearise(network.system, batch.inputs[:-1], _start(network, batch), exponents=1)
    errors = torch.zeros_like(trajectory.states[1:])
    before = trajectory.states[-1].detach().requires_grad_()
    state = trajectory.problem.recurrence.unpack(before, batched=True)
    loss = task_loss(kind, network(last.inputs, state), last)
    (errors[-1],) = torch.autograd.grad(loss, [before])
    with torch.no_grad():
        norms = log_total_gradient(trajectory, errors).exp()
    return _over_sequences(norms.flip(0))


def _in_double_precision(network: SequenceNetwork, batch: Batch) -> tuple[SequenceNetwork, Batch]:
    """Return copies in float64: in float32 the gradient at long lags underflows to zero."""
    targets = batch.targets.double() if batch.targets.is_floating_point() else batch.targets
    return copy.deepcopy(network).double(), Batch(batch.inputs.double(), targets, batch.mask)


def _start(network: SequenceNetwork, batch: Batch) -> State:
    with torch.no_grad():
        return network.initial_state(batch.inputs.shape[1])


def _over_sequences(norms: Float[Tensor, "*lags B"]) -> Float[Tensor, "*lags"]:
    # The loss is a mean over B sequences, so autograd returns 1/B times the gradient of each
    # sequence's own loss: the root mean square is √(Σ (B g)² / B) = √(Σ g²) √B.
    return norms.square().sum(dim=-1).sqrt() * math.sqrt(norms.shape[-1])
