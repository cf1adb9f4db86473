"""Contents of results/: what they were made of, and whether they are complete."""
