"""The paper's claims, typed: measurements, differences and statements, each with its source.

Numbers are kept as printed, as decimals with trailing zeros, because these carry precision: 28.10
means a value between 28.095 and 28.105.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, model_validator

from hamjepa_audit.params.arms import Readout
from hamjepa_audit.params.base import Count, Name, Params, distinct
from hamjepa_audit.params.loading import validate
from hamjepa_audit.params.reading import UniqueKeyLoader, read_yaml

Unit = Literal["percent", "dimensionless"]
Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(@([1-9][0-9]*|best))?$")]
Source = Annotated[str, Field(min_length=1)]
Spread = Annotated[Decimal, Field(gt=0)]

ACCURACIES = ("knn_top", "linear_probe_top")
"""Prefixes of the metrics that are accuracies in percent; all others are dimensionless."""


def unit_of(metric: str) -> Unit:
    """The unit that a metric is measured in."""
    return "percent" if metric.startswith(ACCURACIES) else "dimensionless"


class MeasurementClaim(Params):
    """A number that the paper reports for one arm and readout.

    `std` is over `n` seeds; a single run has none. `at_k` is the k where a best over k was found.
    `note` is a remark shown beside the number, such as the paper's wording where it prints no
    exact value.
    """

    study: Name
    epochs: Count
    arm: Name
    readout: Readout
    metric: Metric
    value: Decimal
    std: Spread | None = None
    n: Count
    unit: Unit
    at_k: Count | None = None
    source: Source
    note: str | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.unit != unit_of(self.metric):
            raise ValueError(f"{self.metric} is {unit_of(self.metric)}, not {self.unit}")
        if (self.std is None) != (self.n == 1):
            raise ValueError(f"std is {self.std} with n = {self.n}: give std if and only if n > 1")
        if self.at_k is not None and not self.metric.endswith("@best"):
            raise ValueError(f"at_k belongs to a best over k, not to {self.metric}")
        return self

    @property
    def key(self) -> str:
        """Identifier of what is measured; equal for two statements of the same number."""
        return f"{self.study}-e{self.epochs}-{self.arm}-{self.readout}-{self.metric}"


class Side(Params):
    """One side of a difference; `best` is the best of the arm's readouts."""

    arm: Name
    readout: Readout | Literal["best"]

    def __str__(self) -> str:
        return f"{self.arm}_{self.readout}"


class DifferenceClaim(Params):
    """A difference that the paper states: minuend - subtrahend, in the metric's unit.

    `negligible`: the paper's point is how small it is, so that its size is judged, not its sign.
    """

    study: Name
    epochs: Count
    metric: Metric
    minuend: Side
    subtrahend: Side
    value: Decimal
    std: Spread | None = None
    n: Annotated[int, Field(ge=2)] | None = None
    negligible: bool = False
    source: Source

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.minuend == self.subtrahend:
            raise ValueError(f"minuend and subtrahend are both {self.minuend}")
        if self.value == 0 and not self.negligible:
            raise ValueError("value is 0: a difference of zero has no direction to be tested")
        if (self.std is None) != (self.n is None):
            raise ValueError(f"std is {self.std} with n = {self.n}: give both or neither")
        return self

    @property
    def sides(self) -> tuple[Side, Side]:
        """Minuend and subtrahend."""
        return self.minuend, self.subtrahend

    @property
    def unit(self) -> Unit:
        """The unit of the value; percentage points count as percent."""
        return unit_of(self.metric)

    @property
    def key(self) -> str:
        """Identifier of what is compared; equal for two statements of the same difference."""
        return f"{self.study}-e{self.epochs}-{self.metric}-{self.minuend}-{self.subtrahend}"


class StatementClaim(Params):
    """A claim that the paper states in words."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    study: Name
    epochs: Count
    says: Annotated[str, Field(min_length=1)]
    source: Source


class Paper(Params):
    """The paper, and its version."""

    arxiv: str
    version: Count
    title: str


class Rollout(Params):
    """Step size and number of steps of a toy trajectory."""

    dt: Spread
    steps: Count


class ReferenceRollout(Rollout):
    """The trajectory that the others are compared with."""

    integrator: Literal["leapfrog"]


class Distances(Params):
    """Wasserstein-1 distances over directions."""

    mean: Spread
    max: Spread


class ToyTransport(Params):
    """The paper's toy experiment on Hamiltonian transport (Figures 8 and 9)."""

    horizon: Spread
    reference: ReferenceRollout
    models: Rollout
    w1_over_directions: Annotated[
        dict[Literal["euler", "leapfrog"], Distances], Field(min_length=2)
    ]


def _stated(claim: MeasurementClaim | DifferenceClaim) -> str:
    return f"{claim.key} ({claim.source})"


class Claims(Params):
    """Everything that an audit checks."""

    schema_version: Literal[1] = Field(alias="schema")
    paper: Paper
    unit_default: Unit
    measurements: Annotated[tuple[MeasurementClaim, ...], Field(min_length=1), distinct(_stated)]
    differences: Annotated[tuple[DifferenceClaim, ...], Field(min_length=1), distinct(_stated)]
    statements: Annotated[
        tuple[StatementClaim, ...], Field(min_length=1), distinct(attrgetter("id"))
    ]
    toy_transport: ToyTransport | None = None


_Claim = TypeVar("_Claim", MeasurementClaim, DifferenceClaim, MeasurementClaim | DifferenceClaim)


def named(claims: Iterable[_Claim]) -> Iterator[tuple[str, _Claim]]:
    """Yields each claim with a name: its key; repeated keys get a number, from 2, as a suffix.

    All names are different, such as 'cifar100-e30-hamjepa-q-effective_rank.2'.
    """
    seen: Counter[str] = Counter()
    for claim in claims:
        seen[claim.key] += 1
        yield claim.key if seen[claim.key] == 1 else f"{claim.key}.{seen[claim.key]}", claim


def load_claims(path: Path) -> Claims:
    """Reads the claims of a file. The same number from two sources is kept twice.

    Raises:
        UserError: the file is missing or not YAML; it has an unknown key, a value of the wrong
            type, unit or range, or a claim twice with the same source.
    """
    tree = read_yaml(path, _PrintedNumbers)
    measurements = tree.get("measurements")
    for claim in measurements if isinstance(measurements, list) else ():
        if isinstance(claim, dict):
            claim.setdefault("unit", tree.get("unit_default"))
    return validate(Claims, tree, str(path))


class _PrintedNumbers(UniqueKeyLoader):
    """YAML loader that keeps numbers with a decimal point as strings, as printed."""


def _as_printed(loader: _PrintedNumbers, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


_PrintedNumbers.add_constructor("tag:yaml.org,2002:float", _as_printed)
