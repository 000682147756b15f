"""A measurement: a run along a trajectory, and what it says of the exponents."""
