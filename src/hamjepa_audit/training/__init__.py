"""The training loop, its schedule, what it records."""
