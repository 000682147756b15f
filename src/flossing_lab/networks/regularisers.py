"""A regulariser against vanishing and exploding gradients, a baseline of flossing."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.support.torch_typed import vector_norm
from flossing_lab.networks.cells import State
from flossing_lab.networks.networks import RateNetwork, SequenceNetwork, states_before


def norm_penalty(
    network: SequenceNetwork,
    inputs: Float[Tensor, "T B D"],
    loss_of_answers: Callable[[Tensor], Tensor],
    state: State | None = None,
) -> Float[Tensor, ""]:
    r"""Return Ω, a penalty on growth and decay of the gradient of the loss from step to step.

    .. math:: \Omega = \sum_{t=1}^{T-1} \left( \frac{\left\| \frac{dL}{dx_{t+1}}
        \frac{\partial x_{t+1}}{\partial x_t} \right\|}
        {\left\| \frac{dL}{dx_{t+1}} \right\|} - 1 \right)^2

    for x_t = W φ(x_{t−1}) + W_in s_t + b, so that ∂x_{t+1}/∂x_t = W diag φ'(x_t). As published, x
    is the state even where h = φ(x) is read out, and only this W is differentiated: dL/dx_{t+1} and
    x_t count as constants, so other parameters have no gradient.

    Ω is a mean over the sequences. Steps whose dL/dx_{t+1} is zero, or not finite in double
    precision, have no weight.

    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks",
    ICML 2013, arXiv 1211.5063, eq. 9 and 10.

    Args:
        network: a vanilla network, tanh or relu, in either form.
        inputs: of the network.
        loss_of_answers: the loss, a scalar, as a function of the answers (T, B, C); additive over
            the sequences, such as a mean over them.
        state: the state before the first step; `None` for `initial_state`.

    Raises:
        UnsupportedSystemError: the network is not a vanilla network.

    Example:
        An orthogonal W passes gradients on unchanged as long as no unit saturates:

        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing_lab.networks.networks import make_network
        >>> for initialisation in "orthogonal", "gaussian":
        ...     network = make_network(
        ...         Architecture(size=20, initialisation=initialisation),
        ...         input_size=1, output_size=1, generator=torch.Generator().manual_seed(0),
        ...     )
        ...     penalty = norm_penalty(network, torch.zeros(10, 4, 1), lambda z: z[-1].mean())
        ...     print(f"{penalty.item():.3f}")
        0.000
        0.550
    """
    recurrence = network.vanilla_recurrence()
    (weights,) = recurrence.layers
    with torch.no_grad():
        first = network.initial_state(inputs.shape[1]) if state is None else state
        hidden = network.hidden_states(inputs, first)
        previous = states_before(hidden, first)
        slopes = recurrence.kind.slopes(inputs, previous, weights)["hidden"]
        if isinstance(network, RateNetwork):
            from_inputs, from_states = weights.currents(inputs, previous)
            direct = _gradient(network, loss_of_answers, from_inputs + from_states)
        else:
            direct = slopes * _gradient(network, loss_of_answers, hidden)
        total = _total_gradients(direct, slopes, weights.weight_hh)
        norms = vector_norm(total, dim=-1, keepdim=True)
        counted = (norms > 0) & norms.isfinite()
        directions = torch.where(counted, total / norms, 0.0)[1:].to(hidden)
    ratios = vector_norm(slopes[:-1] * (directions @ weights.weight_hh), dim=-1)
    deviations = torch.where(counted[1:, :, 0], ratios - 1, 0.0)
    return deviations.square().sum(dim=0).mean()


def _gradient(
    network: SequenceNetwork, loss_of_answers: Callable[[Tensor], Tensor], read: Tensor
) -> Float[Tensor, "T B N"]:
    """Return the gradient of the loss with respect to what is read out, h or x."""

    def loss(read: Tensor) -> Tensor:
        return loss_of_answers(network.readout(read))

    return torch.func.grad(loss)(read)


def _total_gradients(
    direct: Float[Tensor, "T B N"], slopes: Float[Tensor, "T B N"], weight: Float[Tensor, "N N"]
) -> Float[Tensor, "T B N"]:
    """Return dL/dx_t = ∂L/∂x_t + φ'(x_t) Wᵀ dL/dx_{t+1}.

    In float64, for over a long sequence gradients leave the range of float32.
    """
    direct, slopes, weight = direct.double(), slopes.double(), weight.double()
    total = [direct[-1]]
    for step in reversed(range(len(direct) - 1)):
        total.append(torch.addcmul(direct[step], slopes[step], total[-1] @ weight))
    return torch.stack(total[::-1])
