"""Tasks with long time horizons, and their losses and accuracies.

Example:
    >>> import torch
    >>> task = DelayedCopy(delay=2, steps=20)
    >>> recurrent = torch.nn.RNN(task.input_size, 8)
    >>> readout = torch.nn.Linear(8, task.output_size)
    >>> batch = next(task.batches(16, seed=0))
    >>> outputs = readout(recurrent(batch.inputs)[0])
    >>> task_loss(task, outputs, batch).backward()
    >>> 0.0 <= accuracy(task, outputs, batch) <= 1.0
    True
"""

from flossing.tasks.adding import AddingProblem
from flossing.tasks.base import Batch, DelayedParity, Kind, Task
from flossing.tasks.copy_memory import CopyMemory
from flossing.tasks.delayed_copy import DelayedCopy
from flossing.tasks.digits import Digits
from flossing.tasks.named import task_named
from flossing.tasks.scoring import accuracy, constant_loss, task_loss
from flossing.tasks.xor import SpatialXor, TemporalXor

__all__ = [
    "AddingProblem",
    "Batch",
    "CopyMemory",
    "DelayedCopy",
    "DelayedParity",
    "Digits",
    "Kind",
    "SpatialXor",
    "Task",
    "TemporalXor",
    "accuracy",
    "constant_loss",
    "task_loss",
    "task_named",
]
