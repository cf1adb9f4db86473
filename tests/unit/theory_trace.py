"""The trace that guards THEORY_NUMERICS; python -m tests.unit.theory_trace rewrites it.

It is coarse: a few headline numbers, and no rounding errors.
"""

from pathlib import Path
from typing import Any

from hamjepa_audit.layout import Layout
from hamjepa_audit.plans.theory import THEORY_NUMERICS, TheoryPlan
from hamjepa_audit.theory.numbers import theory_numbers
from tests.unit.traces import Trace

TRACE = Trace("theory", THEORY_NUMERICS)


def trace(params: Path) -> dict[str, Any]:
    """Headline numbers of a tiny run of the checks, by table."""
    plan = TheoryPlan.load(Layout(params=params))
    tables = theory_numbers(plan.params, plan.claim, lambda _: None)
    frames = {name: table.to_pandas() for name, table in tables.items()}
    setups = frames["toy_transport_setups"].head(3)
    measured = [name for name in setups if name.startswith(("euler_", "leapfrog_"))]
    drift, area = frames["energy_drift"], frames["area_preservation"]
    return {
        "checks": {row.check: row.instances for row in frames["checks"].itertuples()},
        "toy_transport": {
            f"{row['potential']} {row['centre_q']} {name}": row[name]
            for row in setups.to_dict("records")
            for name in measured
        },
        "energy_drift": drift.groupby("integrator")["drift"].max().to_dict(),
        "area_preservation": area.groupby("integrator")["area_ratio"].mean().to_dict(),
    }


if __name__ == "__main__":
    TRACE.make_and_store(trace)
