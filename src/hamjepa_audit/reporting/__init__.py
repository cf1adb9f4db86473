"""Tables, figures and the page: reads Parquet files only, and does not need PyTorch."""
