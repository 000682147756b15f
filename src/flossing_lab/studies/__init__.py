"""The figures of Engelken, "Gradient Flossing", NeurIPS 2023, rerun: one file a figure."""
