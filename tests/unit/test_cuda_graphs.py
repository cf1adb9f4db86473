"""Recorded work gives the same bits as work that isn't recorded: steps of training, and probes.

Without a GPU, graphs are emulated on the CPU. Whatever changes between steps but enters neither as
an input nor through memory that is kept, keeps the value that it had when the step was recorded,
so that the numbers differ.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from hamjepa_audit import cuda_graphs
from hamjepa_audit.cuda_graphs import WARM_UP_CALLS, Recording, alongside, recordable
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import open_store
from hamjepa_audit.evaluation import probe
from hamjepa_audit.evaluation.probe import epoch_orders, initial_weights, train_probe
from hamjepa_audit.evaluation.rows import Labelled
from hamjepa_audit.model import build_model
from hamjepa_audit.objectives import arms, projected_spectrum
from hamjepa_audit.params import RunParams, load_study, resolve_run
from hamjepa_audit.params.evaluation import ProbeParams
from hamjepa_audit.training import loop, state
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.loop import Hook, Trainer, pretrain
from tests.tiny import EPOCHS, RAMP, STUDY, edit
from tests.unit.emulated_graphs import Races, emulated_graphs
from tests.unit.features import clusters, seeded
from tests.unit.training_trace import TRACED_IMAGES, stressed_params

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NEVER = 10**9
"""A number of warm-up calls after which nothing is recorded in a test."""
RESUMED_AFTER = 7
PROBE = ProbeParams(
    epochs=3, batch_size=32, learning_rate=0.01, weight_decay=0.1, betas=(0.8, 0.99), seed=0
)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
Numbers = dict[str, Any]


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with everything in effect, and a ramp whose shares are exact in float32."""
    folder = stressed_params(tmp_path_factory.mktemp("stressed") / "params")
    edit(folder / "studies" / f"{STUDY}.yaml", RAMP, 2 * EPOCHS)
    return folder


@pytest.fixture(scope="module")
def images(params: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    root = tmp_path_factory.mktemp("data")
    prepare(load_study(params, STUDY).data, root, root)
    return torch.from_numpy(np.array(open_store(root / STUDY).train.images))[:TRACED_IMAGES]


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deterministic, and with learning rates that a tensor of a GPU holds without rounding."""
    make_deterministic(threads=1)
    for module, name in ((loop, "learning_rate"), (probe, "_cosine")):
        monkeypatch.setattr(module, name, representable(getattr(module, name)))


def representable(rate: Callable[..., float]) -> Callable[..., float]:
    return lambda *arguments: float(np.float32(rate(*arguments)))


def run_of(params: Path, arm: str) -> RunParams:
    return resolve_run(load_study(params, STUDY), arm, EPOCHS, 0)


def trained(
    run: RunParams,
    images: Tensor,
    device: torch.device,
    restore: Hook | None = None,
    after_step: Sequence[Hook] = (),
) -> Numbers:
    """History, weights with BatchNorm's statistics, and moments after a run."""
    trainers: list[Trainer] = []
    hooks = [trainers.append, *after_step]
    result = pretrain(run, images.to(device), device, "x", restore=restore, after_step=hooks)
    moments = {
        f"{name} of parameter {index}": value
        for index, parameter in enumerate(trainers[-1].parameters())
        for name, value in trainers[-1].optimiser.state.get(parameter, {}).items()
    }
    return {"history": result.history} | result.model.state_dict() | moments


def probed(device: torch.device, dtype: torch.dtype) -> Numbers:
    """Losses and weights of a probe, of whose batches the last in each epoch is smaller."""
    rows, _ = clusters(spread=2.0)
    train = Labelled(rows.features.to(device, dtype), rows.labels.to(device))
    initial = probe.ProbeWeights(*(x.to(device, dtype) for x in initial_weights(12, 7, seeded())))
    orders = epoch_orders(len(rows.labels), PROBE.epochs, seeded(1))
    fit = train_probe(train, initial, orders, PROBE)
    return {"losses": fit.step_losses} | fit.weights._asdict()


def differing(first: Numbers, second: Numbers) -> list[str]:
    """Names of what is not the same to the last bit."""
    assert first.keys() == second.keys()
    return [
        name
        for name, value in first.items()
        if not (
            torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        )
    ]


def alone(*_: object, **__: object) -> nullcontext[Any]:
    """In place of `alongside`."""
    return nullcontext(lambda: None)


@pytest.mark.parametrize("arm", ["sigreg", "hamjepa", "mlp", "volume_preserving", "rdmreg"])
def test_recorded_steps_train_the_same_to_the_last_bit(
    params: Path, images: Tensor, arm: str
) -> None:
    run = run_of(params, arm)
    steps = EPOCHS * (len(images) // run.optimisation.batch_size)
    with emulated_graphs() as emulation:
        recorded = trained(run, images, CPU)
    assert [graph.replays for graph in emulation.graphs] == [steps - WARM_UP_CALLS]
    assert differing(trained(run, images, CPU), recorded) == []


def test_a_run_that_is_resumed_between_recorded_steps_is_the_same_to_the_last_bit(
    params: Path, images: Tensor
) -> None:
    run, kept = run_of(params, "hamjepa"), []

    def keep(trainer: Trainer) -> None:
        if trainer.steps_done == RESUMED_AFTER:
            content, tensors = state.capture(trainer)
            kept.append((content, load(save(tensors))))

    with emulated_graphs() as emulation:
        trained(run, images, CPU, after_step=[keep])
        resumed = trained(
            run, images, CPU, restore=lambda trainer: state.restore(trainer, *kept[0])
        )
    first, second = (graph.replays for graph in emulation.graphs)
    assert first - second == RESUMED_AFTER > WARM_UP_CALLS
    assert differing(trained(run, images, CPU), resumed) == []


def test_the_compared_runs_change_all_that_steps_depend_on(params: Path, images: Tensor) -> None:
    """After the recording: the learning rate, the epoch's views, the ramp, and the directions."""
    run = run_of(params, "hamjepa")
    trainer = Trainer(run, build_model(run), images, "x")
    recorded, last = WARM_UP_CALLS, trainer.total_steps - 1
    objective, shape = trainer.model.objective, torch.Size((2, 64, trainer._dimension))
    first, second = (objective.draws(shape, step, CPU, torch.float32) for step in (recorded, last))
    assert not torch.equal(first[0], second[0])
    assert trainer._learning_rate(recorded, 1.0) != trainer._learning_rate(last, 1.0)
    assert recorded < trainer.steps_per_epoch and objective.ramp(1) < objective.ramp(EPOCHS) < 1
    norms = [row["gradient_norm"] for row in trained(run, images, CPU)["history"]]
    assert run.arm.clipping is not None and min(norms) > run.arm.clipping.maximum_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recorded_steps_of_a_probe_are_the_same_to_the_last_bit(dtype: torch.dtype) -> None:
    with emulated_graphs() as emulation:
        recorded = probed(CPU, dtype)
    whole = PROBE.epochs * (230 // PROBE.batch_size)
    assert [graph.replays for graph in emulation.graphs] == [whole - WARM_UP_CALLS]
    assert differing(probed(CPU, dtype), recorded) == []


def test_work_is_done_once_a_call_and_its_host_code_only_until_it_is_recorded() -> None:
    total, calls = torch.zeros(2), []

    def work(given: Tensor) -> Tensor:
        calls.append(len(calls) + 1)
        return total.add_(given) * 2

    recording, inputs = Recording(), [torch.full((2,), float(n)) for n in range(1, 7)]
    with emulated_graphs(), recordable(CPU):
        results = [recording(work, [given]) for given in inputs]
    assert calls == [1, 2, 3, 4] and total.tolist() == [21.0, 21.0]
    assert [given.tolist() for given in inputs] == [[float(n)] * 2 for n in range(1, 7)]
    assert [result.tolist() for result in results] == [[2.0 * x] * 2 for x in (1, 3, 6, 10, 15, 21)]


def test_work_on_a_cpu_is_not_recorded() -> None:
    recording, calls = Recording(), []

    def work(given: Tensor) -> Tensor:
        calls.append(given)
        return given

    for _ in range(WARM_UP_CALLS + 2):
        recording(work, [torch.zeros(1)])
    assert len(calls) == WARM_UP_CALLS + 2


def test_what_is_neither_an_input_nor_kept_memory_stays_as_it_was_recorded() -> None:
    """So the emulation notices it."""
    number, kept, renewed = 0.0, torch.zeros(()), torch.zeros(())

    def work(given: Tensor) -> Tensor:
        return torch.stack([given, given * 0 + number, kept.clone(), renewed.clone()])

    recording = Recording()
    with emulated_graphs(), recordable(CPU):
        for call in range(1, WARM_UP_CALLS + 3):
            number = float(call)
            kept.fill_(number)
            renewed = torch.tensor(number)
            found = recording(work, [torch.tensor(number)])
    last, recorded = WARM_UP_CALLS + 2, WARM_UP_CALLS + 1
    assert found.tolist() == [last, recorded, last, recorded]


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda x: x * float(x.sum()), "waits for the GPU"),
        (lambda x: x[x > 0], "waits for the GPU"),
        (lambda x: x * torch.rand(3), "draws random numbers"),
    ],
)
def test_what_cuda_refuses_is_refused(work: Any, said: str) -> None:
    recording = Recording()
    with emulated_graphs(), recordable(CPU), pytest.raises(RuntimeError, match=said):
        for _ in range(WARM_UP_CALLS + 1):
            recording(work, [torch.ones(3)])


def test_recording_is_refused_outside_of_recordable() -> None:
    recording = Recording()
    with emulated_graphs(), pytest.raises(RuntimeError, match="default stream"):
        for _ in range(WARM_UP_CALLS + 1):
            recording(torch.neg, [torch.ones(3)])


def test_streams_wait_for_what_was_started_before_and_for_what_is_used_after() -> None:
    with emulated_graphs() as emulation:
        with recordable(CUDA):
            own = emulation.current
            assert own is not emulation.default and own.waited_for == [emulation.default]
            with alongside(CUDA), alongside(CUDA, lane=2):
                inner = emulation.current
            with alongside(CUDA) as wait:
                outer = emulation.current
            assert outer.waited_for == [own, own] and inner.waited_for == [outer]
            assert emulation.current is own and own.waited_for == [emulation.default]
            wait()
            assert own.waited_for == [emulation.default, outer]
        assert emulation.current is emulation.default and emulation.default.waited_for == [own]


@pytest.mark.parametrize("arm", ["sigreg", "hamjepa"])
def test_a_step_uses_nothing_that_another_stream_may_not_have_written(
    params: Path, images: Tensor, arm: str
) -> None:
    run = run_of(params, arm)
    with emulated_graphs() as emulation, recordable(CPU):
        trainer = Trainer(run, build_model(run), images, "x")
        samples = torch.arange(run.optimisation.batch_size)
        with Races(emulation):
            trainer.step(samples, images[samples], 1, 0)
        used = {stream for stream in emulation.current.waited_for if stream.kernels}
    assert len(used) == (3 if arm == "hamjepa" else 0)


@pytest.mark.parametrize("waits", [True, False])
def test_a_result_that_is_not_waited_for_is_noticed(waits: bool) -> None:
    with emulated_graphs() as emulation, recordable(CPU), Races(emulation):
        x = torch.ones(3) + 1
        with alongside(CPU) as wait_for_sum:
            total = (2 * x).sum()
        if waits:
            wait_for_sum()
        expected = nullcontext() if waits else pytest.raises(RuntimeError, match="another stream")
        with expected:
            total.mul_(2)


@on_a_gpu
@pytest.mark.parametrize("arm", ["sigreg", "hamjepa"])
def test_on_a_gpu_recorded_steps_train_the_same_to_the_last_bit(
    params: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    recorded = trained(run_of(params, arm), images, CUDA)
    monkeypatch.setattr(cuda_graphs, "WARM_UP_CALLS", NEVER)
    assert differing(trained(run_of(params, arm), images, CUDA), recorded) == []


@on_a_gpu
def test_on_a_gpu_recorded_steps_of_a_probe_are_the_same_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = probed(CUDA, torch.float32)
    monkeypatch.setattr(cuda_graphs, "WARM_UP_CALLS", NEVER)
    assert differing(probed(CUDA, torch.float32), recorded) == []


@on_a_gpu
def test_on_a_gpu_floors_computed_alongside_are_the_same_to_the_last_bit(
    params: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = trained(run_of(params, "hamjepa"), images, CUDA)
    for module in (arms, projected_spectrum):
        monkeypatch.setattr(module, "alongside", alone)
    assert differing(trained(run_of(params, "hamjepa"), images, CUDA), together) == []
