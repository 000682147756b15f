"""Eigenvalues, norm and departure from normality of recurrent weights."""

from dataclasses import dataclass

from jaxtyping import Complex, Float
from torch import Tensor

from flossing.typed import eigvals, matrix_norm


@dataclass(frozen=True)
class WeightSpectrum:
    r"""What a square matrix W does to vectors, alone and again and again.

    Attributes:
        eigenvalues: (N,), of W.
        spectral_radius: ρ(W), the largest modulus of an eigenvalue: the growth per step of W^t
            after many steps.
        spectral_norm: ‖W‖₂, the largest growth in one step; never below the radius.
        departure_from_normality: Henrici's (‖W‖_F² − Σ|μ_i|²)^½ over ‖W‖_F, from 0 for a normal
            matrix (symmetric, orthogonal) to 1 for a nilpotent one, a chain (Henrici 1962;
            Trefethen & Embree, "Spectra and Pseudospectra", 2005). Zero for W = 0.
    """

    eigenvalues: Complex[Tensor, "N"]
    spectral_radius: float
    spectral_norm: float
    departure_from_normality: float


def weight_spectrum(weights: Float[Tensor, "N N"]) -> WeightSpectrum:
    """Measure a square matrix, in double precision.

    Example:
        A chain: no eigenvalue but 0, and yet it hands a vector on undiminished.

        >>> import torch
        >>> chain = weight_spectrum(torch.diag(torch.ones(3), -1))
        >>> chain.spectral_radius, chain.spectral_norm, chain.departure_from_normality
        (0.0, 1.0, 1.0)
    """
    matrix = weights.detach().double()
    eigenvalues = eigvals(matrix)
    energy = float(matrix.square().sum())
    # Rounding can make the difference negative where the matrix is normal.
    excess = max(0.0, energy - float(eigenvalues.abs().square().sum()))
    return WeightSpectrum(
        eigenvalues=eigenvalues,
        spectral_radius=float(eigenvalues.abs().max()),
        spectral_norm=float(matrix_norm(matrix, ord=2)),
        departure_from_normality=(excess / energy) ** 0.5 if energy > 0 else 0.0,
    )
