"""Trees of tensors: nested tuples, named tuples, lists and dictionaries, flattened and rebuilt.

`torch.utils._pytree` does the same, but is private.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import Tensor

Rebuild = Callable[[list[Tensor]], Any]

_LEAF = object()


def flatten(tree: Any) -> tuple[list[Tensor], Rebuild]:
    """Return the tensors of a tree in order, and a function that rebuilds the tree from others.

    Whatever is neither a container nor a tensor is kept. The function holds the structure alone,
    none of the tensors, so that autograd can free or offload these.

    Example:
        >>> import torch
        >>> leaves, rebuild = flatten((torch.zeros(2), {"cell": torch.ones(1)}, "static"))
        >>> rebuild([leaf + 1 for leaf in leaves])
        (tensor([1., 1.]), {'cell': tensor([2.])}, 'static')
    """
    leaves: list[Tensor] = []
    skeleton = _map(tree, partial(_take, leaves))
    return leaves, partial(_rebuild, skeleton)


def constants(tree: Any) -> list[Any]:
    """Return what in a tree is neither a container nor a tensor, in order.

    Example:
        >>> import torch
        >>> constants((torch.zeros(2), {"steps": 3}))
        [3]
    """
    found: list[Any] = []
    _map(tree, lambda node: None if isinstance(node, Tensor) else found.append(node))
    return found


def same_structure(first: Any, second: Any) -> bool:
    """Whether two trees have the same nesting and shapes of tensors, in whatever containers.

    Example:
        >>> import torch
        >>> same_structure((torch.zeros(2), torch.zeros(3)), [torch.ones(2), torch.ones(3)])
        True
        >>> same_structure(torch.zeros(2), (torch.zeros(2),))
        False
    """
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        both = isinstance(first, Tensor) and isinstance(second, Tensor)
        return both and first.shape == second.shape
    left, right = _children(first), _children(second)
    if left is None or right is None:
        return left is None and right is None
    return len(left) == len(right) and all(map(same_structure, left, right))


def describe(tree: Any) -> str:
    """Return a short description of a tree's structure, for error messages.

    Example:
        >>> import torch
        >>> describe((torch.zeros(2, 3), torch.zeros(1)))
        'tuple of (tensor (2, 3), tensor (1,))'
    """
    if isinstance(tree, Tensor):
        return f"tensor {tuple(tree.shape)}"
    children = _children(tree)
    if children is None:
        return type(tree).__name__
    return f"{type(tree).__name__} of ({', '.join(map(describe, children))})"


def _take(leaves: list[Tensor], node: Any) -> Any:
    if isinstance(node, Tensor):
        leaves.append(node)
        return _LEAF
    return node


def _rebuild(skeleton: Any, replacements: list[Tensor]) -> Any:
    remaining = iter(replacements)
    return _map(skeleton, lambda node: next(remaining) if node is _LEAF else node)


def _children(tree: Any) -> list[Any] | None:
    if isinstance(tree, dict):
        return list(cast(dict[Any, Any], tree).values())
    if isinstance(tree, tuple | list):
        return list(cast(list[Any], tree))
    return None


def _map(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every node that is not a container, in order."""
    if isinstance(tree, dict):
        items = cast(dict[Any, Any], tree).items()
        return {key: _map(value, function) for key, value in items}
    if not isinstance(tree, tuple | list):
        return function(tree)
    children = [_map(child, function) for child in cast(list[Any], tree)]
    # A named tuple takes its fields as separate arguments.
    if hasattr(cast(Any, tree), "_fields"):
        return type(cast(Any, tree))(*children)
    return tuple(children) if isinstance(tree, tuple) else children
