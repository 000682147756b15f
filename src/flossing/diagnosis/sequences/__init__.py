"""Input sequences: read from files, drawn as noise, and fitted to a network.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "inputs.npy"
    ...     np.save(path, np.zeros((8, 50, 3)))
    ...     inputs = read_sequences(path, layout="batch-first")
    >>> inputs.shape
    torch.Size([50, 8, 3])
"""

from flossing.diagnosis.sequences.files import Layout, read_sequences
from flossing.diagnosis.sequences.fitting import fit_to, normal_noise, shortened

__all__ = ["Layout", "fit_to", "normal_noise", "read_sequences", "shortened"]
