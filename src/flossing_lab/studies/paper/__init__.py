"""The figures of the paper, one per file."""
