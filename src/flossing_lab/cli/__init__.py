"""The commands of the laboratory, one per file."""
