"""Training: determinism, pairing by seed, divergence, and the trace that guards its numbers."""

import inspect
import itertools
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hamjepa_audit import model
from hamjepa_audit.checkpoints import load_encoder, save_checkpoint
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import open_store
from hamjepa_audit.data.views import random_views
from hamjepa_audit.errors import TrainingDivergedError, UserError
from hamjepa_audit.files import sha256_file
from hamjepa_audit.model import build_model
from hamjepa_audit.params import RunParams, load_study, resolve_run
from hamjepa_audit.randomness import Stream, derived_seed, epoch_order, generator
from hamjepa_audit.training import loop
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.loop import Trainer, pretrain
from hamjepa_audit.training.progress import TrainingProgress
from tests.tiny import ARMS, EPOCHS, STUDY, copy_params
from tests.unit.training_trace import TRACE, TRACED, VIEWS, stressed_params, trace, views_trace

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_params(tmp_path_factory.mktemp("tiny") / "params")


@pytest.fixture(scope="module")
def images(params: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    root = tmp_path_factory.mktemp("data")
    prepare(load_study(params, STUDY).data, root, root)
    return torch.from_numpy(np.array(open_store(root / STUDY).train.images))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    make_deterministic(threads=1)


def run_of(params: Path, arm: str, seed: int = 0) -> RunParams:
    return resolve_run(load_study(params, STUDY), arm, EPOCHS, seed)


def test_algorithms_are_deterministic_and_float32_is_not_shortened() -> None:
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.set_deterministic_debug_mode("default")
    said = make_deterministic(threads=1)
    assert torch.get_deterministic_debug_mode() == 2  # an error, not a warning
    assert not torch.backends.cudnn.benchmark and not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert said["deterministic_algorithms"] and not said["cudnn_benchmark"] and not said["tf32"]


def test_commands_compute_with_one_thread_as_the_workflow_does() -> None:
    """With more, the same run would get other numbers by hand than in the workflow."""
    commands = import_module("hamjepa_audit.cli.main").app.registered_commands
    callbacks = [command.callback for command in commands]
    found = {call.__name__: inspect.signature(call).parameters.get("threads") for call in callbacks}
    defaults = {name: threads.default for name, threads in found.items() if threads}
    assert defaults.pop("bench") is None  # as many as PyTorch would take
    assert {"pretrain", "extract", "knn", "probe", "geometry", "dynamics"} < set(defaults)
    assert set(defaults.values()) == {1}


@pytest.mark.parametrize("arm", ARMS)
def test_the_same_seed_gives_the_same_bytes(
    params: Path, images: torch.Tensor, tmp_path: Path, arm: str
) -> None:
    run = run_of(params, arm)
    results = [pretrain(run, images, CPU, name) for name in ("first", "second")]
    for result, name in zip(results, "ab", strict=True):
        save_checkpoint(result.model, tmp_path / name)
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")
    assert results[0].history == results[1].history
    other = pretrain(run_of(params, arm, seed=1), images, CPU, "other")
    assert other.history != results[0].history


def test_arms_of_one_seed_start_alike_and_see_the_same_views(
    params: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    for arm in ARMS:
        views: list[torch.Tensor] = []

        def recording(*arguments: object, store: list[torch.Tensor] = views) -> torch.Tensor:
            store.append(random_views(*arguments))  # type: ignore[arg-type]
            return store[-1]

        monkeypatch.setattr(loop, "random_views", recording)
        run = run_of(params, arm)
        start = build_model(run).encoder.state_dict()
        pretrain(run, images, CPU, arm)
        seen[arm] = [*start.values(), *views]
    for arm in ARMS[1:]:
        assert len(seen[arm]) == len(seen[ARMS[0]])
        assert all(map(torch.equal, seen[arm], seen[ARMS[0]]))


def test_views_drawn_for_a_whole_epoch_are_those_drawn_for_a_step(
    params: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bool] = []

    def compare(*arguments: object) -> torch.Tensor:
        *before, draws = arguments
        views = random_views(*arguments)  # type: ignore[arg-type]
        alone = random_views(*before)  # type: ignore[arg-type]
        compared.append(draws is not None and torch.equal(views, alone))
        return views

    monkeypatch.setattr(loop, "random_views", compare)
    run = run_of(params, "sigreg")
    pretrain(run, images, CPU, "x")
    steps = len(images) // run.optimisation.batch_size
    assert steps > 1 and EPOCHS > 1 and compared == [True] * (EPOCHS * steps)


def test_another_seed_draws_other_weights_order_and_views(
    params: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[torch.Tensor]] = {"views": []}

    def recording(*arguments: object) -> torch.Tensor:
        drawn["views"].append(random_views(*arguments))  # type: ignore[arg-type]
        return drawn["views"][-1]

    monkeypatch.setattr(loop, "random_views", recording)
    weights = ("encoder.stem.0.weight", "objective.predictor.potential.residual.linears.0.weight")
    samples = torch.arange(8)
    for seed in (0, 1):
        run = run_of(params, "hamjepa", seed)
        trainer = Trainer(run, build_model(run), images, "x")
        state = trainer.model.state_dict()
        for name in weights:
            drawn.setdefault(name, []).append(state[name].clone())
        drawn.setdefault("order", []).append(trainer._batches(1, 1)[0])
        trainer.step(samples, images[samples], 1, 0)
    for name, (first, second) in drawn.items():
        assert not torch.equal(first, second), name


def test_an_epoch_takes_every_image_once_and_drops_the_rest(
    params: Path, images: torch.Tensor
) -> None:
    run = run_of(params, "sigreg")
    trainer = Trainer(run, build_model(run), images, "x")
    batches = list(trainer._batches(1, trainer.steps_per_epoch))
    assert {len(batch) for batch in batches} == {run.optimisation.batch_size}
    assert len(batches) == len(images) // run.optimisation.batch_size
    assert len(torch.cat(batches).unique()) == sum(map(len, batches))
    assert not np.array_equal(epoch_order(0, 1, 50), epoch_order(0, 2, 50))
    assert sorted(epoch_order(0, 1, 50)) == list(range(50))


@pytest.mark.parametrize(("arm", "stays"), [("frozen", True), ("hamjepa", False)])
def test_training_leaves_a_frozen_potential_as_it_was(
    params: Path, images: torch.Tensor, arm: str, stays: bool
) -> None:
    """Bit-identical, so weight decay isn't applied either."""
    study = load_study(params, "digits_controls").model_copy(update={"epochs": (EPOCHS,)})
    run = resolve_run(study, arm, EPOCHS, 0)
    before = build_model(run).state_dict()
    after = pretrain(run, images, CPU, arm).model.state_dict()
    kept = {name: torch.equal(value, after[name]) for name, value in before.items()}
    potential = [name for name in kept if name.startswith("objective.predictor.potential")]
    assert len(potential) == 6 and "encoder.stem.0.weight" in kept
    assert not kept["encoder.stem.0.weight"]
    assert all(kept[name] for name in potential) == stays


def test_learning_rates_of_the_groups(params: Path, images: torch.Tensor) -> None:
    run = run_of(params, "hamjepa")
    slow = run.model_copy(update={"arm": run.arm.model_copy(
        update={"predictor_learning_rate": 5e-5})})  # fmt: skip
    trainer = Trainer(slow, build_model(slow), images, "x")
    bases = [group["base_rate"] for group in trainer.optimiser.param_groups]
    assert bases == [5e-4, 5e-5]
    assert trainer.optimiser.weight_decay == 5e-4
    samples = torch.arange(slow.optimisation.batch_size)
    trainer.step(samples, images[samples], 1, 0)
    rates = [group["lr"] for group in trainer.optimiser.param_groups]
    assert rates == pytest.approx([5e-6, 5e-7])
    floor = 5e-4 * slow.optimisation.final_factor
    last = [trainer._learning_rate(trainer.total_steps, base) for base in bases]
    assert last == pytest.approx([floor, floor]) and floor > 0


def test_the_history_has_the_encoders_learning_rate_and_the_pace_counts_both_views(
    params: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(params, "hamjepa")
    slow = run.model_copy(update={"arm": run.arm.model_copy(
        update={"predictor_learning_rate": 5e-5})})  # fmt: skip
    trainer = Trainer(slow, build_model(slow), images, "x")
    paces: list[float] = []
    progress = TrainingProgress("x", EPOCHS, 2, quiet=True)
    monkeypatch.setattr(progress, "epoch", lambda _epoch, _means, pace: paces.append(pace))
    trainer.train_epoch(2, progress)
    (means,), (seconds,) = trainer.position.history, trainer.position.epoch_seconds
    assert means["learning_rate"] == trainer.optimiser.param_groups[0]["lr"]
    assert means["learning_rate"] != trainer.optimiser.param_groups[1]["lr"]
    assert paces == [pytest.approx(2 * 2 * slow.optimisation.batch_size / seconds)]


@pytest.mark.parametrize("scope", ["encoder_and_predictor", "encoder", None])
def test_what_is_clipped_together_or_has_its_norm_recorded(
    params: Path, images: torch.Tensor, scope: str | None
) -> None:
    run = run_of(params, "hamjepa")
    assert run.arm.clipping is not None
    clipping = run.arm.clipping.model_copy(update={"scope": scope, "maximum_norm": 1e-3})
    if scope is None:
        clipping = None
    run = run.model_copy(update={"arm": run.arm.model_copy(update={"clipping": clipping})})
    model = build_model(run)
    trainer = Trainer(run, model, images, "x")
    for parameter in (*model.encoder.parameters(), *model.objective.parameters()):
        parameter.grad = torch.ones_like(parameter)
    norm = float(trainer._clip())
    counted = list(model.encoder.parameters())
    if scope != "encoder":
        counted += model.objective.parameters()
    assert norm == pytest.approx(sum(p.numel() for p in counted) ** 0.5, rel=1e-5)
    predictor = next(iter(model.objective.parameters()))
    assert predictor.grad is not None
    clipped = bool((predictor.grad < 0.9).all())
    assert clipped == (scope == "encoder_and_predictor")


def test_without_clipping_the_norm_of_everything_is_recorded(
    params: Path, images: torch.Tensor
) -> None:
    run = run_of(params, "hamjepa")
    run = run.model_copy(update={"arm": run.arm.model_copy(update={"clipping": None})})
    model = build_model(run)
    trainer = Trainer(run, model, images, "x")
    every = [*model.encoder.parameters(), *model.objective.parameters()]
    for parameter in every:
        parameter.grad = torch.ones_like(parameter)
    assert float(trainer._clip()) == pytest.approx(sum(p.numel() for p in every) ** 0.5, rel=1e-5)
    assert all(bool((p.grad == 1).all()) for p in every if p.grad is not None)


def test_objectives_get_float32_from_an_encoder_in_bf16(
    params: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    run = run_of(params, "hamjepa")
    trainer = Trainer(run, build_model(run), images, "x")
    states = trainer._states(torch.arange(4), images[:4], 1)
    assert states.dtype == torch.float32
    assert torch.equal(states, states.bfloat16().float())  # rounded to bf16 before


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(
    params: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(params, "hamjepa")
    original = model.build_objective

    def broken(*arguments: object) -> model.ArmObjective:
        objective = original(*arguments)  # type: ignore[arg-type]
        terms, steps = objective.terms_given, itertools.count()

        def poisoned(*arguments: Any) -> dict[str, torch.Tensor]:
            result = terms(*arguments)
            if next(steps) == 7:
                result["budget"] = result["budget"] * float("inf")
            return result

        monkeypatch.setattr(objective, "terms_given", poisoned)
        return objective

    monkeypatch.setattr(model, "build_objective", broken)
    with pytest.raises(TrainingDivergedError) as caught:
        pretrain(run, images, CPU, "the-run")
    assert "the-run: budget is inf at epoch 2, step 3 of 5" in str(caught.value)


def test_losses_are_checked_within_an_epoch(
    params: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(params, "hamjepa")
    trainer = Trainer(run, build_model(run), images, "the-run")
    monkeypatch.setattr(loop, "CHECK_EVERY_STEPS", 2)
    broken = torch.full((len(trainer._columns()),), float("nan"))
    monkeypatch.setattr(trainer, "step", lambda *_: broken)
    steps: list[int] = []
    with pytest.raises(TrainingDivergedError, match="epoch 1, step 1 of 5"):
        trainer.train_epoch(
            5, TrainingProgress("x", 1, 5), [lambda at: steps.append(at.position.index)]
        )
    assert steps == [1]  # the second step's check stops it


def test_too_few_images_for_a_batch(params: Path, images: torch.Tensor) -> None:
    with pytest.raises(UserError, match="batch_size is 256 but there are 100 training images"):
        pretrain(run_of(params, "sigreg"), images[:100], CPU, "x")


def test_a_trial_stops_early_on_the_schedule_of_the_whole_run(
    params: Path, images: torch.Tensor
) -> None:
    run = run_of(params, "sigreg")
    trial = pretrain(run, images, CPU, "trial", trial_steps=2)
    assert len(trial.history) == 1
    whole = Trainer(run, build_model(run), images, "x")
    assert trial.history[0]["learning_rate"] == whole._learning_rate(1, 5e-4)
    longer = pretrain(run, images, CPU, "trial", trial_steps=whole.total_steps + 1)
    assert len(longer.history) == EPOCHS


@pytest.mark.parametrize("damage", ["cut", "other model", "missing"])
def test_checkpoints_load_whole_or_not_at_all(params: Path, tmp_path: Path, damage: str) -> None:
    run = run_of(params, "hamjepa")
    path = tmp_path / "checkpoint.safetensors"
    model = build_model(run)
    save_checkpoint(model, path)
    encoder = load_encoder(run, path, CPU)
    assert not encoder.training
    assert all(map(torch.equal, encoder.state_dict().values(), model.encoder.state_dict().values()))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    else:
        save_checkpoint(build_model(run_of(params, "sigreg")), path)
    said = {"cut": "not a readable", "other model": "of another model", "missing": "missing"}
    with pytest.raises(UserError, match=said[damage]) as caught:
        load_encoder(run, path, CPU)
    assert "\n" not in str(caught.value)


def test_streams_do_not_share_numbers() -> None:
    seeds = {
        derived_seed(stream, seed, index)
        for stream in Stream
        for seed in (0, 1)
        for index in (0, 1)
    }
    assert len(seeds) == len(Stream) * 4
    first = torch.randn(3, generator=generator(Stream.VIEWS, 0))
    assert torch.equal(first, torch.randn(3, generator=generator(Stream.VIEWS, 0)))


@pytest.mark.golden
@pytest.mark.parametrize("arm", TRACED)
def test_training_numbers_change_only_with_their_version(
    tmp_path: Path, images: torch.Tensor, arm: str
) -> None:
    """Compares losses and final weights of a tiny run with those stored for TRAINING_NUMERICS.

    If this fails, results of old runs can't be mixed with new ones: increment TRAINING_NUMERICS in
    plans/identity.py, then write the new trace with python -m tests.unit.training_trace.
    """
    ours, expected = trace(stressed_params(tmp_path / "params"), images, arm), TRACE.stored()[arm]
    for row, stored_row in zip(ours["history"], expected["history"], strict=True):
        assert row == pytest.approx(stored_row, rel=1e-5, abs=1e-8)
    assert ours["norms"] == pytest.approx(expected["norms"], rel=1e-5, abs=1e-8)


@pytest.mark.golden
def test_views_change_only_with_the_version_of_training(
    tmp_path: Path, images: torch.Tensor
) -> None:
    ours = views_trace(stressed_params(tmp_path / "params"), images)
    assert ours == pytest.approx(TRACE.stored()[VIEWS], rel=1e-4)
