"""Losses and accuracies of a network's outputs, over the entries where the mask is true."""

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    one_hot,
)

from flossing.errors import InvalidOptionError
from flossing.support.checks import require_choice
from flossing.tasks.base import Batch, Kind, Task


def task_loss(
    task: Task | Kind, outputs: Float[Tensor, "T B C"], batch: Batch
) -> Float[Tensor, ""]:
    """Return the training loss, averaged over the entries where the mask is true.

    With z the outputs and y the targets at such an entry:

    - "binary": binary cross-entropy with logits, −y log σ(z) − (1−y) log(1−σ(z));
    - "categorical": cross-entropy, −log softmax(z)_y;
    - "regression": squared error, (z − y)².

    The other entries are removed before anything is computed, so that infinite or NaN outputs
    there change neither the loss nor its gradients.

    Args:
        task: The task, or its kind.
        outputs: Outputs of the readout at every step, (T, B, C): logits, or numbers for
            "regression".
        batch: The batch whose inputs produced the outputs.

    Returns:
        The mean, a scalar that is differentiable with respect to `outputs`, in their dtype.

    Raises:
        InvalidOptionError: The kind is unknown, the shapes or dtypes of outputs and batch do not
            match each other or the kind, a class index is outside 0 … C−1, or the mask is true
            nowhere.

    Example:
        >>> import torch
        >>> from flossing.tasks import DelayedCopy
        >>> task = DelayedCopy(delay=2, steps=6)
        >>> batch = task.sample(4)
        >>> round(task_loss(task, torch.zeros(6, 4, 1), batch).item(), 4)
        0.6931
    """
    kind = _kind_of(task)
    answers, targets = _masked(kind, outputs, batch)
    if kind == "categorical":
        return cross_entropy(answers, targets)
    if kind == "binary":
        return binary_cross_entropy_with_logits(answers, targets.to(answers.dtype))
    return mse_loss(answers, targets.to(answers.dtype))


def constant_loss(task: Task | Kind, batch: Batch) -> float:
    """Return the loss of the best constant answer, that is, of one that ignores the inputs.

    With p the shares of the classes among the entries where the mask is true, it is their entropy,
    −Σ p log p; for a regression it is the variance of the targets.

    Args:
        task: The task, or its kind.
        batch: The batch; its inputs are not used.

    Returns:
        The mean over the entries where the mask is true; see `task_loss`.

    Raises:
        InvalidOptionError: The kind is unknown, or the mask is true nowhere.

    Example:
        >>> import torch
        >>> targets = torch.tensor([0.0, 1.0, 1.0, 0.0]).reshape(4, 1, 1)
        >>> batch = Batch(torch.zeros(4, 1, 1), targets, torch.ones(4, 1, dtype=torch.bool))
        >>> round(constant_loss("binary", batch), 4), constant_loss("regression", batch)
        (0.6931, 0.25)
    """
    kind = _kind_of(task)
    _require_any(batch)
    targets = batch.targets[batch.mask]
    if kind == "regression":
        return targets.var(dim=0, correction=0).mean().item()
    if kind == "categorical":
        shares = one_hot(targets).to(torch.float64).mean(dim=0)
        return -torch.xlogy(shares, shares).sum().item()
    shares = targets.mean(dim=0)
    others = 1.0 - shares
    return -(torch.xlogy(shares, shares) + torch.xlogy(others, others)).mean().item()


def accuracy(task: Task | Kind, outputs: Float[Tensor, "T B C"], batch: Batch) -> float:
    """Return the share of correct answers among the entries where the mask is true.

    With z the outputs and y the targets, an answer is correct if

    - "binary": (z > 0) = (y > ½);
    - "categorical": argmax z = y.

    A NaN is incorrect. Entries where the mask is false are ignored, whatever their values.

    Args:
        task: The task, or its kind.
        outputs: Logits at every step, (T, B, C).
        batch: The batch whose inputs produced the outputs.

    Returns:
        The accuracy, from 0 to 1.

    Raises:
        InvalidOptionError: As for `task_loss`; or the kind is "regression", which has no correct
            and incorrect answers.

    Example:
        >>> import torch
        >>> from flossing.tasks import DelayedCopy
        >>> task = DelayedCopy(delay=2, steps=6)
        >>> batch = task.sample(4)
        >>> accuracy(task, batch.targets - 0.5, batch)
        1.0
    """
    kind = _kind_of(task)
    if kind == "regression":
        raise InvalidOptionError(
            "kind is 'regression', which has no accuracy; expected 'binary' or 'categorical': "
            "measure a regression with task_loss"
        )
    answers, targets = _masked(kind, outputs, batch)
    if kind == "categorical":
        correct = (answers.argmax(-1) == targets) & ~answers.isnan().any(-1)
    else:
        correct = ((answers > 0) == (targets > 0.5)) & ~answers.isnan()
    return correct.sum().item() / correct.numel()


def _kind_of(task: Task | Kind) -> Kind:
    kind = task.kind if isinstance(task, Task) else task
    require_choice("kind", kind, get_args(Kind))
    return kind


def _masked(kind: Kind, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return outputs (n, C) and targets, (n, C) or (n,), at the n entries that the mask selects."""
    _require_fit(kind, outputs, batch)
    _require_any(batch)
    answers, targets = outputs[batch.mask], batch.targets[batch.mask]
    if kind == "categorical":
        _require_classes(targets, classes=answers.shape[-1])
    return answers, targets


def _require_any(batch: Batch) -> None:
    if not batch.mask.any():
        raise InvalidOptionError(
            f"the mask of shape {tuple(batch.mask.shape)} is true nowhere, so there is nothing to "
            "score; expected at least one true entry: pass a batch whose mask marks the steps that "
            "count"
        )


def _require_fit(kind: Kind, outputs: Tensor, batch: Batch) -> None:
    """Refuse what does not match, which broadcasting or integer indexing would silently accept."""
    categorical = kind == "categorical"
    shape = outputs.shape[:2] if categorical else outputs.shape
    target_dtype_fits = (
        batch.targets.dtype == torch.int64 if categorical else batch.targets.is_floating_point()
    )
    if (
        outputs.ndim == 3
        and batch.targets.shape == shape
        and target_dtype_fits
        and batch.mask.shape == outputs.shape[:2]
        and batch.mask.dtype == torch.bool
    ):
        return
    came = ", ".join(
        f"{name} {tuple(tensor.shape)} {tensor.dtype}"
        for name, tensor in (("outputs", outputs), ("targets", batch.targets), ("mask", batch.mask))
    )
    targets = "targets (T, B) torch.int64" if categorical else "floating targets (T, B, C)"
    raise InvalidOptionError(
        f"{came} do not fit a {kind} task; expected outputs (T, B, C), {targets}, mask (T, B) "
        "torch.bool: pass time-first outputs to the same batch"
    )


def _require_classes(targets: Tensor, *, classes: int) -> None:
    smallest, largest = (int(bound) for bound in targets.aminmax())
    if smallest < 0 or largest >= classes:
        raise InvalidOptionError(
            f"the targets that count are classes {smallest} to {largest}, but the outputs have "
            f"{classes} logits; expected classes 0 to {classes - 1}: give the readout as many "
            "outputs as the task's output_size"
        )
