"""Studies: reproduction of the figures of Engelken (NeurIPS 2023), and further comparisons."""
