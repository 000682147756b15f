"""Ablation of the default schedule."""
