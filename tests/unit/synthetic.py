"""Made-up measurements in the form of a study's: four arms, five seeds, one checkpoint."""

import numpy as np
import pandas as pd

from hamjepa_audit.metrics import CURVES_SCHEMA, HISTORY_SCHEMA, METRICS_SCHEMA

STUDY, DATASET, EPOCHS = "digits", "digits", 12
ARM_ORDER = ("sigreg", "identity", "mlp", "hamjepa")
TITLES = {
    "sigreg": "SIGReg",
    "identity": "Identity",
    "mlp": "MLP (width-matched)",
    "hamjepa": "HamJEPA",
}
READOUTS = {"sigreg": ("all",)} | dict.fromkeys(ARM_ORDER[1:], ("q", "p", "qp"))
SEEDS = (0, 1, 2, 3, 4)
NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
LEVEL = {"sigreg": 61.0, "identity": 66.0, "mlp": 69.0, "hamjepa": 74.0}
CONE = {"sigreg": 0.01, "identity": 0.72, "mlp": 0.3, "hamjepa": 0.55}
SHIFT = {"q": 0.0, "p": -2.0, "qp": -0.5, "all": 0.0}


def run_id(arm: str, seed: int, epochs: int = EPOCHS) -> str:
    """The id of a run."""
    return f"{STUDY}-{arm}-e{epochs}-s{seed}-0123456789ab"


def conditions() -> list[tuple[str, int, str]]:
    """All triples (arm, seed, readout)."""
    return [(arm, seed, part) for arm in ARM_ORDER for seed in SEEDS for part in READOUTS[arm]]


def _key(arm: str, seed: int) -> dict[str, object]:
    return {
        "study": STUDY,
        "dataset": DATASET,
        "arm": arm,
        "epochs": EPOCHS,
        "seed": seed,
        "run_id": run_id(arm, seed),
    }


def metrics() -> pd.DataFrame:
    """Table of METRICS_SCHEMA: kNN sweep, probe, rank, participation, cosine and norm."""
    noise = np.random.default_rng(0)
    rows = []
    for arm, seed, part in conditions():
        level = LEVEL[arm] + SHIFT[part] + noise.normal(0, 0.8)
        found = {
            f"knn_top1@{k}": level + 3 * np.log10(20) - 3 * abs(np.log10(k / 8)) for k in NEIGHBOURS
        }
        found["knn_top1@best"] = max(found.values())
        found["linear_probe_top1"] = level + 8 + noise.normal(0, 0.4)
        percent = dict.fromkeys(found, "percent")
        found |= {
            "effective_rank": level * 1.5 + noise.normal(0, 2),
            "participation_ratio": level * 0.8 + noise.normal(0, 1),
            "cosine_mean": CONE[arm] + noise.normal(0, 0.01),
            "feature_norm_mean": (22.6 if part in ("qp", "all") else 16) + noise.normal(0, 0.1),
        }
        rows += [
            _key(arm, seed)
            | {
                "checkpoint_epoch": EPOCHS,
                "readout": part,
                "metric": name,
                "value": float(value),
                "unit": percent.get(name, "dimensionless"),
            }
            for name, value in found.items()
        ]
    return pd.DataFrame(rows)[METRICS_SCHEMA.names]


def curves(points: int = 512) -> pd.DataFrame:
    """Table of CURVES_SCHEMA: 256 eigenvalues, cosines and norms at `points` probabilities."""
    noise = np.random.default_rng(1)
    probability = (np.arange(points) + 0.5) / points
    rank = np.arange(1, 257, dtype=float)
    frames = []
    for arm, seed, part in conditions():
        steepness = 1.0 + 0.3 * ARM_ORDER.index(arm) + noise.normal(0, 0.03)
        cosine = np.clip(np.sort(noise.normal(CONE[arm], 0.12, points)), -1, 1)
        scale = np.sqrt(2) if part in ("qp", "all") else 1.0
        norm = np.sort(noise.normal(16 + 0.6 * ARM_ORDER.index(arm), 0.7, points)) * scale
        parts = {
            "eigenvalue": (rank, 5 * rank**-steepness * np.exp(-rank / 90)),
            "cosine_quantile": (probability, cosine),
            "norm_quantile": (probability, norm),
        }
        frames += [
            pd.DataFrame(
                _key(arm, seed)
                | {
                    "checkpoint_epoch": EPOCHS,
                    "readout": part,
                    "curve": name,
                    "position": position,
                    "value": value,
                    "unit": "dimensionless",
                }
            )
            for name, (position, value) in parts.items()
        ]
    return pd.concat(frames, ignore_index=True)[CURVES_SCHEMA.names]


def history() -> pd.DataFrame:
    """Table of HISTORY_SCHEMA: terms of each arm's objective, gradient norm, learning rate."""
    noise = np.random.default_rng(2)
    epoch = np.arange(1, EPOCHS + 1)
    schedule = np.where(epoch <= 2, epoch / 2, 0.5 + 0.5 * np.cos(np.pi * (epoch - 2) / 10)) * 5e-4
    frames = []
    for arm in ARM_ORDER:
        split = ("budget", "variance_floor", "logdet_floor", "mean_penalty")
        losses = ("prediction", *(("sigreg",) if arm == "sigreg" else split))
        for seed in SEEDS:
            terms = {
                name: (0.5 + 0.1 * ARM_ORDER.index(arm))
                * np.exp(-epoch * (0.15 + 0.2 * position))
                * np.exp(noise.normal(0, 0.1, EPOCHS))
                for position, name in enumerate(losses)
            }
            terms["total"] = np.sum(list(terms.values()), axis=0)
            terms["gradient_norm"] = 1.0 + np.exp(-epoch / 4) * np.exp(noise.normal(0, 0.2, EPOCHS))
            terms["learning_rate"] = schedule
            frames += [
                pd.DataFrame(_key(arm, seed) | {"epoch": epoch, "term": name, "value": value})
                for name, value in terms.items()
            ]
    return pd.concat(frames, ignore_index=True)[HISTORY_SCHEMA.names]
