"""What lies below results/: where, made of what, and whether it is whole."""
