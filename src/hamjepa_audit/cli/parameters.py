"""hamjepa-audit params: print the parameters of a run."""

from typing import Annotated

import typer

from hamjepa_audit.cli.options import Study, layout_of

app = typer.Typer(help="Show parameters.", no_args_is_help=True)


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
