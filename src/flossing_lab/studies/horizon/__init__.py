"""Performance of the schedules against the delay."""
