"""Checks of theorems: a formula against independent numbers, on random instances."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.theory.instances import Generator, generator_for

Row = dict[str, Any]
_Instance = TypeVar("_Instance")
_Formula = TypeVar("_Formula")


@dataclass(frozen=True)
class Check(Generic[_Instance, _Formula]):
    """A theorem and its check.

    Attributes:
        name: name of its row and its tolerance.
        statement: the paper's statement.
        source: where the paper states it.
        measure: description of the error.
        formula: the theorem's claim, or the integrator that it is about.
        error: error of an instance; the generator is for the check's own draws.
        instances: draws the random instances from a generator.
    """

    name: str
    statement: str
    source: str
    measure: str
    formula: _Formula
    error: Callable[[_Instance, Generator, _Formula], float]
    instances: Callable[[Generator], Iterator[_Instance]]


def run_check(check: Check[Any, Any], params: TheoryParams, formula: Any | None = None) -> Row:
    """The row of a theorem (CHECKS_SCHEMA); if an error is NaN, it does not hold.

    `formula` is checked instead of the theorem's own.
    """
    generator = generator_for(params.seed, check.name)
    claim = check.formula if formula is None else formula
    with torch.no_grad():
        errors = [
            check.error(instance, generator, claim) for instance in check.instances(generator)
        ]
    worst = max(errors, key=lambda error: (error != error, error))  # NaN is the worst
    tolerance = params.tolerances[check.name]
    return {
        "check": check.name,
        "statement": check.statement,
        "source": check.source,
        "instances": len(errors),
        "error": check.measure,
        "worst_error": worst,
        "tolerance": tolerance,
        "holds": bool(worst <= tolerance),
    }


def run_checks(
    checks: Sequence[Check[Any, Any]], params: TheoryParams, say: Callable[[str], None]
) -> list[Row]:
    """The rows of some theorems; reports each result through `say`.

    Raises:
        UserError: `params.tolerances` lacks one of them, or has an unknown one.
    """
    _require_tolerances(params, [check.name for check in checks])
    rows = []
    for number, check in enumerate(checks, start=1):
        started = time.monotonic()
        row = run_check(check, params)
        rows.append(row)
        say(
            f"{number}/{len(checks)} {check.name}: {'holds' if row['holds'] else 'FAILS'}, worst "
            f"error {row['worst_error']:.2g} of {row['tolerance']:.2g} allowed, "
            f"{row['instances']} instances, {time.monotonic() - started:.1f} s"
        )
    return rows


def _require_tolerances(params: TheoryParams, names: list[str]) -> None:
    for name in params.tolerances:
        if name not in names:
            raise UserError(
                f"theory.yaml: no row '{name}' under tolerances: {nearest(name, names)}"
            )
    for name in names:
        if name not in params.tolerances:
            raise UserError(f"theory.yaml: tolerances lack the row '{name}': give it a number")
