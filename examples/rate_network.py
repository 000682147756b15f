"""Measure a rate network whose weights come from a file, with and without an input.

    h' = h + dt (-h + W tanh(h) + B u)

A random network with a gain above 1 is chaotic by itself; a strong input silences its chaos
(Molgedey, Schuchhardt & Schuster 1992; Rajan, Abbott & Sompolinsky 2010).
"""

# %% Weights in a file, as another program would have written them.
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import flossing

UNITS, GAIN, DT, STEPS = 60, 3.0, 0.2, 1000
random = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "weights.npz"
    recurrent = GAIN / math.sqrt(UNITS) * random.standard_normal((UNITS, UNITS))
    np.savez(path, W=recurrent, B=random.standard_normal((UNITS, 1)))
    with np.load(path) as file:
        W, B = torch.from_numpy(file["W"]), torch.from_numpy(file["B"])


# %% The map: any callable (inputs, state) -> state on batches, here in double precision.
def step(u: Tensor, h: Tensor) -> Tensor:
    return h + DT * (-h + torch.tanh(h) @ W.T + u @ B.T)


start = torch.from_numpy(random.standard_normal((1, UNITS)))
time = DT * torch.arange(STEPS, dtype=torch.float64).reshape(-1, 1, 1)
drive = torch.sin(math.pi * time)

# %% Exponents per unit of time, by `dt`. Without input the first one is positive: chaos. The second
# is the zero exponent that every flow has, along its own direction, up to its error.
spectra: dict[float, flossing.LyapunovSpectrum] = {}
for amplitude in (0.0, 4.0):
    with torch.no_grad():
        spectra[amplitude] = flossing.lyapunov_spectrum(
            step, amplitude * drive, start, k=20, state_transient=200, dt=DT
        )
    first, error = spectra[amplitude].exponents[0, 0], spectra[amplitude].standard_error[0, 0]
    dimension = spectra[amplitude].kaplan_yorke_dimension[0]
    print(
        f"amplitude {amplitude:g}: largest exponent {first:.2f} ± {error:.2f} per unit of time, "
        f"Kaplan-Yorke dimension {dimension:.1f}"
    )

# %% Covariant vectors: the direction of each exponent, and on how many units it lives. An inverse
# participation ratio of 1 is a single unit, 1/UNITS all of them evenly.
vectors = flossing.covariant_vectors(step, 0.0 * drive, start, k=5, state_transient=200, every=10)
participation = 1 / vectors.inverse_participation_ratio.mean(dim=(0, 1))
print(f"the first direction lives on about {participation[0]:.0f} of {UNITS} units")
