"""Audit of "Beyond Isotropy in JEPAs": pinned parameters in, verdicts with error bars out."""

__version__ = "0.1.0"
