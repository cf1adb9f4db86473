"""The command line: one command per step of the audit, used by the workflow and by people."""

from hamjepa_audit.cli.main import main

__all__ = ["main"]
