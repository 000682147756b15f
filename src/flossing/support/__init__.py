"""Utilities without knowledge of the rest: checks, trees of tensors, text, files."""
