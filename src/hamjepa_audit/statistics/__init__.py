"""Statistics over pretraining seeds: pure functions of metric tables, without PyTorch."""

from hamjepa_audit.statistics.paired import paired_differences
from hamjepa_audit.statistics.summaries import checked, interval, per_seed, summarise

__all__ = ["checked", "interval", "paired_differences", "per_seed", "summarise"]
