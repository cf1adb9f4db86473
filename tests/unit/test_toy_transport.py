"""The toy experiment: distances, and the set-ups nearest to the paper's numbers."""

import math
from pathlib import Path

import numpy as np
import pytest

from hamjepa_audit.params.claims import ToyTransport
from hamjepa_audit.params.theory import TheoryParams, load_theory
from hamjepa_audit.theory.transport import (
    Setup,
    compare_setups,
    directions,
    distances_by_direction,
    measure,
)
from tests.unit import tiny_theory

params, claim = tiny_theory.params, tiny_theory.claim


def test_distances_of_shifted_clouds_are_the_projected_shifts() -> None:
    cloud = np.random.default_rng(0).standard_normal((50, 2))
    angles = directions(8)
    found = distances_by_direction(cloud + np.array([3.0, 4.0]), cloud, angles)
    assert np.allclose(found, np.abs(3 * np.cos(angles) + 4 * np.sin(angles)))
    assert angles[0] == 0 and angles[-1] < math.pi


def test_the_nearest_setup_has_the_papers_four_numbers(
    params_folder: Path, claim: ToyTransport
) -> None:
    full = load_theory(params_folder)
    chosen = full.toy_transport
    nearest = Setup("harmonic and 0.3 sine", (2.0, 0.0), (0.5, 1.0))
    (row,) = measure([nearest], full, claim, chosen.refined_samples, print)
    assert row["worst_deviation"] <= chosen.tolerance
    paper = claim.w1_over_directions["leapfrog"]
    assert row["leapfrog_mean"] == pytest.approx(float(paper.mean), rel=chosen.tolerance)


def test_setups_that_diverge_come_last(params: TheoryParams, claim: ToyTransport) -> None:
    with np.errstate(all="ignore"):
        rows = compare_setups(params, claim, print)
    deviations = [row["worst_deviation"] for row in rows]
    assert len(rows) == 6 and math.isinf(deviations[-1])
    assert rows[-1]["potential"] == "quartic" and math.isnan(rows[-1]["euler_mean"])
    refined = params.toy_transport.refined
    assert deviations[:refined] == sorted(deviations[:refined])
    assert [row["samples"] for row in rows] == [512] * refined + [256] * (6 - refined)
    names = {(row["potential"], row["centre_q"]) for row in rows}
    assert len(names) == 6
