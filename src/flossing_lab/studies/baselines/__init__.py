"""Comparison of flossing with baselines."""
