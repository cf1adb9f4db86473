"""Tables and figures of measurements: reads Parquet alone, without torch."""

from hamjepa_audit.reporting.collect import collect
from hamjepa_audit.reporting.figures import study_figures
from hamjepa_audit.reporting.tables import overview, study_tables, write_tables

__all__ = ["collect", "overview", "study_figures", "study_tables", "write_tables"]
