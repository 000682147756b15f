"""Measure and floss a spiking network; surrogate gradients count as derivatives.

Leaky integrate-and-fire units with membrane potentials V and spikes s, under inputs x:

    V' = a V + W s + U x - theta s,        s' = 1 if V' > theta else 0
"""

# %% A spike: a step function forward, and backward the derivative of a fast sigmoid. That this is
# not the derivative of the step, a warning would say; here it is meant.
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import flossing

UNITS, FEATURES, THRESHOLD, SHARPNESS = 20, 3, 1.0, 2.0
torch.manual_seed(0)
warnings.simplefilter("ignore", flossing.DerivativeMismatchWarning)


class Spike(torch.autograd.Function):
    """The Heaviside function with a surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradient / (1 + SHARPNESS * distance.abs()) ** 2


# %% The cell: any callable (inputs, state) -> state. As a module it brings its parameters along.
class State(NamedTuple):
    """Membrane potentials and spikes, each (batch, units)."""

    membrane: Tensor
    spikes: Tensor


class SpikingCell(nn.Module):
    """One step of the network; a spike lowers the membrane potential by the threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(FEATURES, UNITS, bias=False)
        self.recurrent = nn.Linear(UNITS, UNITS, bias=False)
        self.leak = nn.Parameter(torch.full((UNITS,), 0.8))

    def forward(self, inputs: Tensor, state: State) -> State:
        current = self.input(inputs) + self.recurrent(state.spikes)
        membrane = self.leak * state.membrane + current - THRESHOLD * state.spikes
        return State(membrane, Spike.apply(membrane - THRESHOLD))


cell = SpikingCell()
rest = State(torch.zeros(2, UNITS), torch.zeros(2, UNITS))


# %% Measure under random input spikes. The state (V, s) has 2 * UNITS dimensions, but s' follows
# from V', so that at most UNITS exponents are finite; these are the first five.
def batch() -> Tensor:  # (steps, batch, features)
    return 2.0 * torch.randint(2, (40, 2, FEATURES)).float()


def diagnose(when: str) -> Tensor:
    with torch.no_grad():
        exponents = flossing.lyapunov_spectrum(cell, batch(), rest, k=5).exponents.mean(dim=0)
    print(f"{when}: exponents from {exponents[0]:.2f} to {exponents[-1]:.2f} nats per step")
    return exponents


before = diagnose("at initialisation")

# %% Floss. The five exponents rise to zero: perturbations of V no longer fade with the leak.
history = flossing.floss(cell, batch, k=5, steps=60, lr=1e-2, state=rest)
after = diagnose("after flossing")
print(f"mean squared exponent: {history.loss[0]:.3f} -> {history.loss[-1]:.4f}")
