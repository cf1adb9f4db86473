"""Spectra and ranks compared with NumPy, PyTorch and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.utils.extmath import randomized_svd

from hamjepa_audit.evaluation.spectrum import (
    covariance_eigenvalues,
    effective_rank,
    lowrank_eigenvalues,
    participation_ratio,
)
from tests.conftest import GOLDEN_CASES as GOLDEN
from tests.unit.features import decaying, rotation, seeded


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
        assert ours[-1] < 0.97 * exact[-1]  # its bias, which the exact spectrum doesn't have

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
