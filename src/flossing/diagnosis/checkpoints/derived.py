"""Weights that a checkpoint stores in parts: pruned, normalised, or dropped out in training."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from flossing.errors import InvalidCheckpointError

OWN = r"(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l\d+)?(?:_reverse)?"
"""Pattern of the names of PyTorch's recurrent weights."""

_PREFIX = r"(?P<prefix>(?:.*\.)?)"
_WHOLE = re.compile(rf"{_PREFIX}{OWN}")
_PART = re.compile(rf"{_PREFIX}(?P<own>{OWN})(?P<part>_[A-Za-z]\w*)")
# Beside a whole weight only: a custom cell may call a whole submodule so.
_BESIDE = re.compile(rf"{_PREFIX}(?P<own>{OWN})(?P<part>\..+)")
_ADAPTER = re.compile(r"(?:lora|loha|lokr|adapter|delta)[._]", re.IGNORECASE)
_PARAMETRISED = re.compile(rf"{_PREFIX}parametrizations\.(?P<own>{OWN})\.(?P<part>.+)")

_PRUNED = "pruned, {0}_orig times {0}_mask"
_NORMALISED = "weight norm of {0}_g and {0}_v"
_SPECTRAL = "{0}_orig divided by its spectral norm"
_UNDROPPED = "{0}_raw, of which training drops entries"
_BY_PARAMETRISATION = {
    "weight norm": "weight norm of its parametrisation's original0 and original1",
    "spectral": "its parametrisation's original, divided by its spectral norm",
    "masked": "its parametrisation's original times its mask",
}


class Derived(NamedTuple):
    """Tensors of a checkpoint with those weights that are stored in parts.

    Attributes:
        tensors: All tensors by name; parts are replaced by the weights made of them.
        how: By the name of each such weight, how it was made, as text.
        unknown: By the name of each weight that cannot be made, the names of its parts; in
            `tensors` one of the parts stands in its place.
    """

    tensors: Mapping[str, Tensor]
    how: Mapping[str, str]
    unknown: Mapping[str, tuple[str, ...]]

    def require_known(self, prefix: str, names: Mapping[str, Tensor]) -> None:
        """Require that the weights under a prefix are those that the network computes with.

        Raises:
            InvalidCheckpointError: It is not known how one of them is made of its parts, or an
                adapter (LoRA) changes them.
        """
        layer = prefix.removesuffix("base_layer.")
        adapters = [
            name
            for name in self.tensors
            if name.startswith(layer) and _ADAPTER.match(name.removeprefix(layer))
        ]
        if adapters:
            raise InvalidCheckpointError(
                f"the layer under {layer!r} has adapters beside its weights "
                f"({', '.join(adapters[:4])}), which change what it computes: merge them into the "
                "weights before saving (merge_and_unload() of peft), or pass --module "
                "package.module:factory"
            )
        for name in names:
            if parts := self.unknown.get(prefix + name):
                raise InvalidCheckpointError(
                    f"{prefix}{name} is computed from {', '.join(parts)} in a way that the "
                    "checkpoint does not contain: make it a plain parameter before saving (by "
                    "torch.nn.utils.parametrize.remove_parametrizations, prune.remove, "
                    "remove_weight_norm or merging), or pass --module package.module:factory"
                )


def with_derived_weights(tensors: Mapping[str, Tensor]) -> Derived:
    """Make the recurrent weights that a network computes with in eval mode of their stored parts.

    Known are `torch.nn.utils.prune`, both forms of weight norm and spectral norm, masks of
    `torch.ao.pruning`, and the weight-dropped LSTM (AWD), whose `weight_hh_l0_raw` is what counts
    in eval mode while `weight_hh_l0` is a copy with entries dropped out.

    Example:
        >>> from torch.nn.utils import prune
        >>> rnn = prune.random_unstructured(torch.nn.RNN(1, 4), "weight_hh_l0", 0.5)
        >>> derived = with_derived_weights(rnn.state_dict())
        >>> derived.how
        {'weight_hh_l0': 'pruned, weight_hh_l0_orig times weight_hh_l0_mask'}
        >>> bool((derived.tensors["weight_hh_l0"] == rnn.weight_hh_l0).all())
        True
    """
    whole = dict(tensors)
    parts: dict[str, dict[str, str]] = {}
    for name in tensors:
        if not _WHOLE.fullmatch(name) and (match := _part(name, tensors)):
            target = _target(match["prefix"], match["own"], match["part"], tensors)
            parts.setdefault(target, {})[match["part"]] = name
    how: dict[str, str] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    for target, names in parts.items():
        own = target.rpartition(".")[2]
        given = {part: whole.pop(name) for part, name in names.items()}
        copy = tensors.get(target)
        made, steps = _made(given, own)
        dropped = "_raw" in given or "_raw_orig" in given
        # A copy is from the last training step of a weight drop; from anything else it is the same.
        if made is None or not (copy is None or dropped or _agree(copy, made)):
            stored = (*names.values(), *(() if copy is None else (target,)))
            unknown[target] = stored
            whole.setdefault(target, next(iter(given.values())))
        else:
            whole[target] = made
            how[target] = "; ".join(steps)
    return Derived(whole, how, unknown)


def recurrent_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of recurrent weights, and of the parts of which they are made."""
    return [name for name in tensors if _WHOLE.fullmatch(name) or _part(name, tensors)]


def _part(name: str, tensors: Mapping[str, Tensor]) -> re.Match[str] | None:
    beside = _BESIDE.fullmatch(name)
    if beside and beside["prefix"] + beside["own"] not in tensors:
        beside = None
    return _PARAMETRISED.fullmatch(name) or _PART.fullmatch(name) or beside


def _target(prefix: str, own: str, part: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the weight that a part belongs to."""
    # fastai keeps the raw weights in a wrapper around the layer, its attribute `module`.
    inner = f"{prefix}module."
    outside = not any(name.startswith(prefix + "weight_ih") for name in tensors)
    wrapped = any(name.startswith(inner + "weight_ih") for name in tensors)
    return (inner if part.startswith("_raw") and outside and wrapped else prefix) + own


def _made(parts: Mapping[str, Tensor], own: str) -> tuple[Tensor | None, list[str]]:
    """Return the weight made of its parts and the steps to it; `None` if one is not known."""
    left = dict(parts)
    steps: list[str] = []
    if by := _parametrised(left):
        return by
    # A part can itself be stored in parts, as where a normalised weight is pruned.
    while found := _one_step(left):
        stem, used, weight, text = found
        for each in used:
            del left[each]
        left[stem] = weight
        steps.append(text.format(own + stem))
    return (left[""], steps) if list(left) == [""] else (None, steps)


def _one_step(parts: Mapping[str, Tensor]) -> tuple[str, tuple[str, ...], Tensor, str] | None:
    for name in parts:
        for end, others, rule, text in (
            ("_orig", ("_mask",), _masked, _PRUNED),
            ("_orig", ("_u", "_v"), _spectrally_normalised, _SPECTRAL),
            ("_g", ("_v",), _normalised, _NORMALISED),
            ("_raw", (), _itself, _UNDROPPED),
        ):
            stem = name.removesuffix(end)
            used = (name, *(stem + other for other in others))
            if stem != name and stem not in parts and all(each in parts for each in used):
                weight = rule(*(parts[each] for each in used))
                if weight is not None:
                    return stem, used, weight, text
    return None


def _parametrised(parts: Mapping[str, Tensor]) -> tuple[Tensor | None, list[str]] | None:
    for names, rule, text in (
        (("original0", "original1"), _normalised, "weight norm"),
        (("original", "0._u", "0._v"), _spectrally_normalised, "spectral"),
        (("original", "0.mask"), _masked, "masked"),
    ):
        if set(parts) == set(names):
            return rule(*(parts[name] for name in names)), [_BY_PARAMETRISATION[text]]
    return None


def _itself(weight: Tensor) -> Tensor:
    return weight


def _masked(weight: Tensor, mask: Tensor) -> Tensor | None:
    return weight * mask.to(weight.dtype) if mask.shape == weight.shape else None


def _normalised(length: Tensor, direction: Tensor) -> Tensor | None:
    """Return each slice of `direction` with the length that `length` has for it."""
    # Types of `Tensor.norm` are partially unknown.
    values = cast(Any, direction)
    if length.dim() == 0:
        return values * (length / values.norm())
    if length.dim() != direction.dim() or any(
        own not in (1, other) for own, other in zip(length.shape, direction.shape, strict=True)
    ):
        return None
    axes = [axis for axis, size in enumerate(length.shape) if size == 1]
    # Without axes to sum over, every entry is a slice of its own.
    return values * (length / (values.norm(dim=axes, keepdim=True) if axes else values.abs()))


def _spectrally_normalised(weight: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    if weight.dim() != 2 or left.dim() != 1 or right.dim() != 1:
        return None
    sizes = (len(left), len(right))
    forward, transposed = sizes == tuple(weight.shape), sizes == tuple(weight.T.shape)
    values = [
        torch.dot(left, matrix @ right)
        for matrix, fits in ((weight, forward), (weight.T, transposed))
        if fits
    ]
    # The vectors are singular vectors of the weight or of its transpose, for which the value is
    # the largest. By far most weights are normalised as they are (dim=0); if a square one may not
    # be, nothing is known.
    if not values or (len(values) == 2 and values[1].abs() > values[0].abs()):
        return None
    return weight / values[0]


def _agree(copy: Tensor, made: Tensor) -> bool:
    return (
        copy.shape == made.shape
        and copy.dtype == made.dtype
        and copy.is_floating_point()
        and torch.allclose(copy, made, rtol=1e-2 if copy.dtype.itemsize == 2 else 1e-4, atol=1e-6)
    )
