"""Runs: their configuration, records, files and outcomes."""
