"""Tables and figures of measurements: reads Parquet alone, without torch."""
