"""Evaluation of frozen encoders: features, k-NN, linear probes, spectra and geometry."""
