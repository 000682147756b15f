"""The largest step size that learns, and the sensitivity to parameters, against the delay."""
