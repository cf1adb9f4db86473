"""The command line: one command a step of the audit, the same for a rule and for a person."""

from hamjepa_audit.cli.main import main

__all__ = ["main"]
