"""Measuring exponents: options, the run along a trajectory, its growth, error bars, the result."""
