"""kNN, linear probe and geometry against independent implementations and invariances."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.extmath import randomized_svd
from torch import Generator, Tensor, nn

from hamjepa_audit.errors import TrainingDivergedError, UserError
from hamjepa_audit.evaluation.accuracy import Accuracies, accuracies, label_ranks
from hamjepa_audit.evaluation.geometry import (
    alignment,
    geometry_curves,
    geometry_measurements,
    measure_geometry,
    pair_cosines,
    random_pairs,
    row_norms,
    sampled_rows,
    summary,
    uniformity,
)
from hamjepa_audit.evaluation.knn import knn_accuracies, knn_measurements, nearest_rows
from hamjepa_audit.evaluation.probe import (
    ProbeWeights,
    epoch_orders,
    initial_weights,
    probe_accuracies,
    probe_measurements,
    train_probe,
)
from hamjepa_audit.evaluation.readouts import readout
from hamjepa_audit.evaluation.rows import unit_rows
from hamjepa_audit.evaluation.spectrum import (
    covariance_eigenvalues,
    effective_rank,
    lowrank_eigenvalues,
    participation_ratio,
)
from hamjepa_audit.params.studies import GeometryParams, KNNParams, ProbeParams

GOLDEN = Path(__file__).parents[1] / "golden" / "cases"
KS = (50, 1, 10, 5, 5)
PROBE = ProbeParams(epochs=3, batch_size=32, learning_rate=0.01, weight_decay=0.1, seed=0)
GEOMETRY = GeometryParams(
    spectrum_samples=150, eigenvalues=12, power_iterations=2, pairs=5000, quantiles=8, seed=0
)
Labelled = tuple[Tensor, Tensor, Tensor, Tensor]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def clusters(
    rows: int = 230, tests: int = 90, width: int = 12, classes: int = 7, spread: float = 1.0
) -> Labelled:
    """Overlapping Gaussian clusters off the origin, float64: train, labels, test, labels."""
    generator = seeded(7)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64) + 1.0
    labels = torch.randint(classes, (rows + tests,), generator=generator)
    noise = torch.randn(rows + tests, width, generator=generator, dtype=torch.float64)
    features = centres[labels] + spread * noise
    return features[:rows], labels[:rows], features[rows:], labels[rows:]


def rotation(width: int) -> Tensor:
    return torch.from_numpy(ortho_group.rvs(width, random_state=3))


def voted(neighbour_labels: np.ndarray, label: int, classes: int) -> tuple[bool, bool]:
    """The vote of one test row, in words: the most votes first, equal ones by class index."""
    counts = [int((neighbour_labels == c).sum()) for c in range(classes)]
    ranking = sorted(range(classes), key=lambda c: (-counts[c], c))
    return ranking[0] == label, label in ranking[:5]


def expected_knn(
    neighbours: np.ndarray, train_labels: Tensor, test_labels: Tensor, classes: int
) -> dict[int, Accuracies]:
    """Accuracies from sorted neighbour indices (M, k)."""
    labels = train_labels.numpy()[neighbours]
    found = {}
    for k in sorted(set(KS)):
        hits = [
            voted(row[:k], int(label), classes)
            for row, label in zip(labels, test_labels, strict=True)
        ]
        found[k] = Accuracies(*(sum(hit) / len(hits) for hit in zip(*hits, strict=True)))
    return found


class TestReadouts:
    def test_halves_of_the_state(self) -> None:
        states = torch.arange(12.0).view(2, 6)
        assert readout(states, "q").tolist() == [[0, 1, 2], [6, 7, 8]]
        assert readout(states, "p").tolist() == [[3, 4, 5], [9, 10, 11]]
        assert torch.equal(readout(states, "qp"), states)
        assert torch.equal(readout(states, "all"), states)

    def test_refuses_an_odd_width(self) -> None:
        with pytest.raises(ValueError, match="even width, got 5"):
            readout(torch.zeros(2, 5), "q")


class TestRanks:
    def test_ties_go_to_the_smaller_class(self) -> None:
        scores = torch.tensor([[2, 3, 3, 1]] * 4)
        assert label_ranks(scores, torch.arange(4)).tolist() == [2, 0, 1, 3]

    def test_against_sorting(self) -> None:
        scores = torch.randint(4, (200, 9), generator=seeded())
        labels = torch.randint(9, (200,), generator=seeded(1))
        expected = [
            sorted(range(9), key=lambda c, row=row: (-row[c], c)).index(label)
            for row, label in zip(scores.tolist(), labels.tolist(), strict=True)
        ]
        assert label_ranks(scores, labels).tolist() == expected

    def test_accuracies(self) -> None:
        assert accuracies(torch.tensor([0, 4, 5, 0])) == (0.5, 0.75)


class TestKNN:
    @pytest.mark.parametrize("block_size", [None, 1, 13, 1000])
    def test_against_scikit_learn(self, block_size: int | None) -> None:
        train, labels, test, test_labels = clusters(spread=2.0)
        search = NearestNeighbors(n_neighbors=max(KS), metric="cosine", algorithm="brute")
        neighbours = search.fit(train.numpy()).kneighbors(test.numpy(), return_distance=False)
        found = knn_accuracies(train, labels, test, test_labels, KS, 7, block_size)
        assert found == expected_knn(neighbours, labels, test_labels, 7)
        assert list(found) == [1, 5, 10, 50]
        assert 0.1 < found[1].top1 < 0.9  # neither trivial nor impossible

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("zeros", [0, 40])
    def test_equal_similarities_go_to_the_smaller_index(
        self, dtype: torch.dtype, zeros: int
    ) -> None:
        # Signed axes have the similarities -1, 0 and 1 exactly, so nearly everything ties.
        axes = torch.cat([torch.eye(4), -torch.eye(4)]).to(dtype)
        train = axes[torch.randint(8, (120,), generator=seeded())]
        train[:zeros] = 0
        test = 3 * axes[torch.randint(8, (60,), generator=seeded(1))]
        test[:5] = 0
        labels = torch.randint(6, (120,), generator=seeded(2))
        test_labels = torch.randint(6, (60,), generator=seeded(3))
        similarities = (test / 3 @ train.T).numpy()
        neighbours = np.argsort(-similarities, axis=1, kind="stable")[:, : max(KS)]
        found = knn_accuracies(train, labels, test, test_labels, KS, 6, 7)
        assert found == expected_knn(neighbours, labels, test_labels, 6)

    def test_nearest_rows_are_a_stable_sort(self) -> None:
        similarities = torch.randint(5, (40, 60), generator=seeded()) / 4
        similarities[:20] += torch.rand(20, 60, generator=seeded(1))
        for k in (1, 7, 59, 60):
            expected = np.argsort(-similarities.numpy(), axis=1, kind="stable")[:, :k]
            assert np.array_equal(nearest_rows(similarities, k).numpy(), expected)

    def test_invariances(self) -> None:
        train, labels, test, test_labels = clusters(spread=2.0)
        found = knn_accuracies(train, labels, test, test_labels, KS, 7)
        turn = rotation(12)
        assert knn_accuracies(train @ turn, labels, test @ turn, test_labels, KS, 7) == found
        lengths = torch.rand(230, 1, generator=seeded(), dtype=torch.float64) + 0.1
        assert knn_accuracies(lengths * train, labels, 9 * test, test_labels, KS, 7) == found
        order = torch.randperm(230, generator=seeded(1))
        assert knn_accuracies(train[order], labels[order], test, test_labels, KS, 7) == found

    def test_mean_is_not_removed(self) -> None:
        train, labels, test, test_labels = clusters(spread=2.0)
        mean = train.mean(dim=0)
        found = knn_accuracies(train, labels, test, test_labels, KS, 7)
        assert knn_accuracies(train - mean, labels, test - mean, test_labels, KS, 7) != found

    def test_large_float32_features_keep_their_direction(self) -> None:
        train, labels, test, test_labels = (x.float() if x.is_floating_point() else x
                                            for x in clusters())  # fmt: skip
        found = knn_accuracies(train, labels, test, test_labels, KS, 7)
        huge = 2.0**80
        assert knn_accuracies(huge * train, labels, huge * test, test_labels, KS, 7) == found

    @pytest.mark.parametrize("k", [0, 231])
    def test_refuses_impossible_k(self, k: int) -> None:
        with pytest.raises(UserError, match=rf"\[{k}\].*between 1 and 230"):
            knn_accuracies(*clusters(), (1, k), 7)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", [0, 2])
    def test_refuses_features_that_are_not_finite(self, value: float, which: int) -> None:
        inputs = clusters()
        inputs[which][3, 2] = value
        with pytest.raises(UserError, match="not all finite"):
            knn_accuracies(*inputs, KS, 7)

    def test_refuses_labels_outside_the_classes(self) -> None:
        with pytest.raises(ValueError, match=r"labels span \[0, 6\], expected \[0, 5\]"):
            knn_accuracies(*clusters(), KS, 6)

    def test_measurements(self) -> None:
        inputs = clusters(spread=2.0)
        params = KNNParams(neighbours=KS, top5_from_k=10)
        rows = knn_measurements("q", *inputs, 7, params)
        found = knn_accuracies(*inputs, KS, 7)
        values = {row.metric: row.value for row in rows}
        assert {row.readout for row in rows} == {"q"}
        assert {row.unit for row in rows} == {"percent"}
        assert len(values) == len(rows)
        assert values == {
            **{f"knn_top1@{k}": 100 * found[k].top1 for k in (1, 5, 10, 50)},
            **{f"knn_top5@{k}": 100 * found[k].top5 for k in (10, 50)},
            "knn_top1@best": 100 * max(a.top1 for a in found.values()),
        }

    def test_no_top5_with_fewer_than_five_classes(self) -> None:
        params = KNNParams(neighbours=(1, 50), top5_from_k=1)
        rows = knn_measurements("all", *clusters(classes=4), 4, params)
        assert [row.metric for row in rows] == ["knn_top1@1", "knn_top1@50", "knn_top1@best"]


def plain_probe(
    features: Tensor, labels: Tensor, initial: ProbeWeights, orders: Tensor, params: ProbeParams
) -> tuple[nn.Sequential, list[float]]:
    """The probe as one would write it with modules, optimiser and scheduler."""
    model = nn.Sequential(nn.LayerNorm(features.shape[1]), nn.Linear(*initial.weight.T.shape))
    model = model.to(features.dtype)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), initial, strict=True):
            parameter.copy_(value)
    optimiser = torch.optim.AdamW(
        model.parameters(), params.learning_rate, weight_decay=params.weight_decay, foreach=False
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
        train, labels, test, test_labels = clusters(spread=2.0)
        train, test = train.to(dtype), test.to(dtype)
        initial = ProbeWeights(*(x.to(dtype) for x in initial_weights(12, 7, seeded())))
        orders = epoch_orders(230, 3, seeded(1))
        fit = train_probe(train, labels, initial, orders, PROBE)
        model, losses = plain_probe(train, labels, initial, orders, PROBE)
        assert fit.step_losses.tolist() == pytest.approx(losses, rel=tolerance)
        for ours, theirs in zip(fit.weights, model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance)
        hits = (model(test).argmax(dim=1) == test_labels).double().mean().item()
        assert probe_accuracies(fit.weights, test, test_labels).top1 == pytest.approx(hits)

    def test_reaches_logistic_regression(self) -> None:
        train, labels, test, test_labels = clusters(600, 400, width=20, spread=1.5)
        # On standardised rows: LayerNorm takes two of the twenty dimensions away from both.
        seen, unseen = (
            (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
            for x in (train.numpy(), test.numpy())
        )
        classifier = LogisticRegression(max_iter=1000).fit(seen, labels.numpy())
        reached = 100 * classifier.score(unseen, test_labels.numpy())
        params = PROBE.model_copy(update={"epochs": 40, "weight_decay": 1e-6})
        rows = probe_measurements("q", train, labels, test, test_labels, 7, params)
        assert rows[0].metric == "linear_probe_top1"
        assert rows[0].value >= reached - 2
        assert 50 < reached < 99.5

    def test_learns_nothing_from_shuffled_labels(self) -> None:
        train, labels, test, test_labels = clusters(600, 400, spread=0.1)
        shuffled = labels[torch.randperm(600, generator=seeded())]
        rows = probe_measurements("q", train, shuffled, test, test_labels, 7, PROBE)
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
        train, labels, _, _ = clusters()
        initial = initial_weights(12, 7, seeded())
        copies = [tensor.clone() for tensor in initial]
        train_probe(train, labels, initial, epoch_orders(230, 3, seeded()), PROBE)
        assert all(torch.equal(a, b) for a, b in zip(initial, copies, strict=True))

    def test_refuses_other_orders(self) -> None:
        train, labels, _, _ = clusters()
        with pytest.raises(ValueError, match=r"orders must be \(3, 230\), got \(2, 230\)"):
            train_probe(
                train, labels, initial_weights(12, 7, seeded()), epoch_orders(230, 2, seeded()),
                PROBE,
            )  # fmt: skip

    def test_divergence_is_an_error_not_an_accuracy(self) -> None:
        train, labels, test, test_labels = clusters()
        broken = initial_weights(12, 7, seeded())
        broken.weight[0, 0] = math.nan
        with pytest.raises(TrainingDivergedError, match="linear probe"):
            train_probe(train, labels, broken, epoch_orders(230, 3, seeded()), PROBE)
        with pytest.raises(TrainingDivergedError, match="linear probe"):
            probe_accuracies(broken, test, test_labels)


def decaying(rows: int, width: int, seed: int = 5) -> Tensor:
    """Features (rows, width) float64 with a falling spectrum and a mean."""
    noise = torch.randn(rows, width, generator=seeded(seed), dtype=torch.float64)
    return noise * (1 + torch.arange(width)) ** -0.5 @ rotation(width) + 3


class TestSpectrum:
    @pytest.mark.parametrize(("rows", "width"), [(200, 30), (30, 200), (40, 40)])
    def test_against_numpy(self, rows: int, width: int) -> None:
        features = decaying(rows, width)
        expected = np.linalg.eigvalsh(np.cov(features.numpy().T))[::-1][:20]
        found = covariance_eigenvalues(features, 20)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
        shares = expected / expected.sum()
        assert effective_rank(found) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
        assert participation_ratio(found) == pytest.approx(1 / (shares**2).sum())

    def test_limits_of_the_number_of_eigenvalues(self) -> None:
        assert len(covariance_eigenvalues(decaying(10, 40), 256)) == 9
        assert len(covariance_eigenvalues(decaying(40, 10), 256)) == 10
        assert covariance_eigenvalues(decaying(1, 10), 256).tolist() == [1e-12]

    def test_rotation_and_translation_change_nothing(self) -> None:
        features = decaying(100, 20)
        found = covariance_eigenvalues(features, 20)
        moved = covariance_eigenvalues(features @ rotation(20) - 8, 20)
        torch.testing.assert_close(moved, found, rtol=1e-9, atol=0)
        torch.testing.assert_close(covariance_eigenvalues(2 * features, 20), 4 * found)

    def test_known_ranks(self) -> None:
        assert effective_rank(torch.full((7,), 0.3)) == pytest.approx(7)
        assert participation_ratio(torch.full((7,), 0.3)) == pytest.approx(7)
        assert participation_ratio(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(16 / 6)
        assert effective_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)

    @pytest.mark.parametrize(("rows", "width"), [(300, 64), (64, 64)])
    @pytest.mark.parametrize("power_iterations", [0, 2])
    def test_lowrank_against_pytorch(self, rows: int, width: int, power_iterations: int) -> None:
        features = decaying(rows, width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            centred = features - features.mean(dim=0)
            _, singular, _ = torch.svd_lowrank(centred, q=16, niter=power_iterations)
        found = lowrank_eigenvalues(features, 16, power_iterations, seeded(11))
        torch.testing.assert_close(found, singular.square() / (rows - 1), rtol=1e-9, atol=0)

    def test_lowrank_against_scikit_learn(self) -> None:
        features = decaying(300, 64)
        centred = (features - features.mean(dim=0)).numpy()
        theirs = np.mean([
            randomized_svd(centred, 16, n_oversamples=0, n_iter=2, random_state=seed,
                           power_iteration_normalizer="QR", transpose=False)[1] ** 2 / 299
            for seed in range(40)
        ], axis=0)  # fmt: skip
        ours = np.mean(
            [lowrank_eigenvalues(features, 16, 2, seeded(i)).numpy() for i in range(40)], axis=0
        )
        exact = covariance_eigenvalues(features, 16).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0.02)
        assert (ours <= exact).all()
        assert ours[-1] < 0.97 * exact[-1]  # the bias that the exact spectrum is free of

    def test_lowrank_of_everything_is_exact(self) -> None:
        features = decaying(100, 20)
        found = lowrank_eigenvalues(features, 20, 2, seeded())
        torch.testing.assert_close(found, covariance_eigenvalues(features, 20))

    @pytest.mark.golden
    @pytest.mark.parametrize("name", ["cov_full", "cov_truncated_topq", "cov_rank1"])
    def test_lowrank_against_the_golden_randomised_spectrum(self, name: str) -> None:
        case = np.load(GOLDEN / f"{name}.npz")
        count = len(case["aux_reference_eigs_top"])
        features = torch.from_numpy(case["in_feats"])
        found = lowrank_eigenvalues(features, count, 2, seeded(1234))
        np.testing.assert_allclose(found, case["aux_reference_eigs_top"], rtol=1e-9)
        rank = float(case["aux_reference_eff_rank"])
        assert effective_rank(found) == pytest.approx(rank, rel=1e-9)


class TestGeometry:
    @pytest.mark.golden
    def test_draws_are_those_of_the_golden_cases(self) -> None:
        case = np.load(GOLDEN / "cosine_pairs.npz")
        first, second = random_pairs(len(case["in_feats"]), len(case["aux_i1"]), seeded(0))
        assert np.array_equal(first, case["aux_i1"])
        assert np.array_equal(second, case["aux_i2"])
        case = np.load(GOLDEN / "cov_subsampled.npz")
        assert np.array_equal(sampled_rows(120, 50, seeded(0)), case["aux_idx"])

    def test_sampled_rows_are_distinct(self) -> None:
        rows = sampled_rows(100, 60, seeded())
        assert len(set(rows.tolist())) == 60
        assert sampled_rows(100, 100, seeded()).tolist() == list(range(100))

    def test_pairs_against_numpy(self) -> None:
        first_view = decaying(70, 9)
        second_view = first_view + torch.randn(70, 9, generator=seeded(), dtype=torch.float64)
        first_view[4] = 0
        pairs = random_pairs(70, 5000, seeded())  # more than one block
        u, v = (
            x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
            for x in (first_view.numpy(), second_view.numpy())
        )
        i, j = (index.numpy() for index in pairs)
        cosines = pair_cosines(first_view, *pairs)
        np.testing.assert_allclose(cosines, (u @ u.T)[i, j], atol=1e-12)
        distances = ((u[i] - u[j]) ** 2).sum(axis=1)
        expected = np.log(np.exp(-2 * distances).mean())
        assert uniformity(first_view, *pairs) == pytest.approx(expected)
        expected = ((u - v) ** 2).sum(axis=1).mean()
        assert alignment(first_view, second_view) == pytest.approx(expected)
        turn = rotation(9)
        torch.testing.assert_close(pair_cosines(first_view @ turn, *pairs), cosines)
        assert alignment(first_view @ turn, second_view @ turn) == pytest.approx(expected)

    def test_alignment_and_uniformity_at_their_limits(self) -> None:
        view = decaying(50, 6)
        assert alignment(view, 5 * view) == pytest.approx(0, abs=1e-15)
        assert alignment(view, -view) == pytest.approx(4)
        pairs = random_pairs(50, 100, seeded())
        assert uniformity(view[:1].expand(50, 6), *pairs) == 0
        with pytest.raises(ValueError, match="one shape"):
            alignment(view, view[1:])

    def test_norms_and_summary_against_numpy(self) -> None:
        features = decaying(70, 9)
        norms = row_norms(features)
        np.testing.assert_allclose(norms, np.linalg.norm(features, axis=1))
        found = summary(norms)
        x = norms.numpy()
        expected = [x.mean(), x.std(ddof=0), *np.quantile(x, [0.1, 0.5, 0.9]), x.min(), x.max()]
        assert list(found) == ["mean", "std", "q10", "q50", "q90", "min", "max"]
        assert list(found.values()) == pytest.approx(expected)
        assert row_norms(torch.full((1, 4), 1e30)).tolist() == pytest.approx([2e30])

    def test_unit_rows_keep_zero_rows(self) -> None:
        rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e30, 4e30]]))
        torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]]))

    def test_measured_twice_is_the_same_and_leaves_global_randomness_alone(self) -> None:
        train, test = decaying(400, 20).float(), decaying(90, 20).float()
        before = torch.get_rng_state()
        once = measure_geometry(train, test, test, test + 0.1, GEOMETRY)
        assert torch.equal(torch.get_rng_state(), before)
        again = measure_geometry(train, test, test, test + 0.1, GEOMETRY)
        assert geometry_measurements("q", once) == geometry_measurements("q", again)
        assert [x.shape for x in once[:4]] == [(12,), (12,), (5000,), (90,)]
        assert all(x.dtype == torch.float64 for x in once[:4])
        moved = measure_geometry(train, test, test, test, GEOMETRY.model_copy(update={"seed": 1}))
        assert not torch.equal(moved.eigenvalues, once.eigenvalues)
        assert not torch.equal(moved.cosines, once.cosines)

    def test_what_is_measured_on_what(self) -> None:
        train, test, first, second = (decaying(60, 5, seed) for seed in range(4))
        found = measure_geometry(train, test, first, second, GEOMETRY)
        torch.testing.assert_close(found.eigenvalues, covariance_eigenvalues(train, 12))
        torch.testing.assert_close(found.eigenvalues_lowrank, found.eigenvalues)  # 5 of 5
        torch.testing.assert_close(found.norms, row_norms(test))
        assert found.alignment == alignment(first, second)
        # Few rows, many pairs: a distribution is known by its extremes, self pairs apart.
        units = unit_rows(test)
        assert float(found.cosines.min()) == pytest.approx(float((units @ units.T).min()))
        potentials = (-2 * torch.cdist(unit_rows(first), unit_rows(first)).square()).exp()
        assert found.uniformity == pytest.approx(math.log(potentials.mean()), abs=0.05)

    def test_uniformity_has_twice_as_many_pairs_as_rows(self, monkeypatch) -> None:
        drawn = []

        def recorded(rows: int, pairs: int, generator: Generator) -> tuple[Tensor, Tensor]:
            drawn.append((rows, pairs))
            return random_pairs(rows, pairs, generator)

        monkeypatch.setattr("hamjepa_audit.evaluation.geometry.random_pairs", recorded)
        x = decaying(60, 5)
        measure_geometry(x, x[:50], x, x, GEOMETRY)
        assert drawn == [(50, 5000), (60, 120)]

    def test_measurements_and_curves(self) -> None:
        train, test = decaying(400, 20), decaying(90, 20)
        found = measure_geometry(train, test, test, test + 0.1, GEOMETRY)
        rows = geometry_measurements("p", found)
        assert {(row.readout, row.unit) for row in rows} == {("p", "dimensionless")}
        values = {row.metric: row.value for row in rows}
        statistics = ("mean", "std", "q10", "q50", "q90", "min", "max")
        assert sorted(values) == sorted(
            ["effective_rank", "effective_rank_lowrank", "participation_ratio",
             "participation_ratio_lowrank", "alignment", "uniformity"]
            + [f"{kind}_{name}" for kind in ("cosine", "feature_norm") for name in statistics]
        )  # fmt: skip
        assert values["effective_rank"] == effective_rank(found.eigenvalues)
        assert values["effective_rank_lowrank"] == effective_rank(found.eigenvalues_lowrank)
        assert values["effective_rank_lowrank"] != values["effective_rank"]
        assert values["cosine_mean"] == pytest.approx(float(found.cosines.mean()))
        assert values["feature_norm_max"] == float(found.norms.max())

        points = geometry_curves("p", found, 8)
        curve = {
            name: [(p.position, p.value) for p in points if p.curve == name]
            for name in ("eigenvalue", "cosine_quantile", "norm_quantile")
        }
        assert sum(map(len, curve.values())) == len(points)
        assert curve["eigenvalue"] == list(enumerate(found.eigenvalues.tolist(), start=1))
        for name, sample in (("cosine_quantile", found.cosines), ("norm_quantile", found.norms)):
            positions, heights = zip(*curve[name], strict=True)
            assert positions == tuple((i + 0.5) / 8 for i in range(8))
            assert heights == pytest.approx(np.quantile(sample.numpy(), positions))

    @pytest.mark.parametrize("which", range(4))
    def test_refuses_features_that_are_not_finite(self, which: int) -> None:
        inputs = [decaying(60, 5) for _ in range(4)]
        inputs[which][0, 0] = math.nan
        with pytest.raises(UserError, match="not all finite"):
            measure_geometry(*inputs, GEOMETRY)
