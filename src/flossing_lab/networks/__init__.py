"""Networks, their cells and how they are drawn."""
