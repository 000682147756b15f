"""Experiments with flossing, run by the command line; needs the extra `cli`."""
