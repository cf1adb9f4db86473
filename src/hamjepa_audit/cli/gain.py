"""hamjepa-audit gain: which parts of the method account for its gain over the baseline."""

from typing import TYPE_CHECKING

import typer

from hamjepa_audit.cli.options import Study, layout_of
from hamjepa_audit.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from hamjepa_audit.params.studies import StudyParams


def gain(context: typer.Context, study: Study) -> None:
    """Compare every arm with the baseline and the method: a table, and figures."""
    from hamjepa_audit.bookkeeping.table_provenance import origin_of
    from hamjepa_audit.files import read_json, read_parquet
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.params import load_study
    from hamjepa_audit.params.audit import load_audit
    from hamjepa_audit.params.controls import has_gain
    from hamjepa_audit.reporting.gain_tables import write_gain_table
    from hamjepa_audit.reporting.style import save
    from hamjepa_audit.statistics.gain import Equivalence, gain as gain_of

    layout = layout_of(context)
    params = load_study(layout.params, study)
    sides = params.statistics.gain
    if not has_gain(params):
        raise UserError(
            f"study '{study}' lacks the arms that a gain lies between, '{sides.baseline}' and "
            f"'{sides.method}', or any other beside them; name another study"
        )
    metrics = read_parquet(layout.study_table(study, "metrics"), METRICS_SCHEMA).to_pandas()
    arms = [arm.name for arm in params.arms]
    titles = {arm.name: arm.title for arm in params.arms}
    audit = load_audit(layout.params)
    margins = {metric: audit.absolute_margin(metric) for metric in sides.accuracies}
    equivalence = Equivalence(margins, audit.minimum_seeds)
    table = gain_of(metrics, arms, sides, params.statistics.confidence, equivalence)
    figures = _figures(metrics, table, params, titles, margins)
    origin = origin_of(read_json(layout.selection(study)))
    write_gain_table(table, titles, sides, layout.tables(study), origin)
    for name, figure in figures.items():
        save(figure, layout.figures(study), name)
    typer.echo(layout.tables(study))


def _figures(
    metrics: "pd.DataFrame",
    table: "pd.DataFrame",
    params: "StudyParams",
    titles: dict[str, str],
    margins: dict[str, float],
) -> dict[str, "Figure"]:
    """The figures for each number of epochs, by file name."""
    from hamjepa_audit.params.controls import FACTORS, gain_figures, values_of
    from hamjepa_audit.reporting.gain_figures import Sweep, sensitivity, what_carries_the_gain
    from hamjepa_audit.statistics.gain import DYNAMICS

    sides, confidence = params.statistics.gain, params.statistics.confidence
    final = metrics[metrics["checkpoint_epoch"] == metrics["epochs"]]
    drawn = {}
    for epochs in params.epochs:
        of_epochs = final[final["epochs"] == epochs]
        for name in gain_figures(params):
            if name == "what_carries_the_gain":
                rows = table[table["epochs"] == epochs]
                figure = what_carries_the_gain(rows, titles, sides, confidence, margins)
            else:
                sweeps = [
                    Sweep(factor.symbol, values, getattr(sides, factor.side))
                    for factor in FACTORS
                    if factor.figure == name and (values := values_of(params, factor))
                ]
                shown = [*sides.accuracies, *DYNAMICS[:1]]
                varied = {arm for sweep in sweeps for arm in sweep.values}
                rows = of_epochs[of_epochs["arm"].isin(varied) & of_epochs["metric"].isin(shown)]
                rows = rows.sort_values("metric", key=lambda x: x.map(shown.index), kind="stable")
                figure = sensitivity(rows, sweeps, titles, confidence)
            drawn[f"{name}_e{epochs}"] = figure
    return drawn


COMMANDS = (gain,)
