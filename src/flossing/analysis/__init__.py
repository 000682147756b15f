"""What a network does to its gradients: one question a file."""
