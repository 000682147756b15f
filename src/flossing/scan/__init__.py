"""The hot loops over time, one short file a backend, and the slow reference."""
