"""PyTorch functions that its stubs leave untyped, with their types."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor

qr = cast(Callable[[Tensor], tuple[Tensor, Tensor]], torch.linalg.qr)  # pyright: ignore[reportUnknownMemberType]
solve_triangular = cast(Callable[..., Tensor], torch.linalg.solve_triangular)  # pyright: ignore[reportUnknownMemberType]
svdvals = cast(Callable[[Tensor], Tensor], torch.linalg.svdvals)  # pyright: ignore[reportUnknownMemberType]
matrix_norm = cast(Callable[..., Tensor], torch.linalg.matrix_norm)  # pyright: ignore[reportUnknownMemberType]
vector_norm = cast(Callable[..., Tensor], torch.linalg.vector_norm)  # pyright: ignore[reportUnknownMemberType]
slogdet = cast(Callable[[Tensor], tuple[Tensor, Tensor]], torch.linalg.slogdet)  # pyright: ignore[reportUnknownMemberType]
eigvals = cast(Callable[[Tensor], Tensor], torch.linalg.eigvals)  # pyright: ignore[reportUnknownMemberType]
rfft = cast(Callable[..., Tensor], torch.fft.rfft)  # pyright: ignore[reportUnknownMemberType]
irfft = cast(Callable[..., Tensor], torch.fft.irfft)  # pyright: ignore[reportUnknownMemberType]
from_numpy = cast(Callable[[Any], Tensor], torch.from_numpy)  # pyright: ignore[reportUnknownMemberType]
fork_rng = cast(Callable[..., AbstractContextManager[None]], torch.random.fork_rng)  # pyright: ignore[reportUnknownMemberType]


def unflatten(tensor: Tensor, dimension: int, sizes: Sequence[int]) -> Tensor:
    """Return `tensor.unflatten(dimension, sizes)`."""
    return cast(Tensor, tensor.unflatten(dimension, sizes))  # pyright: ignore[reportUnknownMemberType]


def numbers(tensor: Tensor) -> list[float]:
    """Return the entries of a vector."""
    return cast(list[float], tensor.tolist())  # pyright: ignore[reportUnknownMemberType]


def nested_numbers(tensor: Tensor) -> list[Any]:
    """Return the entries of a tensor of at least one dimension, as lists of lists."""
    return cast(list[Any], tensor.tolist())  # pyright: ignore[reportUnknownMemberType]


def split(tensor: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Return the parts of the given sizes along the last dimension."""
    return cast(tuple[Tensor, ...], tensor.split(sizes, dim=-1))  # pyright: ignore[reportUnknownMemberType]
