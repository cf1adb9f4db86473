"""hamjepa-audit gain: which parts of the method account for its gain over the baseline."""

import typer

from hamjepa_audit.cli.options import Study, layout_of
from hamjepa_audit.errors import UserError


def gain(context: typer.Context, study: Study) -> None:
    """Compare every arm with baseline and method (SIGReg and HamJEPA): table and figures."""
    from hamjepa_audit.bookkeeping.table_provenance import origin_of
    from hamjepa_audit.files import read_json, read_parquet
    from hamjepa_audit.metrics import METRICS_SCHEMA
    from hamjepa_audit.params import load_study
    from hamjepa_audit.params.audit import load_audit
    from hamjepa_audit.plans.gain import has_gain
    from hamjepa_audit.reporting.gain_figures import write_gain_figures
    from hamjepa_audit.reporting.gain_tables import write_gain_table
    from hamjepa_audit.statistics.gain import Equivalence, gain as gain_of

    layout = layout_of(context)
    params = load_study(layout.params, study)
    sides = params.statistics.gain
    if not has_gain(params):
        raise UserError(
            f"study '{study}' lacks the arms for a gain: '{sides.baseline}', '{sides.method}' and "
            f"at least one other; name another study"
        )
    metrics = read_parquet(layout.study_table(study, "metrics"), METRICS_SCHEMA).to_pandas()
    arms, titles = params.arm_names, params.arm_titles
    audit = load_audit(layout.params)
    margins = {metric: audit.absolute_margin(metric) for metric in sides.accuracies}
    equivalence = Equivalence(margins, audit.minimum_seeds)
    table = gain_of(metrics, arms, sides, params.statistics.confidence, equivalence)
    write_gain_figures(metrics, table, params, margins, layout.figures(study))
    selection = layout.selection(study)
    origin = origin_of(selection, read_json(selection))
    write_gain_table(table, titles, sides, layout.tables(study), origin)
    typer.echo(layout.tables(study))


COMMANDS = (gain,)
