"""Loading of the recurrent network in a checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flossing.diagnosis.checkpoints.derived import Derived, recurrent_names, with_derived_weights
from flossing.diagnosis.checkpoints.description import Description
from flossing.diagnosis.checkpoints.factory import build_by_factory, load_exactly
from flossing.diagnosis.checkpoints.prefixes import matching_prefixes
from flossing.diagnosis.checkpoints.rate_network import build_rate_network
from flossing.diagnosis.checkpoints.shapes import RecurrentWeights, recurrent_weights, summary_of
from flossing.errors import InvalidCheckpointError, InvalidOptionError
from flossing.support.array_files import (
    ARRAY_SUFFIXES,
    array_names,
    as_tensor,
    holds_objects,
    is_real,
    load_array,
)
from flossing.support.tensor_files import (
    UNNAMED,
    load_pytorch,
    load_safetensors,
    named_tensors,
    require_values,
)

_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Network:
    """A recurrent network from a checkpoint, in eval mode, ready for `lyapunov_spectrum`.

    Attributes:
        module: A layer or cell of PyTorch, or what the factory made, on the CPU.
        prefix: Prefix of its parameter names in the checkpoint.
        summary: Its kind and sizes, as text.
        assumptions: Assumptions about what the checkpoint does not contain, as text.
        rebuilt: How weights were made of the parts that the checkpoint contains, as text.
    """

    module: nn.Module
    prefix: str
    summary: str
    assumptions: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()

    @property
    def input_size(self) -> int | None:
        """Number D of input features; `None` if a custom module does not have the attribute."""
        size = getattr(self.module, "input_size", None)
        return size if isinstance(size, int) else None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.module.parameters()).dtype

    @property
    def layers(self) -> int:
        """Number of stacked layers; 1 for cells and custom modules."""
        return self.module.num_layers if isinstance(self.module, nn.RNNBase) else 1

    def initial_state(self, trajectories: int) -> Any:
        """Return the state before the first step of so many trajectories.

        Returns:
            `None`, meaning zero, for a layer or cell of PyTorch; for a custom module what its
            method `initial_state(trajectories)` returns.

        Raises:
            InvalidOptionError: The custom module has no such method.
        """
        if isinstance(self.module, nn.RNNBase | nn.RNNCellBase):
            return None
        method = getattr(self.module, "initial_state", None)
        if not callable(method):
            raise InvalidOptionError(
                f"{type(self.module).__name__} has no method initial_state(batch_size): add one "
                "that returns the state before the first step"
            )
        return method(trajectories)


def load_network(path: Path, description: Description | None = None) -> Network:
    """Find the recurrent layer in a checkpoint and rebuild it.

    The file may be a state dict, or nested dictionaries that contain one, such as a trainer's
    checkpoint. No code in the file is run. Input size, hidden size, number of layers, biases,
    projection and precision follow from the shapes of the tensors, and the kind of the layer from
    the number of rows of the recurrent weights per hidden unit: 1 (RNN), 3 (GRU) or 4 (LSTM).
    Weights that are stored in parts, pruned or normalised, are rebuilt as in eval mode.

    Args:
        path: `.safetensors`, or a file saved by `torch.save`.
        description: What the checkpoint does not contain. A factory named in it is imported, also
            from the current folder, and run.

    Returns:
        The network in eval mode.

    Raises:
        UnreadableFileError: The file is missing or damaged, or contains more than tensors.
        InvalidCheckpointError: It contains no recurrent layer, or several; the shapes contradict
            one another; weights are not finite, or are computed in a way that is not known.
        InvalidOptionError: The description does not fit the checkpoint.
        UnsupportedSystemError: The layer is bidirectional.
        ImportError: safetensors is missing.
    """
    description = description or Description()
    tensors = read_tensors(path)
    if description.rate_network is not None:
        cell, summary, unused = build_rate_network(tensors, description.rate_network)
        states = "first states are standard normal, seed 0"
        return Network(cell.eval(), "", summary, (states, *_unused(unused)))
    if description.factory is None:
        return _stock_network(tensors, description)
    module = build_by_factory(description.factory, description.arguments)
    for name, tensor in tensors.items():
        require_values(name, tensor)
    prefix, unused = load_exactly(module, tensors, description.prefix)
    _require_finite(module.state_dict(), prefix)
    return Network(
        module.eval(),
        prefix,
        f"{type(module).__name__} by {description.factory}",
        _unused(unused),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint, or arrays of real numbers, by name.

    Raises:
        UnreadableFileError: The file is missing or damaged, or contains more than tensors.
        InvalidCheckpointError: It contains no named tensors.
    """
    if path.suffix.lower() == ".safetensors":
        return load_safetensors(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _array_tensors(path)
    content = load_pytorch(path)
    tensors = named_tensors(content)
    if not tensors:
        raise InvalidCheckpointError(
            f"{str(path)!r} contains a {type(content).__name__} without named tensors; expected a "
            "state dict: save one with torch.save(model.state_dict(), 'weights.pt')"
        )
    return tensors


def _array_tensors(path: Path) -> dict[str, Tensor]:
    arrays = {
        name: load_array(path, name)
        for name in array_names(path)
        if name == UNNAMED or not holds_objects(path, name)
    }
    # Text and other arrays that are no numbers may stand beside the weights.
    return {name: as_tensor(array) for name, array in arrays.items() if is_real(array)}


def _stock_network(tensors: Mapping[str, Tensor], description: Description) -> Network:
    for name in recurrent_names(tensors):
        require_values(name, tensors[name])
    derived = with_derived_weights(tensors)
    weights = _chosen(recurrent_weights(derived.tensors), tensors, description.prefix)
    derived.require_known(weights.prefix, weights.tensors)
    sizes = weights.sizes
    if description.module not in (None, sizes.kind):
        raise InvalidOptionError(
            f"module is {description.module!r}, but the shapes are those of {summary_of(sizes)}: "
            "omit module"
        )
    if description.nonlinearity is not None and sizes.kind != "RNN":
        raise InvalidOptionError(
            f"nonlinearity={description.nonlinearity!r} is for an RNN, but the shapes are those of "
            f"{summary_of(sizes)}: omit nonlinearity"
        )
    _require_finite(weights.tensors, weights.prefix)
    module = sizes.build("cpu", description.nonlinearity)
    module.load_state_dict(weights.tensors)
    assumptions: tuple[str, ...] = ()
    if sizes.kind == "RNN" and description.nonlinearity is None:
        assumptions = ("the nonlinearity is tanh (not stored in a checkpoint)",)
    return Network(
        module.eval(),
        weights.prefix,
        summary_of(sizes),
        assumptions,
        tuple(_rebuilt(weights, derived)),
    )


def _rebuilt(weights: RecurrentWeights, derived: Derived) -> Iterator[str]:
    for name in weights.tensors:
        if how := derived.how.get(weights.prefix + name):
            yield f"{name}: {how}"


def _chosen(
    found: Sequence[RecurrentWeights], tensors: Mapping[str, Tensor], prefix: str | None
) -> RecurrentWeights:
    if not found:
        raise InvalidCheckpointError(_no_recurrent_layer(tensors))
    meant = matching_prefixes([each.prefix for each in found], prefix)
    matching = [each for each in found if each.prefix in meant]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(repr(each.prefix) for each in matching or found)
    if not matching:
        raise InvalidOptionError(
            f"there is no recurrent layer under the prefix {prefix!r}: choose from {listed}"
        )
    raise InvalidCheckpointError(
        f"there are {len(matching)} recurrent layers, under {listed}: select one by its prefix, "
        f"for example --prefix {matching[0].prefix or repr('')}"
    )


def _listed(names: Sequence[str]) -> str:
    """Return the first few names as text, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(name or "an array without a name" for name in names[:_NAMES_SHOWN]) + (
        f" and {more} more" if more > 0 else ""
    )


def _unused(names: Sequence[str]) -> tuple[str, ...]:
    return (f"these tensors of the file do not count: {_listed(names)}",) if names else ()


def _no_recurrent_layer(tensors: Mapping[str, Tensor]) -> str:
    return (
        "the checkpoint contains no nn.RNN, nn.GRU or nn.LSTM: expected names such as "
        f"weight_hh_l0, found {_listed(list(tensors))}; for a custom module pass --module "
        "package.module:factory, for matrices of a rate network --rate-network"
    )


def _require_finite(tensors: Mapping[str, Tensor], prefix: str) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidCheckpointError(
                f"{prefix}{name} has infinite or NaN entries: training diverged before this "
                "checkpoint was saved; pass an earlier one"
            )
