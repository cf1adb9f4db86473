"""Plans derived from the parameters: runs, measurements, tables and figures, by name."""
