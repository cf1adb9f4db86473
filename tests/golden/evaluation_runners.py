"""Runners of the golden cases of kNN, linear probe and geometry."""

from collections.abc import Callable

import numpy as np

from hamjepa_audit.evaluation.geometry import (
    alignment,
    pair_cosines,
    row_norms,
    summary,
    uniformity,
)
from hamjepa_audit.evaluation.knn import knn_accuracies
from hamjepa_audit.evaluation.probe import ProbeWeights, probe_accuracies, train_probe
from hamjepa_audit.evaluation.rows import Labelled
from hamjepa_audit.evaluation.spectrum import (
    covariance_eigenvalues,
    effective_rank,
    participation_ratio,
)
from hamjepa_audit.params.evaluation import ProbeParams
from tests.golden.harness import Case


def _knn(case: Case) -> None:
    for block_size in (None, 7):
        found = knn_accuracies(
            _labelled(case, "train"),
            _labelled(case, "test"),
            case.scalars["ks"],
            case.scalars["num_classes"],
            block_size,
        )
        case.check("exp_k_values", np.array(list(found)))
        case.check("exp_top1", np.array([value.top1 for value in found.values()]))
        top5 = np.array([value.top5 for value in found.values()])
        assert (top5 >= case.arrays["aux_top5_min"] - 1e-12).all(), f"{case.name}: top5 {top5}"
        assert (top5 <= case.arrays["aux_top5_max"] + 1e-12).all(), f"{case.name}: top5 {top5}"


def _labelled(case: Case, side: str) -> Labelled:
    return Labelled(case.tensor(f"in_{side}"), case.tensor(f"in_{side}_labels"))


def _spectrum(case: Case) -> None:
    features = case.tensor("in_feats")
    sample = features[case.tensor("aux_idx")] if "aux_idx" in case.arrays else features
    eigenvalues = covariance_eigenvalues(sample, case.scalars["q"])
    case.check("exp_eigs_top", eigenvalues)
    case.check("exp_eff_rank", effective_rank(eigenvalues))
    case.check("exp_participation_ratio", participation_ratio(eigenvalues))


def _cosines(case: Case) -> None:
    pairs = case.tensor("aux_i1"), case.tensor("aux_i2")
    cosines = pair_cosines(case.tensor("in_feats"), *pairs)
    case.check("exp_values", cosines)
    case.check("exp_summary", np.array(list(summary(cosines).values())))


def _norms(case: Case) -> None:
    norms = row_norms(case.tensor("in_feats"))
    case.check("exp_values", norms)
    case.check("exp_summary", np.array(list(summary(norms).values())))


def _alignment_uniformity(case: Case) -> None:
    first_view, second_view = case.tensor("in_z1"), case.tensor("in_z2")
    case.check("exp_alignment", alignment(first_view, second_view))
    pairs = case.tensor("aux_i1"), case.tensor("aux_i2")
    case.check("exp_uniformity", uniformity(first_view, *pairs))


def _probe(case: Case) -> None:
    scalars = case.scalars
    params = ProbeParams(
        epochs=scalars["epochs"],
        batch_size=scalars["batch_size"],
        learning_rate=scalars["lr"],
        weight_decay=scalars["weight_decay"],
        betas=(0.9, 0.999),  # PyTorch's defaults
        seed=0,
    )
    names = ("ln_gamma", "ln_beta", "W", "b")
    fit = train_probe(
        _labelled(case, "train"),
        ProbeWeights(*(case.tensor(f"param_{name}") for name in names)),
        case.tensor("aux_order"),
        params,
    )
    case.check("exp_step_losses", fit.step_losses)
    for name, tensor in zip(names, fit.weights, strict=True):
        case.check(f"exp_final_{name}", tensor)
    found = probe_accuracies(fit.weights, _labelled(case, "test"))
    case.check("exp_top1", found.top1)
    case.check("exp_top5", found.top5)


RUNNERS: dict[str, Callable[[Case], None]] = {
    "CosineKNNSweep": _knn,
    "CovarianceSpectrum": _spectrum,
    "CosineSimilarityHistogram": _cosines,
    "FeatureNormSummary": _norms,
    "AlignmentUniformity": _alignment_uniformity,
    "LinearProbe": _probe,
}
