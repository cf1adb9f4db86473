"""python -m hamjepa_audit: the same as hamjepa-audit, for a checkout that is not installed."""

from hamjepa_audit.cli import main

main()
