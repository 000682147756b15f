"""Recurrent networks rebuilt from the names and shapes of the tensors in a checkpoint.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 8, num_layers=2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "weights.pt"
    ...     torch.save({"state_dict": model.state_dict(), "epoch": 7}, path)
    ...     network = load_network(path)
    >>> network.summary
    'GRU: 3 inputs, 8 hidden units, 2 layers, float32'
    >>> network.prefix
    'state_dict.rnn.'
"""

from flossing.diagnosis.checkpoints.description import Description, read_description
from flossing.diagnosis.checkpoints.network import Network, load_network
from flossing.diagnosis.checkpoints.rate_network import RateNetwork, rate_network_of

__all__ = [
    "Description",
    "Network",
    "RateNetwork",
    "load_network",
    "rate_network_of",
    "read_description",
]
