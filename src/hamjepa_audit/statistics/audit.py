"""The complete audit: from metrics and claims to four tables of verdicts."""

from typing import NamedTuple

import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.params.claims import Claims
from hamjepa_audit.statistics.claim_differences import difference_claims
from hamjepa_audit.statistics.claims import measurement_claims
from hamjepa_audit.statistics.consistency import paper_consistency
from hamjepa_audit.statistics.metric_checks import require_units
from hamjepa_audit.statistics.seeds import SeedTable
from hamjepa_audit.statistics.statements import statement_claims


class Audit(NamedTuple):
    """The tables of an audit. Their columns are described by the functions that create them."""

    claims: pd.DataFrame
    claim_differences: pd.DataFrame
    statements: pd.DataFrame
    paper_consistency: pd.DataFrame


def audit(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> Audit:
    """Tests every claim of the paper on our numbers, a long metric table of any studies.

    Raises:
        UserError: `metrics` is unusable (see `SeedTable`), a metric has a unit other than that of
            the claims about it, a percentage is outside [0, 100], all of a study are at most 1, a
            metric has no margin, or a statement has no test.
    """
    seeds = SeedTable(metrics)
    require_units(metrics, claims, params)
    return Audit(
        claims=measurement_claims(seeds, claims, params),
        claim_differences=difference_claims(seeds, claims, params),
        statements=statement_claims(seeds, claims, params),
        paper_consistency=paper_consistency(claims, params.confidence),
    )
