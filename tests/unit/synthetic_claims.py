"""Made-up metrics that scatter around the paper's values."""

from typing import Any

import numpy as np

from hamjepa_audit.params.claims import Claims

SD = {"percent": 0.25, "effective_rank": 2.0, "participation_ratio": 1.0, "cosine_mean": 0.002}


def row(
    study: str, epochs: int, arm: str, readout: str, metric: str, seed: int, value: float
) -> dict[str, Any]:
    return {
        "study": study,
        "dataset": study,
        "arm": arm,
        "epochs": epochs,
        "seed": seed,
        "checkpoint_epoch": epochs,
        "readout": readout,
        "metric": metric,
        "value": float(value),
        "unit": "percent" if metric.startswith(("knn", "linear")) else "dimensionless",
        "run_id": f"{study}-{arm}-e{epochs}-s{seed}",
    }


def as_the_paper(
    claims: Claims, seeds: int, study: str | None = None, name: str | None = None
) -> list[dict[str, Any]]:
    """Rows that scatter around the paper's values, as if its runs had been repeated."""
    noise = np.random.default_rng(1)
    rows = []
    seen = set()
    for claim in claims.measurements:
        if claim.key in seen or (study and claim.study != study):
            continue
        seen.add(claim.key)
        ours = {"effective_rank": "effective_rank_lowrank"}.get(claim.metric, claim.metric)
        ours = ours.replace("participation_ratio", "participation_ratio_lowrank")
        scale = SD.get(claim.unit, SD.get(claim.metric, 0.02))
        for seed in range(seeds):
            value = float(claim.value) + scale * noise.normal()
            where = (name or claim.study, claim.epochs, claim.arm, claim.readout)
            rows.append(row(*where, ours, seed, value))
    return rows
