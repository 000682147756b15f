"""What every other folder may use: checks, trees of tensors, wording, files."""
