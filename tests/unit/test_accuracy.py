"""Accuracies computed from the ranks of labels."""

from pathlib import Path

import pytest
import torch

from hamjepa_audit.evaluation.accuracy import accuracies, label_ranks
from hamjepa_audit.evaluation.knn import knn_measurements
from hamjepa_audit.evaluation.probe import probe_measurements
from hamjepa_audit.params import load_study
from tests.unit.features import clusters, seeded


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


@pytest.mark.parametrize("classes", [4, 5])
def test_the_parameters_know_which_accuracies_are_measured(
    params_folder: Path, classes: int
) -> None:
    params, data = load_study(params_folder, "digits").evaluation, clusters(classes=classes)
    rows = knn_measurements("q", *data, classes, params.knn)
    rows += probe_measurements("q", *data, classes, params.probe)
    assert sorted(row.metric for row in rows) == sorted(params.accuracies(classes))
