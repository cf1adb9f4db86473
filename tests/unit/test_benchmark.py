"""The benchmark: the plain implementation is mathematically the same, and the report is written."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from hamjepa_audit.benchmark import parts, plain, report, timing
from hamjepa_audit.benchmark.parts import (
    Bench,
    BenchmarkParams,
    compare_parts,
    objective_params,
    throughput,
)
from hamjepa_audit.benchmark.preparation import preparation
from hamjepa_audit.benchmark.report import SCHEMA, benchmark, run_with, write_benchmark
from hamjepa_audit.benchmark.timing import Repetition
from hamjepa_audit.cuda_graphs import recordable
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import read_json
from hamjepa_audit.model import build_model
from hamjepa_audit.objectives.arms import PhaseSpaceObjective
from hamjepa_audit.objectives.floors import orthonormal_directions
from hamjepa_audit.params import RunParams, StudyParams, load_study
from hamjepa_audit.params.loading import validate
from hamjepa_audit.params.reading import read_yaml
from hamjepa_audit.training import loop
from tests.tiny import audit, edit
from tests.unit.emulated_graphs import emulated_graphs

CPU = torch.device("cpu")
CHANCE = 4_000_000
"""Bytes by which the peak memory of two identical processes may differ."""


@pytest.fixture(scope="module")
def study(params_folder: Path) -> StudyParams:
    return load_study(params_folder, "cifar100")


@pytest.fixture(scope="module")
def params(params_folder: Path) -> BenchmarkParams:
    tree = read_yaml(params_folder / "benchmark.yaml") | {
        "batch_size": 2,
        "gpu_batch_size": 4,
        "repetition": {"repeats": 1, "seconds": 0},
        "images": 4,
        "evaluation": {"train": 200, "test": 4, "classes": 2, "probe_epochs": 1},
        "ceiling_size": 16,
        "scaling": {"batch_sizes": [2], "widths": [8], "threads": [1]},
    }
    return validate(BenchmarkParams, tree, "benchmark")


def test_the_plain_objective_is_ours(study: StudyParams, params: BenchmarkParams) -> None:
    run = run_with(study, params)
    objective = run.arm.objective
    assert objective.kind == "phase_space"
    ours = PhaseSpaceObjective(objective, 24, seed=3)
    potential = plain.PlainPotential(objective.predictor, 12)
    layers = [layer for layer in potential.residual if isinstance(layer, torch.nn.Linear)]
    for theirs, mine in zip(layers, ours.predictor.potential.residual.layers, strict=True):
        theirs.load_state_dict(mine.state_dict())
    generator = torch.Generator().manual_seed(0)
    states = 0.05 * torch.randn(2, 10, 24, generator=generator)
    directions = torch.stack([orthonormal_directions(12, 6, generator) for _ in range(2)])
    values, gradients = [], []
    for loss in (
        lambda x: ours.total(ours.terms_given(x, [directions], ramp=1.0)),
        lambda x: plain.plain_objective(x, potential, directions, objective),
    ):
        x = states.clone().requires_grad_()
        value = loss(x)
        value.backward()
        values.append(float(value.detach()))
        gradients.append(x.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_the_plain_encoder_is_ours(study: StudyParams, params: BenchmarkParams) -> None:
    ours = build_model(run_with(study, params)).encoder.eval()
    theirs = plain.PlainEncoder(run_with(study, params).encoder).eval()
    weights = {
        name.replace("stem.0", "backbone.conv1")
        .replace("stem.1", "backbone.bn1")
        .replace("token_proj", "tokens")
        if not name.startswith("layer")
        else f"backbone.{name}": value
        for name, value in ours.state_dict().items()
    }
    _, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.slow
def test_the_report_is_written(study: StudyParams, params: BenchmarkParams, tmp_path: Path) -> None:
    rows = list(benchmark(study, params, CPU, compile_encoder=False))
    write_benchmark(rows, CPU, {"threads": 1}, tmp_path)
    assert read_json(tmp_path / "bench.json")["determinism"] == {"threads": 1}
    rows = pq.read_table(tmp_path / "bench.parquet")
    assert rows.schema.equals(SCHEMA)
    ratios = {row["part"] for row in rows.to_pylist() if row["implementation"] == "plain / audit"}
    assert ratios == {
        "views", "predictor loss", "objective", "training step", "evaluation of three readouts",
    }  # fmt: skip
    assert {"bench.png", "bench.pdf", "bench.json"} <= {path.name for path in tmp_path.iterdir()}
    assert min(rows["value"].to_pylist()) > 0


def test_every_part_is_compared(study: StudyParams, params: BenchmarkParams) -> None:
    bench = Bench(run_with(study, params, width=8), params, CPU)
    rows = list(compare_parts(bench))
    assert len(rows) == 12 and all(row["value"] > 0 for row in rows)


def test_on_a_gpu_only_replays_of_a_recorded_step_are_timed(
    study: StudyParams, params: BenchmarkParams
) -> None:
    repeats = 3
    thrice = Repetition(repeats=repeats, seconds=0)
    with emulated_graphs() as emulation, recordable(CPU):
        run = run_with(study, params, width=8)
        bench = Bench(run, params.model_copy(update={"repetition": thrice}), CPU)
        assert bench.step_seconds() > 0
    assert [graph.replays for graph in emulation.graphs] == [1 + repeats]


@pytest.mark.parametrize(("repeats", "seconds", "expected"), [(3, 0, 3), (3, 15, 3), (1, 16, 4)])
def test_what_is_short_is_timed_more_often(
    monkeypatch: pytest.MonkeyPatch, repeats: int, seconds: float, expected: int
) -> None:
    """On a clock that shows 0, 1, 2, ..., a turn of two timings takes 5."""
    clock = itertools.count()
    monkeypatch.setattr(timing, "perf_counter", lambda: next(clock))
    calls: list[str] = []
    works = {name: partial(calls.append, name) for name in "ab"}
    repetition = Repetition(repeats=repeats, seconds=seconds)
    assert timing.in_turns(CPU, repetition, **works) == {"a": 1, "b": 1}
    assert calls == ["a", "b", *["a", "b"] * expected]


@pytest.mark.parametrize(("kind", "usual"), [("cuda", 4), ("cpu", 2)])
@pytest.mark.parametrize("compiles", [True, False])
def test_on_a_gpu_the_steps_are_those_of_training(
    study: StudyParams, params: BenchmarkParams, monkeypatch: pytest.MonkeyPatch,
    kind: str, usual: int, compiles: bool,
) -> None:  # fmt: skip
    """Of the protocol's batch size, and all compiled or none."""
    made: list[tuple[int, bool]] = []

    def bench_on_cpu(run: RunParams, compile_encoder: bool, **_: object) -> Bench:
        made.append((run.optimisation.batch_size, compile_encoder))
        return Bench(run, params, CPU)

    monkeypatch.setattr(report, "Bench", bench_on_cpu)
    for part in ("compare_parts", "compare_evaluation", "throughput"):
        monkeypatch.setattr(report, part, lambda _: [])
    monkeypatch.setattr(report, "in_turns", lambda _, __, **works: dict.fromkeys(works, 1.0))
    monkeypatch.setattr(Bench, "step_seconds", lambda _: 1.0)
    monkeypatch.setattr(report, "peak_memory", lambda _: {})
    list(benchmark(study, params, torch.device(kind), compiles))
    scaling = [2, usual] if kind == "cuda" else [2, usual, usual]
    assert made == [(size, compiles) for size in (usual, usual, usual, *scaling)]


def test_the_timed_step_and_encoder_are_compiled_if_they_are_to_be(
    study: StudyParams, params: BenchmarkParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []
    resets: list[None] = []

    def fake(encoder: torch.nn.Module) -> Callable[[Tensor], Tensor]:
        def encode(views: Tensor) -> Tensor:
            calls.append(views.shape)
            return encoder(views)

        return encode

    monkeypatch.setattr(loop, "compiled", fake)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(None))
    run = run_with(study, params, width=8)
    Bench(run, params, CPU).step()
    assert calls == resets == []
    bench = Bench(run, params, CPU, compile_encoder=True)
    bench.step()
    assert calls == [(4, 3, 32, 32)] and len(resets) == 1
    list(throughput(bench))
    assert calls == [(4, 3, 32, 32)] * (1 + 2 * 2)  # each is warmed up once and timed once


def test_throughput_is_that_of_the_encoder(
    study: StudyParams, params: BenchmarkParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward pass takes two FLOPs per weight and output, a backward pass twice that.

    The images' own gradient, of the first convolution's input, is not computed.
    """
    monkeypatch.setattr(parts, "in_turns", lambda *_, **works: dict.fromkeys(works, 1.0))
    bench = Bench(run_with(study, params, width=8), params, CPU)
    rows = {row["part"]: row["value"] for row in throughput(bench)}
    assert rows["end to end"] == 4
    forward = []
    for module in bench.trainer.model.encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda own, _, out: forward.append(2 * own.weight[0].numel() * out.numel())
            )
    bench.trainer.model.encoder(bench.views())
    assert rows["encoder, forward and backward"] == 3 * sum(forward) - forward[0]


@pytest.mark.parametrize("arm", ["euler", "mlp", "sigreg"])
def test_an_arm_without_a_leapfrog_map_is_not_compared(
    params_folder: Path, params: BenchmarkParams, arm: str
) -> None:
    run = run_with(load_study(params_folder, "cifar100_controls"), params, arm)
    with pytest.raises(UserError, match=f"arm '{arm}' of study 'cifar100_controls' can't be timed"):
        objective_params(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scaling": {"batch_sizes": [5], "widths": [8], "threads": [1]}}, "but a batch has 5"),
        ({"gpu_batch_size": 6}, "but a batch has 6"),
        ({"preparation": {"images": 50}}, "multiple of 20"),
    ],
)
def test_too_few_images_for_a_batch_or_for_a_tenth_are_refused(
    params: BenchmarkParams, change: dict[str, Any], words: str
) -> None:
    tree = params.model_dump(mode="json")
    tree |= {key: tree[key] | x if isinstance(x, dict) else x for key, x in change.items()}
    with pytest.raises(UserError, match=words):
        validate(BenchmarkParams, tree, "benchmark")


def test_preparation_is_timed_and_its_memory_measured(params: BenchmarkParams) -> None:
    size = params.preparation.model_copy(
        update={"images": 40, "distinct": 3, "sides": (24, 32), "image_size": 20, "batch_size": 5}
    )
    rows = list(preparation(size, threads=1))
    assert [(row["part"], row["implementation"]) for row in rows] == [
        ("preparation", "4 images"), ("peak memory, preparation", "4 images"),
        ("preparation", "40 images"), ("peak memory, preparation", "40 images"),
        ("images of a batch", "store"), ("images of a batch", "JPEG decoded"),
    ]  # fmt: skip
    assert all(row["value"] > 0 and set(row) == set(SCHEMA.names) for row in rows)
    memory = [row["value"] for row in rows if row["unit"] == "bytes"]
    assert all(3e7 < value < 1e9 for value in memory)


def test_preparation_holds_no_images(params: BenchmarkParams) -> None:
    """Each further image needs at most 1 kB for its metadata; its pixels would be 12 kB."""
    images = 4000
    size = params.preparation.model_copy(
        update={
            "images": images, "distinct": 3, "sides": (64, 64), "image_size": 64, "batch_size": 5,
        }
    )  # fmt: skip
    rows = list(preparation(size, threads=1))
    few, many = (row["value"] for row in rows if row["unit"] == "bytes")
    assert many - few < 1000 * (images - images // 10) + CHANCE, f"{many - few:,.0f} bytes more"


def test_too_few_features_for_the_neighbours_are_refused_before_anything_is_timed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(place / "params/benchmark.yaml", "evaluation.train", 128)
    monkeypatch.setattr(report, "benchmark", lambda *_: pytest.fail("timed"))
    status, stderr = audit(monkeypatch, capsys, "bench", "--device", "cpu")
    assert status == 2 and "evaluation.train is 128" in stderr and "200 neighbours" in stderr


def test_the_command_times_what_it_is_told_to(
    params_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It uses the given repeats, device and folder, and times preparation only on request."""
    row = dict.fromkeys(SCHEMA.names, "") | {"value": 1.0, "batch_size": 0, "width": 0}
    made: list[object] = []

    def timed(
        _: object, params: BenchmarkParams, where: torch.device, compile_encoder: bool
    ) -> list[dict[str, object]]:
        made.append((params.repetition.repeats, where.type))
        return [row | {"part": "objective"}]

    def written(
        rows: list[dict[str, object]], _: object, conditions: dict[str, object], folder: Path
    ) -> None:
        assert conditions["compiled"] is False
        made.append(([x["part"] for x in rows], folder))

    monkeypatch.setattr(report, "benchmark", timed)
    monkeypatch.setattr(report, "write_benchmark", written)
    monkeypatch.setattr(
        "hamjepa_audit.benchmark.preparation.preparation",
        lambda *_: [row | {"part": "preparation"}],
    )
    places = ("--params", str(params_folder), "--results", "there", "bench", "--device", "cpu")
    assert audit(monkeypatch, capsys, *places)[0] == 0
    repeats = read_yaml(params_folder / "benchmark.yaml")["repetition"]["repeats"]
    assert made == [(repeats, "cpu"), (["objective"], Path("there/bench"))]
    made.clear()
    options = ("--repeats", f"{repeats + 1}", "--preparation", "--out", str(tmp_path))
    assert audit(monkeypatch, capsys, *places, *options)[0] == 0
    assert made == [(repeats + 1, "cpu"), (["objective", "preparation"], tmp_path)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert audit(monkeypatch, capsys, *places[:-1], "cuda")[0] == 2


def test_the_command_computes_where_steps_can_be_recorded(
    params_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with emulated_graphs() as emulation:
        streams: list[object] = []

        def timed(*_: object) -> list[dict[str, object]]:
            streams.append(emulation.current)
            return []

        monkeypatch.setattr(report, "benchmark", timed)
        monkeypatch.setattr(report, "write_benchmark", lambda *_: None)
        command = ("--params", str(params_folder), "bench", "--device", "cpu")
        assert audit(monkeypatch, capsys, *command)[0] == 0
        assert len(streams) == 1 and emulation.default not in streams
        assert emulation.current is emulation.default
