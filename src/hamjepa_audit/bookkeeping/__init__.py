"""The contents of results/: what they were made from, and whether they are complete and intact."""
