"""Cosine k-nearest-neighbour accuracy for several k at once (protocol, "Evaluation")."""

from collections.abc import Iterable

import torch
from torch import Tensor

from hamjepa_audit.errors import UserError
from hamjepa_audit.evaluation.accuracy import Accuracies, accuracies, label_ranks
from hamjepa_audit.evaluation.rows import Labelled, require_labelled, unit_rows
from hamjepa_audit.metrics import Measurement
from hamjepa_audit.params.arms import Readout
from hamjepa_audit.params.evaluation import TOP, KNNParams

SIMILARITY_BYTES = 1 << 27
"""Bytes of one block of similarities; its masks and copies take at most twice as much again."""


def knn_measurements(
    readout: Readout, train: Labelled, test: Labelled, classes: int, params: KNNParams
) -> list[Measurement]:
    """The kNN sweep as metric rows, in percent.

    `knn_top1@K` for every k; with at least five classes, `knn_top5@K` for k of at least
    `params.top5_from_k` (for smaller k, often fewer than five classes get votes); `knn_top1@best`,
    the largest top-1 over k on the test set, as the paper selects it.

    Args:
        readout: the part of the states that the features come from.
        train: N training rows.
        test: M test rows, same dtype and device.
        classes: number of classes; labels are below it.
        params: the sweep.

    Raises:
        UserError: as `knn_accuracies`.
    """
    sweep = knn_accuracies(train, test, params.neighbours, classes)
    values = {f"knn_top1@{k}": found.top1 for k, found in sweep.items()}
    if classes >= TOP:
        values |= {
            f"knn_top5@{k}": found.top5 for k, found in sweep.items() if k >= params.top5_from_k
        }
    values["knn_top1@best"] = max(found.top1 for found in sweep.values())
    return [Measurement(readout, name, 100 * value, "percent") for name, value in values.items()]


def knn_accuracies(
    train: Labelled,
    test: Labelled,
    neighbours: Iterable[int],
    classes: int,
    block_size: int | None = None,
) -> dict[int, Accuracies]:
    """Accuracies of the unweighted vote of the k most similar training rows, by ascending k.

    Arguments are as in `knn_measurements`. Similarity is the cosine, not centred, in the dtype of
    the features. Votes are integers; of equal counts, the smaller class index comes first, for
    top-1 and top-5 alike. Test rows are compared `block_size` at a time; by default as many as fit
    SIMILARITY_BYTES.

    Raises:
        UserError: a k is below 1 or above N, or features are not finite.
    """
    require_labelled(train, classes, "training")
    require_labelled(test, classes, "test")
    ks, known = sorted(set(neighbours)), len(train.labels)
    _require_neighbours(ks, known)
    rows = block_size or max(1, SIMILARITY_BYTES // (known * train.features.element_size()))
    train_units = unit_rows(train.features)
    ranks = []
    for features, labels in zip(*(column.split(rows) for column in test), strict=True):
        nearest = nearest_rows(unit_rows(features) @ train_units.T, ks[-1])
        ranks.append(_vote_ranks(train.labels[nearest], labels, ks, classes))
    return {k: accuracies(found) for k, found in zip(ks, torch.cat(ranks, dim=1), strict=True)}


def nearest_rows(similarities: Tensor, k: int) -> Tensor:
    """The k most similar training rows; of equal similarities, the smaller index comes first.

    Args:
        similarities: (B, N), no NaN.
        k: 1 to N.

    Returns:
        (B, k) int64, sorted by descending similarity.
    """
    values, indices = similarities.topk(k, dim=1)
    # If several rows tie for the k-th place, topk returns arbitrary ones of them, but the correct
    # value: where more than k rows reach it, the first of the tied ones are picked by counting.
    weakest = values[:, -1:]
    ambiguous = (similarities >= weakest).sum(dim=1) > k
    if bool(ambiguous.any()):
        indices[ambiguous] = _first_of_equals(similarities[ambiguous], weakest[ambiguous], k)
    indices = indices.sort(dim=1).values
    order = similarities.gather(1, indices).sort(dim=1, descending=True, stable=True).indices
    return indices.gather(1, order)


def _first_of_equals(similarities: Tensor, weakest: Tensor, k: int) -> Tensor:
    """Columns (B, k) above `weakest` (B, 1), filled up with the first that equal it."""
    above = similarities > weakest
    equal = similarities == weakest
    wanted = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= wanted))
    return chosen.nonzero()[:, 1].view(-1, k)


def _vote_ranks(votes: Tensor, labels: Tensor, ks: list[int], classes: int) -> Tensor:
    """Ranks (len(ks), B) of the true classes `labels` (B,) under sorted votes (B, max k)."""
    counts = votes.new_zeros(len(votes), classes)
    one = votes.new_ones(()).expand_as(votes)
    ranks = []
    for start, stop in zip([0, *ks], ks, strict=False):
        counts.scatter_add_(1, votes[:, start:stop], one[:, start:stop])
        ranks.append(label_ranks(counts, labels))
    return torch.stack(ranks)


def _require_neighbours(ks: list[int], rows: int) -> None:
    wrong = [k for k in ks if not 1 <= k <= rows]
    if wrong or not ks:
        raise UserError(
            f"knn.neighbours holds {wrong}, but there are {rows} training features: "
            f"every k must lie between 1 and {rows}; fix the study's knn.neighbours"
        )
