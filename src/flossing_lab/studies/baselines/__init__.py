"""Flossing compared with baselines."""
