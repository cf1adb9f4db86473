"""What the parameters ask for: runs, measurements, tables and figures, by name."""
