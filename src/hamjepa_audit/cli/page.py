"""hamjepa-audit report: write the HTML page with the results of an audit."""

import typer

from hamjepa_audit.cli.options import Studies, layout_of


def report(context: typer.Context, study: Studies) -> None:
    """Write the HTML page of an audit: verdicts, claims, figures, method and runs."""
    from hamjepa_audit.reporting.page import write_page
    from hamjepa_audit.reporting.page_reading import read_page_content

    layout = layout_of(context)
    typer.echo(write_page(read_page_content(layout, study), layout.page()))


COMMANDS = (report,)
