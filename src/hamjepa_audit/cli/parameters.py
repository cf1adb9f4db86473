"""hamjepa-audit params: print the parameters of a run, or their schema."""

from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli.options import Study, layout_of

app = typer.Typer(help="Show parameters and their schema.", no_args_is_help=True)


@app.command()
def show(
    context: typer.Context,
    study: Study,
    arm: Annotated[str, typer.Option(help="One of the study's arms.")],
    epochs: Annotated[
        int | None, typer.Option(help="Number of epochs; default: the study's first.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the run; default: the study's first.")
    ] = None,
) -> None:
    """Print the resolved parameters of a run as YAML."""
    import yaml

    from hamjepa_audit.params import load_study, resolve_run

    params = load_study(layout_of(context).params, study)
    run = resolve_run(
        params,
        arm,
        params.epochs[0] if epochs is None else epochs,
        params.seeds[0] if seed is None else seed,
    )
    typer.echo(yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False).rstrip())


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; default: print.")] = None,
) -> None:
    """Write the JSON Schema of a study's resolved parameters."""
    import json

    from hamjepa_audit.files import write_text
    from hamjepa_audit.params import StudyParams

    text = json.dumps(StudyParams.model_json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
