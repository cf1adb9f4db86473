"""What frozen encoders are worth: their features, k-NN, linear probes, spectra and geometry."""
