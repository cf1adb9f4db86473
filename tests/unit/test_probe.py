"""The linear probe compared with PyTorch's modules and scikit-learn."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from hamjepa_audit.errors import TrainingDivergedError
from hamjepa_audit.evaluation.probe import (
    ProbeFit,
    ProbeWeights,
    epoch_orders,
    initial_weights,
    probe_accuracies,
    probe_measurements,
    train_probe,
)
from hamjepa_audit.evaluation.rows import Labelled
from hamjepa_audit.params.evaluation import ProbeParams
from hamjepa_audit.randomness import Stream, generator
from tests.unit.features import clusters, seeded

PROBE = ProbeParams(
    epochs=3, batch_size=32, learning_rate=0.01, weight_decay=0.1, betas=(0.8, 0.99), seed=0
)


def plain_probe(
    features: Tensor, labels: Tensor, initial: ProbeWeights, orders: Tensor, params: ProbeParams
) -> tuple[nn.Sequential, list[float]]:
    """A straightforward probe with PyTorch's modules, optimiser and scheduler."""
    model = nn.Sequential(nn.LayerNorm(features.shape[1]), nn.Linear(*initial.weight.T.shape))
    model = model.to(features.dtype)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), initial, strict=True):
            parameter.copy_(value)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        params.learning_rate,
        betas=params.betas,
        weight_decay=params.weight_decay,
        foreach=False,
    )
    steps = params.epochs * math.ceil(len(features) / params.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for order in orders:
        for start in range(0, len(features), params.batch_size):
            batch = order[start : start + params.batch_size]
            loss = nn.functional.cross_entropy(model(features[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
    return model, losses


class TestProbe:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
    def test_against_modules_and_optimiser(self, dtype: torch.dtype, tolerance: float) -> None:
        train, test = (
            Labelled(side.features.to(dtype), side.labels) for side in clusters(spread=2.0)
        )
        initial = ProbeWeights(*(x.to(dtype) for x in initial_weights(12, 7, seeded())))
        orders = epoch_orders(230, 3, seeded(1))
        fit = train_probe(train, initial, orders, PROBE)
        model, losses = plain_probe(*train, initial, orders, PROBE)
        assert fit.step_losses.tolist() == pytest.approx(losses, rel=tolerance)
        for ours, theirs in zip(fit.weights, model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance)
        hits = (model(test.features).argmax(dim=1) == test.labels).double().mean().item()
        assert probe_accuracies(fit.weights, test).top1 == pytest.approx(hits)

    def test_reaches_logistic_regression(self) -> None:
        train, test = clusters(600, 400, width=20, spread=1.5)
        # Standardised rows, because LayerNorm removes two of the twenty dimensions.
        seen, unseen = (
            (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
            for x in (train.features.numpy(), test.features.numpy())
        )
        classifier = LogisticRegression(max_iter=1000).fit(seen, train.labels.numpy())
        reached = 100 * classifier.score(unseen, test.labels.numpy())
        params = PROBE.model_copy(update={"epochs": 40, "weight_decay": 1e-6})
        rows = probe_measurements("q", train, test, 7, params)
        assert rows[0].metric == "linear_probe_top1"
        assert rows[0].value >= reached - 2
        assert 50 < reached < 99.5

    def test_learns_nothing_from_shuffled_labels(self) -> None:
        train, test = clusters(600, 400, spread=0.1)
        shuffled = Labelled(train.features, train.labels[torch.randperm(600, generator=seeded())])
        rows = probe_measurements("q", shuffled, test, 7, PROBE)
        assert rows[0].value < 35

    def test_measurements_are_repeatable_and_leave_global_randomness_alone(self) -> None:
        inputs = clusters(spread=2.0)
        before = torch.get_rng_state()
        rows = probe_measurements("p", *inputs, 7, PROBE)
        assert torch.equal(torch.get_rng_state(), before)
        assert probe_measurements("p", *inputs, 7, PROBE) == rows
        assert [row[:2] for row in rows] == [
            ("p", "linear_probe_top1"), ("p", "linear_probe_top5")]  # fmt: skip
        assert {row.unit for row in rows} == {"percent"}
        other = PROBE.model_copy(update={"seed": 1, "epochs": 1})
        first = PROBE.model_copy(update={"epochs": 1})
        assert probe_measurements("p", *inputs, 7, other) != probe_measurements(
            "p", *inputs, 7, first
        )

    @pytest.mark.parametrize("seed", [0, 3])
    def test_weights_and_order_are_drawn_from_the_seeds_own_streams(
        self, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        given: list[tuple[ProbeWeights, Tensor]] = []

        def recorded(
            train: Labelled, initial: ProbeWeights, orders: Tensor, params: ProbeParams
        ) -> ProbeFit:
            given.append((initial, orders))
            return train_probe(train, initial, orders, params)

        monkeypatch.setattr("hamjepa_audit.evaluation.probe.train_probe", recorded)
        params = PROBE.model_copy(update={"seed": seed, "epochs": 1})
        probe_measurements("q", *clusters(), 7, params)
        ((initial, orders),) = given
        expected = initial_weights(12, 7, generator(Stream.PROBE, seed, 0))
        assert all(map(torch.equal, initial, expected))
        assert torch.equal(orders, epoch_orders(230, 1, generator(Stream.PROBE, seed, 1)))

    def test_five_classes_have_a_top5(self) -> None:
        rows = probe_measurements("q", *clusters(classes=5), 5, PROBE)
        assert [(row.metric, row.value) for row in rows[1:]] == [("linear_probe_top5", 100.0)]

    def test_no_top5_with_fewer_than_five_classes(self) -> None:
        rows = probe_measurements("q", *clusters(classes=4), 4, PROBE)
        assert [row.metric for row in rows] == ["linear_probe_top1"]

    def test_initial_weights(self) -> None:
        weights = initial_weights(25, 400, seeded())
        assert torch.equal(weights.scale, torch.ones(25, dtype=torch.float64))
        assert torch.equal(weights.shift, torch.zeros(25, dtype=torch.float64))
        for tensor in (weights.weight, weights.bias):
            assert float(tensor.abs().max()) <= 0.2
            assert float(tensor.mean()) == pytest.approx(0, abs=0.02)
            assert float(tensor.std()) == pytest.approx(0.4 / math.sqrt(12), rel=0.05)

    def test_orders_are_permutations_and_differ(self) -> None:
        orders = epoch_orders(50, 3, seeded())
        assert torch.equal(orders.sort(dim=1).values, torch.arange(50).expand(3, 50))
        assert not torch.equal(orders[0], orders[1])

    def test_initial_weights_are_left_as_they_are(self) -> None:
        train, _ = clusters()
        initial = initial_weights(12, 7, seeded())
        copies = [tensor.clone() for tensor in initial]
        train_probe(train, initial, epoch_orders(230, 3, seeded()), PROBE)
        assert all(torch.equal(a, b) for a, b in zip(initial, copies, strict=True))

    def test_refuses_other_orders(self) -> None:
        train, _ = clusters()
        with pytest.raises(ValueError, match=r"orders must be \(3, 230\), got \(2, 230\)"):
            train_probe(
                train, initial_weights(12, 7, seeded()), epoch_orders(230, 2, seeded()), PROBE
            )

    def test_divergence_is_an_error_not_an_accuracy(self) -> None:
        train, test = clusters()
        broken = initial_weights(12, 7, seeded())
        broken.weight[0, 0] = math.nan
        with pytest.raises(TrainingDivergedError, match="linear probe"):
            train_probe(train, broken, epoch_orders(230, 3, seeded()), PROBE)
        with pytest.raises(TrainingDivergedError, match="linear probe"):
            probe_accuracies(broken, test)
