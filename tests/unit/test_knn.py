"""kNN compared with scikit-learn, and its invariances."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation.accuracy import Accuracies
from hamjepa_audit.evaluation.knn import knn_accuracies, knn_measurements, nearest_rows
from hamjepa_audit.evaluation.rows import Labelled
from hamjepa_audit.params.evaluation import KNNParams
from tests.unit.features import clusters, rotation, seeded

KS = (50, 1, 10, 5, 5)


def voted(neighbour_labels: np.ndarray, label: int, classes: int) -> tuple[bool, bool]:
    """Top-1 and top-5 hits of one test row: classes by votes, ties by class index."""
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


class TestKNN:
    @pytest.mark.parametrize("block_size", [None, 1, 13, 1000])
    def test_against_scikit_learn(self, block_size: int | None) -> None:
        train, test = clusters(spread=2.0)
        search = NearestNeighbors(n_neighbors=max(KS), metric="cosine", algorithm="brute")
        neighbours = search.fit(train.features.numpy()).kneighbors(
            test.features.numpy(), return_distance=False
        )
        found = knn_accuracies(train, test, KS, 7, block_size)
        assert found == expected_knn(neighbours, train.labels, test.labels, 7)
        assert list(found) == [1, 5, 10, 50]
        assert 0.1 < found[1].top1 < 0.9  # neither trivial nor impossible

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("zeros", [0, 40])
    def test_equal_similarities_go_to_the_smaller_index(
        self, dtype: torch.dtype, zeros: int
    ) -> None:
        # Similarities of signed axes are exactly -1, 0 and 1, so nearly everything is tied.
        axes = torch.cat([torch.eye(4), -torch.eye(4)]).to(dtype)
        train = axes[torch.randint(8, (120,), generator=seeded())]
        train[:zeros] = 0
        test = 3 * axes[torch.randint(8, (60,), generator=seeded(1))]
        test[:5] = 0
        labels = torch.randint(6, (120,), generator=seeded(2))
        test_labels = torch.randint(6, (60,), generator=seeded(3))
        similarities = (test / 3 @ train.T).numpy()
        neighbours = np.argsort(-similarities, axis=1, kind="stable")[:, : max(KS)]
        found = knn_accuracies(
            Labelled(train, labels), Labelled(test, test_labels), KS, 6, block_size=7
        )
        assert found == expected_knn(neighbours, labels, test_labels, 6)

    def test_nearest_rows_are_a_stable_sort(self) -> None:
        similarities = torch.randint(5, (40, 60), generator=seeded()) / 4
        similarities[:20] += torch.rand(20, 60, generator=seeded(1))
        for k in (1, 7, 59, 60):
            expected = np.argsort(-similarities.numpy(), axis=1, kind="stable")[:, :k]
            assert np.array_equal(nearest_rows(similarities, k).numpy(), expected)

    def test_invariances(self) -> None:
        train, test = clusters(spread=2.0)
        found = knn_accuracies(train, test, KS, 7)
        turn = rotation(12)
        turned = [Labelled(side.features @ turn, side.labels) for side in (train, test)]
        assert knn_accuracies(*turned, KS, 7) == found
        lengths = torch.rand(230, 1, generator=seeded(), dtype=torch.float64) + 0.1
        longer = Labelled(lengths * train.features, train.labels)
        assert knn_accuracies(longer, Labelled(9 * test.features, test.labels), KS, 7) == found
        order = torch.randperm(230, generator=seeded(1))
        reordered = Labelled(train.features[order], train.labels[order])
        assert knn_accuracies(reordered, test, KS, 7) == found

    def test_mean_is_not_removed(self) -> None:
        sides = clusters(spread=2.0)
        mean = sides[0].features.mean(dim=0)
        centred = [Labelled(side.features - mean, side.labels) for side in sides]
        assert knn_accuracies(*centred, KS, 7) != knn_accuracies(*sides, KS, 7)

    def test_large_float32_features_keep_their_direction(self) -> None:
        single = [Labelled(side.features.float(), side.labels) for side in clusters()]
        huge = [Labelled(2.0**80 * side.features, side.labels) for side in single]
        assert knn_accuracies(*huge, KS, 7) == knn_accuracies(*single, KS, 7)

    def test_all_training_rows_may_vote(self) -> None:
        train, test = clusters()
        most = int(train.labels.bincount(minlength=7).argmax())
        asked = Labelled(test.features, torch.full_like(test.labels, most))
        assert knn_accuracies(train, asked, [230], 7)[230].top1 == 1.0

    @pytest.mark.parametrize("k", [0, 231])
    def test_refuses_impossible_k(self, k: int) -> None:
        with pytest.raises(UserError, match=rf"\[{k}\].*between 1 and 230"):
            knn_accuracies(*clusters(), (1, k), 7)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", [0, 1])
    def test_refuses_features_that_are_not_finite(self, value: float, which: int) -> None:
        inputs = clusters()
        inputs[which].features[3, 2] = value
        with pytest.raises(UserError, match="not all finite"):
            knn_accuracies(*inputs, KS, 7)

    def test_refuses_labels_outside_the_classes(self) -> None:
        with pytest.raises(ValueError, match=r"labels span \[0, 6\], expected \[0, 5\]"):
            knn_accuracies(*clusters(), KS, 6)

    def test_refuses_negative_labels(self) -> None:
        train, test = clusters()
        test.labels[3] = -1
        with pytest.raises(ValueError, match=r"test labels span \[-1, 6\], expected \[0, 6\]"):
            knn_accuracies(train, test, KS, 7)

    def test_measurements(self) -> None:
        inputs = clusters(spread=2.0)
        params = KNNParams(neighbours=(50, 1, 10, 5), top5_from_k=10)
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

    def test_five_classes_have_a_top5(self) -> None:
        params = KNNParams(neighbours=(50,), top5_from_k=1)
        rows = knn_measurements("all", *clusters(classes=5), 5, params)
        values = {row.metric: row.value for row in rows}
        assert values["knn_top5@50"] == 100.0

    def test_no_top5_with_fewer_than_five_classes(self) -> None:
        params = KNNParams(neighbours=(1, 50), top5_from_k=1)
        rows = knn_measurements("all", *clusters(classes=4), 4, params)
        assert [row.metric for row in rows] == ["knn_top1@1", "knn_top1@50", "knn_top1@best"]
