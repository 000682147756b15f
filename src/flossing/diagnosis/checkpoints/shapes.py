"""Recognition of recurrent layers by the names and shapes of their weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flossing.diagnosis.checkpoints.derived import OWN
from flossing.diagnosis.checkpoints.description import Kind, Nonlinearity
from flossing.errors import InvalidCheckpointError, UnsupportedSystemError
from flossing.support.formatting import plural
from flossing.systems.stock import StockCell, StockLayer

# By the rows of the recurrent weights per hidden unit.
KIND_BY_GATES: dict[int, Kind] = {1: "RNN", 3: "GRU", 4: "LSTM"}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_WEIGHT = re.compile(rf"(?P<prefix>(?:.*\.)?)(?P<own>{OWN})")


class Sizes(NamedTuple):
    """Kind, sizes and precision of a layer or cell of PyTorch: everything but the nonlinearity.

    Attributes:
        kind: Kind of the module.
        cell: Whether it is a cell, such as `nn.GRUCell`, instead of a layer.
        input_size: D.
        hidden_size: N.
        num_layers: Number of stacked layers; 1 for a cell.
        bias: Whether it has biases.
        proj_size: Size of an LSTM's projected output; 0 for no projection.
        dtype: Precision of all weights.
    """

    kind: Kind
    cell: bool
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    proj_size: int
    dtype: torch.dtype

    def build(
        self, device: str, nonlinearity: Nonlinearity | None = None
    ) -> StockLayer | StockCell:
        """Return the module with uninitialised weights; the random state is left alone.

        Args:
            device: "meta" for the shapes alone.
            nonlinearity: Of an RNN; `None` for PyTorch's default.
        """
        constructor = getattr(nn, f"{self.kind}Cell" if self.cell else self.kind)
        options: dict[str, object] = {"bias": self.bias, "dtype": self.dtype, "device": "meta"}
        if not self.cell:
            options["num_layers"] = self.num_layers
        if nonlinearity is not None:
            options["nonlinearity"] = nonlinearity
        if self.proj_size:
            options["proj_size"] = self.proj_size
        module = constructor(self.input_size, self.hidden_size, **options)
        return module if device == "meta" else module.to_empty(device=device)


@dataclass(frozen=True)
class RecurrentWeights:
    """Weights of one recurrent layer, stack or cell.

    Attributes:
        prefix: Prefix of their names in the checkpoint.
        tensors: By name, without the prefix.
    """

    prefix: str
    tensors: Mapping[str, Tensor]

    @property
    def sizes(self) -> Sizes:
        """Kind and sizes of the module that the weights belong to.

        Raises:
            UnsupportedSystemError: The module is bidirectional.
            InvalidCheckpointError: The shapes are those of no layer or cell of PyTorch, or
                contradict one another.
        """
        if any(name.endswith("_reverse") for name in self.tensors):
            raise UnsupportedSystemError(
                f"the recurrent layer under {self.prefix!r} is bidirectional: its two directions "
                "run through time in opposite senses, so there is no single forward map and no "
                "Lyapunov spectrum; use a unidirectional layer"
            )
        sizes = self._sizes_of_first_layer()
        expected = {
            name: tuple(weight.shape) for name, weight in sizes.build("meta").state_dict().items()
        }
        found = {name: tuple(weight.shape) for name, weight in self.tensors.items()}
        if found != expected:
            raise InvalidCheckpointError(
                f"the shapes under {self.prefix!r} contradict one another: for "
                f"{summary_of(sizes)}, {_differences(expected, found)}; check that the checkpoint "
                "is complete, or pass the module that it was saved from with --module "
                "package.module:factory"
            )
        return sizes

    def _sizes_of_first_layer(self) -> Sizes:
        cell = "weight_hh" in self.tensors
        suffix = "" if cell else "_l0"
        inputs = self._matrix(f"weight_ih{suffix}")
        recurrent = self._matrix(f"weight_hh{suffix}")
        projected = f"weight_hr{suffix}" in self.tensors
        rows, columns = recurrent.shape
        projection = self._matrix(f"weight_hr{suffix}") if projected else recurrent.T
        hidden = projection.shape[1] if projected else columns
        kind = KIND_BY_GATES.get(rows // hidden) if hidden and rows % hidden == 0 else None
        if kind is None or (projected and kind != "LSTM"):
            raise InvalidCheckpointError(
                f"{self.prefix}weight_hh{suffix} has the shape {(rows, columns)} for {hidden} "
                "hidden units: expected 1 (RNN), 3 (GRU) or 4 (LSTM) times as many rows, and 4 "
                "where there is a projection; for a custom module pass --module "
                "package.module:factory, and for weights of Keras see flossing.keras_layer"
            )
        layers = {name.rpartition("_l")[2] for name in self.tensors if "_l" in name}
        return Sizes(
            kind=kind,
            cell=cell,
            input_size=inputs.shape[1],
            hidden_size=hidden,
            num_layers=len(layers) or 1,
            bias=any(name.startswith("bias") for name in self.tensors),
            proj_size=projection.shape[0] if projected else 0,
            dtype=self._dtype(),
        )

    def _matrix(self, name: str) -> Tensor:
        matrix = self.tensors.get(name)
        if matrix is None or matrix.dim() != 2:
            found = "is missing" if matrix is None else f"has the shape {tuple(matrix.shape)}"
            raise InvalidCheckpointError(
                f"{self.prefix}{name} {found}; expected a matrix: check that the checkpoint is "
                "complete"
            )
        return matrix

    def _dtype(self) -> torch.dtype:
        dtypes = {weight.dtype for weight in self.tensors.values()}
        if len(dtypes) > 1 or not dtypes <= set(DTYPES):
            raise InvalidCheckpointError(
                f"the weights under {self.prefix!r} are {', '.join(sorted(map(str, dtypes)))}; "
                f"expected one and the same of {', '.join(map(str, DTYPES))}: convert the module "
                "with .float() before saving, and quantised weights with their scale"
            )
        return dtypes.pop()


def recurrent_weights(tensors: Mapping[str, Tensor]) -> list[RecurrentWeights]:
    """Return the recurrent layers among the tensors of a checkpoint, by PyTorch's names.

    Example:
        >>> weights = {f"rnn.{name}": w for name, w in nn.RNN(1, 4).state_dict().items()}
        >>> (found,) = recurrent_weights(weights | {"readout.weight": torch.zeros(1, 4)})
        >>> found.prefix, found.sizes.kind, found.sizes.hidden_size
        ('rnn.', 'RNN', 4)
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _WEIGHT.fullmatch(name):
            groups.setdefault(match["prefix"], {})[match["own"]] = tensor
    return [
        RecurrentWeights(prefix, own)
        for prefix, own in groups.items()
        if any(name.startswith("weight_hh") for name in own)
    ]


def summary_of(sizes: Sizes) -> str:
    """Return kind, sizes and precision of a module as text.

    Example:
        >>> summary_of(Sizes("LSTM", False, 1, 64, 1, True, 16, torch.float32))
        'LSTM: 1 input, 64 hidden units projected to 16, 1 layer, float32'
    """
    projection = f" projected to {sizes.proj_size}" if sizes.proj_size else ""
    layers = "" if sizes.cell else f", {plural(sizes.num_layers, 'layer')}"
    bias = "" if sizes.bias else ", no bias"
    return (
        f"{sizes.kind}{'Cell' if sizes.cell else ''}: {plural(sizes.input_size, 'input')}, "
        f"{plural(sizes.hidden_size, 'hidden unit')}{projection}{layers}{bias}, "
        f"{str(sizes.dtype).removeprefix('torch.')}"
    )


def _differences(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> str:
    differences = [
        f"{name} should be {shape} and is {found.get(name, 'missing')}"
        for name, shape in expected.items()
        if found.get(name) != shape
    ]
    differences += [f"there should be no {name}" for name in found if name not in expected]
    more = len(differences) - 3
    return "; ".join(differences[:3]) + (f"; and {more} more" if more > 0 else "")
