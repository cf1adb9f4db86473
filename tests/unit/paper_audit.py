"""The audit of made-up runs that scatter around the paper's values.

A test module assigns the fixtures that it needs, directly or indirectly, to its own names:
`found = paper_audit.found`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hamjepa_audit.metrics import METRICS_SCHEMA
from hamjepa_audit.params.audit import AuditParams, load_audit
from hamjepa_audit.params.claims import Claims, load_claims
from hamjepa_audit.statistics.audit import Audit, audit
from tests.unit.synthetic_claims import as_the_paper


@pytest.fixture(scope="module")
def claims(params_folder: Path) -> Claims:
    return load_claims(params_folder / "paper/claims.yaml")


@pytest.fixture(scope="module")
def params(params_folder: Path) -> AuditParams:
    return load_audit(params_folder)


@pytest.fixture(scope="module")
def metrics(claims: Claims) -> pd.DataFrame:
    return pd.DataFrame(as_the_paper(claims, 6))[METRICS_SCHEMA.names]


@pytest.fixture(scope="module")
def found(metrics: pd.DataFrame, claims: Claims, params: AuditParams) -> Audit:
    return audit(metrics, claims, params)


def one(table: pd.DataFrame, **values: Any) -> pd.Series:
    rows = table
    for name, value in values.items():
        rows = rows[rows[name] == value]
    (found,) = rows.to_dict("records")
    return pd.Series(found)


def seeds_of(metrics: pd.DataFrame, study: str, epochs: int, *where: str) -> np.ndarray:
    keys = ["study", "epochs", "arm", "readout", "metric"]
    rows = metrics[(metrics[keys] == [study, epochs, *where]).all(axis=1)]
    return rows.sort_values("seed")["value"].to_numpy()
