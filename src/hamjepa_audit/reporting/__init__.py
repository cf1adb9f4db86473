"""Tables and figures of measurements: reads Parquet alone, without torch."""

from hamjepa_audit.reporting.collect import collect, collect_study
from hamjepa_audit.reporting.figures import study_figures
from hamjepa_audit.reporting.tables import overview, study_tables, write_tables

__all__ = [
    "collect",
    "collect_study",
    "overview",
    "study_figures",
    "study_tables",
    "write_tables",
]
