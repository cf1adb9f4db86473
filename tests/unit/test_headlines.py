"""The means by which versions are compared."""

import pandas as pd

from hamjepa_audit.reporting.headlines import accuracies, headlines
from tests.unit import synthetic


def test_headlines_are_means_over_seeds_of_the_overviews_metrics() -> None:
    metrics = synthetic.metrics()
    means = headlines(metrics)
    last = metrics[metrics["checkpoint_epoch"] == metrics["epochs"]]
    picked = last[last["metric"] == "linear_probe_top1"]
    for key, rows in picked.groupby(["study", "arm", "epochs", "readout"]):
        study, arm, epochs, readout = key
        found = means[study][f"{arm}-e{epochs}"][readout]["linear_probe_top1"]
        assert abs(found / rows["value"].mean() - 1) < 1e-5
    assert len(picked) > 0
    table = accuracies(means)
    assert list(table.columns) == ["run", "knn_top1@20", "linear_probe_top1"]
    assert len(table) == sum(len(rows) for study in means.values() for rows in study.values())
    row = table.set_index("run").loc["digits hamjepa-e12 qp"]
    assert row.to_dict() == {name: means["digits"]["hamjepa-e12"]["qp"][name] for name in row.index}


def test_checkpoints_before_the_last_are_in_no_headline() -> None:
    metrics = synthetic.metrics()
    early = metrics.assign(checkpoint_epoch=6, value=0.0)
    assert headlines(pd.concat([early, metrics])) == headlines(metrics)
