"""The laboratory: train, sweep, report, reproduce and demo. Needs the extra `cli`."""
