"""Cosines, norms, alignment and uniformity compared with NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from hamjepa_audit.errors import UserError
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
from hamjepa_audit.evaluation.rows import unit_rows
from hamjepa_audit.evaluation.spectrum import (
    covariance_eigenvalues,
    effective_rank,
    lowrank_eigenvalues,
)
from hamjepa_audit.params.evaluation import GeometryParams
from hamjepa_audit.randomness import Stream, generator
from tests.conftest import GOLDEN_CASES as GOLDEN
from tests.unit.features import decaying, rotation, seeded

GEOMETRY = GeometryParams(
    spectrum_samples=150, eigenvalues=12, power_iterations=2, pairs=5000, quantiles=8, seed=0
)


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
        small = unit_rows(torch.tensor([[3e-10, 4e-10]]))
        torch.testing.assert_close(small, torch.tensor([[0.6, 0.8]]))

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
        # With few rows and many pairs, the smallest cosine of all pairs is drawn.
        units = unit_rows(test)
        assert float(found.cosines.min()) == pytest.approx(float((units @ units.T).min()))
        potentials = (-2 * torch.cdist(unit_rows(first), unit_rows(first)).square()).exp()
        assert found.uniformity == pytest.approx(math.log(potentials.mean()), abs=0.05)

    @pytest.mark.parametrize("seed", [0, 3])
    def test_every_draw_has_a_stream_of_its_own(self, seed: int) -> None:
        train, test, first, second = (decaying(200, 20, seed) for seed in range(4))
        params = GEOMETRY.model_copy(update={"seed": seed})
        found = measure_geometry(train, test, first, second, params)
        rows, matrix, cosines, uniform = (generator(Stream.GEOMETRY, seed, i) for i in range(4))
        sample = train[sampled_rows(200, 150, rows)]
        assert torch.equal(found.eigenvalues, covariance_eigenvalues(sample, 12))
        assert torch.equal(found.eigenvalues_lowrank, lowrank_eigenvalues(sample, 12, 2, matrix))
        assert torch.equal(found.cosines, pair_cosines(test, *random_pairs(200, 5000, cosines)))
        assert found.uniformity == uniformity(first, *random_pairs(200, 400, uniform))

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
