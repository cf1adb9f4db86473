"""The main means, which `dvc metrics show` and `dvc plots show` compare between versions."""

from typing import Any

import pandas as pd

from hamjepa_audit.reporting.order import ACCURACIES, OVERVIEW, final_checkpoint

SIGNIFICANT_DIGITS = 6


def headlines(metrics: pd.DataFrame) -> dict[str, Any]:
    """Means over seeds of the overview's metrics at the last epoch, of one or more studies.

    Returns:
        Nested mappings study -> ARM-eEPOCHS -> readout -> metric -> mean, in the metric's unit.

    Raises:
        UserError: nothing was measured at a last epoch.
    """
    rows = final_checkpoint(metrics[metrics["metric"].isin(OVERVIEW)])
    means = rows.groupby(["study", "arm", "epochs", "readout", "metric"])["value"].mean()
    result: dict[str, Any] = {}
    for row in means.reset_index().to_dict("records"):
        runs = result.setdefault(row["study"], {}).setdefault(f"{row['arm']}-e{row['epochs']}", {})
        mean = float(f"{row['value']:.{SIGNIFICANT_DIGITS}g}")
        runs.setdefault(row["readout"], {})[row["metric"]] = mean
    return result


def accuracies(means: dict[str, Any]) -> pd.DataFrame:
    """The accuracies in what `headlines` returns, in percent: a row per condition and readout."""
    rows = [
        {"run": f"{study} {runs} {readout}"} | {name: values.get(name) for name in ACCURACIES}
        for study, below in means.items()
        for runs, readouts in below.items()
        for readout, values in readouts.items()
    ]
    return pd.DataFrame(rows, columns=["run", *ACCURACIES])
