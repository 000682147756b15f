"""The scans over time: re-orthonormalisation intervals, PyTorch operations, and the reference."""
