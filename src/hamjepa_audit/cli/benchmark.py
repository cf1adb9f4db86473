"""hamjepa-audit bench: time the parts of a training step on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from hamjepa_audit.cli.options import MOST_THREADS, Device, layout_of
from hamjepa_audit.errors import UserError


def bench(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: RESULTS/bench.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_THREADS, help="Number of CPU threads; default: PyTorch's."),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Fewest timings per part; default: as in PARAMS/benchmark.yaml."),
    ] = None,
    preparation: Annotated[
        bool,
        typer.Option("--preparation", help="Also time preparing a data set; takes minutes."),
    ] = False,
) -> None:
    """Time the parts of a step against a plain implementation; write the numbers and a figure."""
    import itertools

    import torch

    from hamjepa_audit.benchmark.parts import BenchmarkParams
    from hamjepa_audit.benchmark.preparation import preparation as preparation_rows
    from hamjepa_audit.benchmark.report import benchmark, write_benchmark
    from hamjepa_audit.cuda_graphs import recordable
    from hamjepa_audit.params import load_study
    from hamjepa_audit.params.loading import read_params
    from hamjepa_audit.training.compilation import COMPILED, can_compile
    from hamjepa_audit.training.device import leased_device, make_deterministic

    layout = layout_of(context)
    params = read_params(BenchmarkParams, layout.params / "benchmark.yaml")
    if repeats is not None:
        repetition = params.repetition.model_copy(update={"repeats": repeats})
        params = params.model_copy(update={"repetition": repetition})
    study = load_study(layout.params, params.study)
    if params.evaluation.train < (most := max(study.evaluation.knn.neighbours)):
        raise UserError(
            f"{layout.params / 'benchmark.yaml'}: evaluation.train is {params.evaluation.train}, "
            f"but kNN of study '{params.study}' needs {most} neighbours; raise it"
        )
    conditions = make_deterministic(threads)
    where = context.with_resource(leased_device(device))
    compile_encoder = study.compile_on_gpu and can_compile(where)
    conditions |= {COMPILED: compile_encoder}
    context.with_resource(recordable(where))
    rows = []
    measured = benchmark(study, params, where, compile_encoder)
    if preparation:
        prepared = preparation_rows(params.preparation, torch.get_num_threads())
        measured = itertools.chain(measured, prepared)
    for row in measured:
        rows.append(row)
        settings = (("batch", "batch_size"), ("width", "width"), ("threads", "threads"))
        setting = ", ".join(f"{word} {row[key]}" for word, key in settings if row[key])
        typer.echo(
            f"{row['part']}, {row['implementation']}: {row['value']:.6g} {row['unit']}"
            + (f" ({setting})" if setting else "")
        )
    folder = layout.results / "bench" if out is None else out
    write_benchmark(rows, where, conditions, folder)
    typer.echo(folder)


COMMANDS = (bench,)
