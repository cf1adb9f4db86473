"""Random features and their generators."""

import torch
from scipy.stats import ortho_group
from torch import Generator, Tensor

from hamjepa_audit.evaluation.rows import Labelled


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def rotation(width: int) -> Tensor:
    return torch.from_numpy(ortho_group.rvs(width, random_state=3))


def clusters(
    rows: int = 230, tests: int = 90, width: int = 12, classes: int = 7, spread: float = 1.0
) -> tuple[Labelled, Labelled]:
    """Overlapping Gaussian clusters not centred at 0, float64: training and test rows."""
    generator = seeded(7)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64) + 1.0
    labels = torch.randint(classes, (rows + tests,), generator=generator)
    noise = torch.randn(rows + tests, width, generator=generator, dtype=torch.float64)
    features = centres[labels] + spread * noise
    return Labelled(features[:rows], labels[:rows]), Labelled(features[rows:], labels[rows:])


def decaying(rows: int, width: int, seed: int = 5) -> Tensor:
    """Features (rows, width) float64 with a decaying spectrum and nonzero mean."""
    noise = torch.randn(rows, width, generator=seeded(seed), dtype=torch.float64)
    return noise * (1 + torch.arange(width)) ** -0.5 @ rotation(width) + 3
