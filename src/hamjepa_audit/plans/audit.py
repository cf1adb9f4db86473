"""Plan of the audit: the paper's claims, how they are tested, and their tables and figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hamjepa_audit.files import write_if_changed
from hamjepa_audit.layout import Layout
from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.params.claims import Claims, load_claims
from hamjepa_audit.plans.study import TABLE_FORMS

VERDICTS = ("claims", "claim_differences", "statements")
"""Tables of verdicts on the paper, computed from metrics."""

CONSISTENCY = "paper_consistency"
"""Table of the paper's consistency with itself."""

AUDIT_VERSION = 11
"""Bumped by hand when tables, figures or the page of an audit change for the same claims."""


@dataclass(frozen=True)
class AuditPlan:
    """The paper's claims and how they are tested."""

    layout: Layout
    claims: Claims
    params: AuditParams

    @classmethod
    def load(cls, layout: Layout) -> "AuditPlan":
        """The plan that the parameters below `layout.params` give.

        Raises:
            UserError: claims.yaml or statistics.yaml can't be used.
        """
        return cls(layout, load_claims(layout.claims()), load_audit(layout.params))

    def selection(self) -> dict[str, Any]:
        """Inputs of the tables of verdicts; changes exactly when the tables must change."""
        return {
            "claims": self.claims.model_dump(mode="json"),
            "statistics": self.params.model_dump(mode="json"),
            "audit_version": AUDIT_VERSION,
        }

    def write_selection(self) -> Path:
        """Writes the selection if it changed: everything made from the claims depends on it."""
        return write_if_changed(self.layout.claims_selection(), self.selection())

    def figures(self, study: str, epochs: int) -> list[str]:
        """Figures of the claims that are tested with a study and number of epochs."""
        carried = self.params.stands_for.get(study)
        conditions = {(study, epochs)}
        if carried is not None:
            conditions |= {(carried.study, p) for p, own in carried.epochs.items() if own == epochs}
        measured = any((c.study, c.epochs) == (study, epochs) for c in self.claims.measurements)
        compared = any((c.study, c.epochs) in conditions for c in self.claims.differences)
        return ["power", *["claims"] * measured, *["claim_differences"] * compared]


def joint_tables(layout: Layout) -> list[Path]:
    """Tables that span studies, in all file formats, and the files of headlines and accuracies."""
    names = (*VERDICTS, CONSISTENCY)
    tables = [layout.audit_tables() / f"{name}.{form}" for name in names for form in TABLE_FORMS]
    return [*tables, layout.headlines(), layout.accuracies()]
