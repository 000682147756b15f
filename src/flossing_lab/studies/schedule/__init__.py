"""The default schedule with one part changed."""
