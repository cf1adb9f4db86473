"""Gradients of the projected spectrum: finite differences, and autograd of the plain formula."""

import pytest
import torch
from torch import Tensor

from hamjepa_audit.objectives.floors import orthonormal_directions
from hamjepa_audit.objectives.projected_spectrum import projected_spectrum
from tests.unit.features import seeded

RIDGE = 1e-2
"""Of a size at which finite differences are exact also where a direction collapses."""
COLLAPSED = 1e-3
"""Scale of a nearly collapsed coordinate, whose variance is far below the ridge."""


def rows_with(scale: float, *batch: int) -> Tensor:
    """Rows (..., 12, 6) float64 with a mean, whose last coordinate has a scale of its own."""
    rows = torch.randn(*batch, 12, 6, dtype=torch.float64, generator=seeded(3)) + 0.5
    rows[..., 5] *= scale
    return rows.requires_grad_()


@pytest.mark.parametrize("scale", [1.0, COLLAPSED])
@pytest.mark.parametrize("statistic", ["logdet", "participation", "top_share"])
def test_gradients_are_those_of_finite_differences(statistic: str, scale: float) -> None:
    """Of two matrices at once, of all coordinates: the collapsed one is among the directions."""
    directions = torch.stack([torch.eye(6), orthonormal_directions(6, 6, seeded())]).double()

    def chosen(rows: Tensor) -> Tensor:
        return getattr(projected_spectrum(rows, directions, RIDGE), statistic)

    assert torch.autograd.gradcheck(chosen, rows_with(scale, 2), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, COLLAPSED, 1e-6])
@pytest.mark.parametrize("ridge", [1e-2, 1e-4])
def test_the_gradient_of_logdet_is_that_of_the_plain_matrix(scale: float, ridge: float) -> None:
    rows = rows_with(scale, 3)
    directions = torch.eye(6, dtype=torch.float64)[:, 2:]  # 4 of 6, the collapsed one included
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    centred = (rows - rows.mean(dim=1, keepdim=True)) @ directions
    matrix = centred.mT @ centred / 11 + ridge * torch.eye(4, dtype=torch.float64)
    expected = torch.logdet(matrix) / 4
    found = projected_spectrum(rows, directions, ridge).logdet
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    ours, theirs = (torch.autograd.grad(value, rows, upstream)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert bool((ours[..., 2:].abs().amax(dim=1) > 0).all())


@pytest.mark.parametrize("count", [3, 12])
def test_the_gradient_of_logdet_with_fewer_rows_than_directions(count: int) -> None:
    """The covariance without the ridge is singular, so that the ridge decides."""
    rows = rows_with(1.0)[:count].detach().requires_grad_()
    directions = orthonormal_directions(6, 6, seeded()).double()
    matrix = torch.cov((rows @ directions).T) + RIDGE * torch.eye(6, dtype=torch.float64)
    found = projected_spectrum(rows, directions, RIDGE).logdet
    ours, theirs = (
        torch.autograd.grad(value, rows)[0] for value in (found, torch.logdet(matrix) / 6)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_logdet_beside_a_huge_direction() -> None:
    """In the rounding of the plain matrix, the ridge and the collapsed coordinate are lost.

    The coordinates are uncorrelated, so that each has the gradient of its own variance; the
    directions mix them.
    """
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
    scales = torch.tensor([1e7, 1.0, 1e-3], dtype=torch.float64)
    rows = (signs * scales).requires_grad_()
    mixing = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=seeded())).Q
    (gradient,) = torch.autograd.grad(projected_spectrum(rows, mixing, 1e-4).logdet, rows)
    expected = 2 / 3 * rows.detach() / (4 / 3 * scales.square() + 1e-4) / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
