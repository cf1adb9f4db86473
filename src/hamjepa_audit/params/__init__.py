"""Typed parameters of studies, arms and runs, read from params/."""

from hamjepa_audit.params.arms import ArmParams
from hamjepa_audit.params.loading import load_study, resolve_run, study_names
from hamjepa_audit.params.studies import RunParams, StudyParams

__all__ = ["ArmParams", "RunParams", "StudyParams", "load_study", "resolve_run", "study_names"]
