"""The training loop, its schedule, its records and saved states."""
