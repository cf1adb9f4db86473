"""Parameters of the tests of claims: levels, margins, families, studies that stand for others."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hamjepa_audit.errors import UserError
from hamjepa_audit.params.base import Count, Fraction, Name, Params, Positive
from hamjepa_audit.params.loading import read_params

Level = Annotated[float, Field(gt=0, lt=1)]
Column = Literal["study", "epochs"]


class MarginParams(Params):
    """The equivalence margin of some metrics, in their unit or as a share of the paper's value.

    `metrics` may hold patterns such as knn_top1@*.
    """

    metrics: tuple[str, ...] = Field(min_length=1)
    absolute: Positive | None = None
    relative: Fraction | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.absolute is None) == (self.relative is None):
            raise ValueError(f"margin of {list(self.metrics)}: give either absolute or relative")
        return self

    def around(self, value: float) -> float:
        """The margin around the paper's value, in its unit."""
        return self.absolute if self.absolute is not None else (self.relative or 0.0) * abs(value)


class FamilyParams(Params):
    """For each kind of claim, the columns that define a family: its members agree in them."""

    measurements: tuple[Column, ...] = Field(min_length=1)
    differences: tuple[Column, ...] = Field(min_length=1)
    statements: tuple[Column, ...] = Field(min_length=1)


class StandsForParams(Params):
    """The paper's study that one of ours stands for; `epochs` maps the paper's to ours.

    `largest_k`: with more neighbours accuracy is no longer comparable with the paper's.
    """

    study: Name
    epochs: dict[Count, Count] = Field(min_length=1)
    largest_k: Count | None = None


class StatementParams(Params):
    """Thresholds that make the wording of the paper's statements precise."""

    negligible_accuracy: Positive
    small_k: Count
    most: Level
    little: Level
    cosine_near_zero: Level
    cosine_strongly_positive: Level
    pythagoras_tolerance: Level
    wall_clock_tolerance: Level


class AuditParams(Params):
    """How the paper's claims are tested on our numbers."""

    confidence: Level
    power: Level
    minimum_seeds: Annotated[int, Field(ge=3)]
    maximum_seeds: Count
    margins: tuple[MarginParams, ...]
    difference_share: Annotated[float, Field(gt=0, lt=0.5)]
    compared_with: dict[str, str]
    families: FamilyParams
    stands_for: dict[Name, StandsForParams]
    statements: StatementParams

    @property
    def alpha(self) -> float:
        """Significance level of the tests."""
        return 1 - self.confidence

    def our_metric(self, metric: str) -> str:
        """The metric of ours that a metric of the paper is compared with."""
        return self.compared_with.get(metric, metric)

    def margin(self, metric: str, value: float) -> float:
        """The margin around a measured value of the paper, in its unit.

        Raises:
            UserError: no margin is declared for the metric.
        """
        return self._margin_params(metric).around(value)

    def absolute_margin(self, metric: str) -> float:
        """The margin around a difference of two of our arms, in the metric's unit.

        Raises:
            UserError: no margin is declared for the metric, or only one relative to a value of
                the paper.
        """
        margin = self._margin_params(metric)
        if margin.absolute is None:
            raise UserError(
                f"the equivalence margin for '{metric}' is a share of a paper's value, so arms "
                f"can't be compared by it; give it an absolute one in statistics.yaml"
            )
        return margin.absolute

    def _margin_params(self, metric: str) -> MarginParams:
        for margin in self.margins:
            if any(fnmatchcase(metric, pattern) for pattern in margin.metrics):
                return margin
        raise UserError(
            f"no equivalence margin for the metric '{metric}'; add it to margins in statistics.yaml"
        )

    def difference_margin(self, metric: str, value: float) -> float:
        """The margin around a difference of the paper: at most `difference_share` of it.

        Where the metric's margin is relative, it is that share of the difference, not of the two
        values, whose margins may be larger than the difference itself.

        Raises:
            UserError: no margin is declared for the metric.
        """
        return min(self.margin(metric, value), self.difference_share * abs(value))


def load_audit(folder: Path) -> AuditParams:
    """The parameters of the audit, from statistics.yaml in the params folder.

    Raises:
        UserError: missing, not YAML, an unknown key, or a value of the wrong type or range.
    """
    return read_params(AuditParams, folder / "statistics.yaml")
