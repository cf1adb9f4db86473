"""The whole benchmark: its rows, their table and their figure."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from matplotlib.figure import Figure

from hamjepa_audit.benchmark.parts import (
    Bench,
    BenchmarkParams,
    compare_evaluation,
    compare_parts,
    throughput,
)
from hamjepa_audit.benchmark.timing import Row, in_turns, row
from hamjepa_audit.bookkeeping.provenance import code_and_environment
from hamjepa_audit.files import write_json
from hamjepa_audit.params import RunParams, StudyParams, resolve_run
from hamjepa_audit.parquet import write_parquet
from hamjepa_audit.reporting.style import save, styled
from hamjepa_audit.training.device import describe_device, peak_memory
from hamjepa_audit.training.loop import VIEWS

BenchOf = Callable[[RunParams], Bench]

SCHEMA = pa.schema(
    {"part": pa.string(), "implementation": pa.string()}
    | {"value": pa.float64(), "unit": pa.string()}
    | dict.fromkeys(("batch_size", "width", "threads"), pa.int64())
)


def benchmark(
    study: StudyParams, params: BenchmarkParams, device: torch.device, compile_encoder: bool
) -> Iterator[Row]:
    """Yields all rows as they are measured.

    The plain implementation is timed only on a CPU; on a GPU only the audit's own code is timed,
    as it trains there: with a larger batch, and with a compiled encoder if `compile_encoder`. Call
    it within `recordable`.
    """
    if device.type == "cuda":
        params = params.model_copy(update={"batch_size": params.gpu_batch_size})
    bench_of = partial(Bench, params=params, device=device, compile_encoder=compile_encoder)
    bench = bench_of(run_with(study, params))
    if device.type == "cpu":
        yield from compare_parts(bench)
        yield from compare_evaluation(bench)
    yield from throughput(bench)
    yield arm_cost(study, params, device, bench_of)
    yield from scaling(study, params, device, bench_of)
    for kind, value in peak_memory(device).items():
        yield row(f"peak memory, {kind.removesuffix('_bytes')}", "audit", value, "bytes")


def run_with(
    study: StudyParams,
    params: BenchmarkParams,
    arm: str | None = None,
    batch_size: int | None = None,
    width: int | None = None,
) -> RunParams:
    """The timed run, with the benchmark's arm and batch size unless others are given."""
    run = resolve_run(study, arm or params.arm, study.epochs[0], study.seeds[0])
    return run.model_copy(
        update={
            "optimisation": run.optimisation.model_copy(
                update={"batch_size": batch_size or params.batch_size}
            ),
            "encoder": run.encoder.model_copy(update={"width": width or run.encoder.width}),
        }
    )


def arm_cost(
    study: StudyParams, params: BenchmarkParams, device: torch.device, bench_of: BenchOf
) -> Row:
    """Duration of a training step of the timed arm, relative to SIGReg's."""
    benches = {arm: bench_of(run_with(study, params, arm)) for arm in (params.arm, "sigreg")}
    for bench in benches.values():
        bench.trainer.model.encoder.train()
    works = {arm: bench.step for arm, bench in benches.items()}
    taken = in_turns(device, params.repetition, **works)
    ratio = taken[params.arm] / taken["sigreg"]
    setting = benches["sigreg"].setting
    return row("training step", f"{params.arm} / sigreg", ratio, "ratio", **setting)


def scaling(
    study: StudyParams, params: BenchmarkParams, device: torch.device, bench_of: BenchOf
) -> Iterator[Row]:
    """Views per second with other batch sizes, widths and numbers of threads."""
    chosen = params.scaling
    usual = torch.get_num_threads()
    runs = [
        ("batch size", usual, run_with(study, params, batch_size=x)) for x in chosen.batch_sizes
    ]
    runs += [("width", usual, run_with(study, params, width=x)) for x in chosen.widths]
    if device.type == "cpu":
        runs += [("threads", x, run_with(study, params)) for x in chosen.threads]
    for varied, threads, run in runs:
        torch.set_num_threads(threads)
        bench = bench_of(run)
        rate = VIEWS * bench.batch / bench.step_seconds()
        yield row(f"scaling with {varied}", "audit", rate, "views/s", **bench.setting)
    torch.set_num_threads(usual)


def write_benchmark(
    rows: list[Row], device: torch.device, conditions: dict[str, Any], folder: Path
) -> None:
    """Writes bench.parquet, bench.png and bench.json, which names hardware and conditions."""
    hardware = describe_device(device)
    write_parquet(folder / "bench.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    record = {"device": hardware, "determinism": conditions, **code_and_environment()}
    write_json(folder / "bench.json", record)
    save(draw(pd.DataFrame(rows), hardware), folder, "bench")


@styled
def draw(rows: pd.DataFrame, hardware: dict[str, Any]) -> Figure:
    """Draws speed-ups over the plain implementation, and views per second by setting."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    left, right = figure.subplots(2, 1)
    ratios = rows[rows["implementation"] == "plain / audit"]
    bars = left.barh(ratios["part"], ratios["value"], color="#0072B2")
    left.bar_label(bars, fmt="%.2f", padding=3)
    left.axvline(1, color="black", linewidth=0.8)
    left.set_xlabel("Times as fast as the plain implementation")
    left.margins(x=0.15)
    left.invert_yaxis()
    speeds = rows[rows["unit"] == "views/s"].drop_duplicates(["batch_size", "width", "threads"])
    settings = speeds[["batch_size", "width", "threads"]].astype(int)
    names = [f"batch {b}, width {w}, threads {t}" for b, w, t in settings.to_numpy()]
    bars = right.barh(names, speeds["value"], color="#009E73")
    right.bar_label(bars, fmt="{:,.0f}", padding=3)
    right.set_xlabel("Views per second, whole training step")
    right.margins(x=0.18)
    right.invert_yaxis()
    figure.suptitle(f"{hardware['type'].upper()}: {hardware['name']}", fontsize=10)
    return figure
