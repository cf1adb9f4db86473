"""Plan of the theorem checks: their parameters, and the files that they give."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import write_if_changed
from hamjepa_audit.layout import Layout
from hamjepa_audit.params.claims import ToyTransport, load_claims
from hamjepa_audit.params.theory import TheoryParams, load_theory
from hamjepa_audit.plans.study import FIGURE_FORMS, TABLE_FORMS
from hamjepa_audit.theory_schemas import NUMBERS

THEORY_NUMERICS = 1
"""Bumped by hand when the checks give other numbers for the same parameters."""

THEORY_REPORT_VERSION = 2
"""Bumped by hand when tables or figures change for the same numbers; the checks run again, too."""

TABLES = ("theory", "toy_transport", "toy_transport_setups")
FIGURES = (
    "toy_transport",
    "energy_drift",
    "area_preservation",
    "reversibility",
    "symplecticity_defect",
)


@dataclass(frozen=True)
class TheoryPlan:
    """The parameters of the checks, and the paper's numbers that they are compared with."""

    layout: Layout
    params: TheoryParams
    claim: ToyTransport

    @classmethod
    def load(cls, layout: Layout, claims: Path | None = None) -> "TheoryPlan":
        """The plan that the parameters give, with their claims or those of another file.

        Raises:
            UserError: theory.yaml or the claims can't be used, or the claims lack the toy
                experiment.
        """
        params, path = load_theory(layout.params), claims or layout.claims()
        claim = load_claims(path).toy_transport
        if claim is None:
            raise UserError(f"{path} has no toy_transport to compare with; name other --claims")
        return cls(layout, params, claim)

    def selection(self) -> dict[str, Any]:
        """Inputs of checks, tables and figures; changes exactly when they must be made again."""
        return {
            "params": self.params.model_dump(mode="json"),
            "claim": self.claim.model_dump(mode="json"),
            "theory_numerics": THEORY_NUMERICS,
            "theory_report_version": THEORY_REPORT_VERSION,
        }

    def write_selection(self) -> Path:
        """Writes the selection if it changed: numbers, tables and figures depend on this file."""
        return write_if_changed(self.layout.theory_selection(), self.selection())


def theory_numbers(layout: Layout) -> list[Path]:
    """The tables of numbers that the checks give, in full precision."""
    return [layout.theory_numbers(name) for name in NUMBERS]


def theory_files(layout: Layout) -> list[Path]:
    """The tables and figures made from these numbers."""
    names = [f"{table}.{form}" for table in TABLES for form in TABLE_FORMS]
    names += [f"{figure}.{form}" for figure in FIGURES for form in FIGURE_FORMS]
    return [layout.theory() / name for name in names]
