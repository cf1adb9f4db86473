"""Encoder, potential, integrators and predictors."""
