"""The result of a verification: problems, counts of checks, and what could not be checked."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hamjepa_audit.errors import UserError

_Result = TypeVar("_Result")


@dataclass
class Verification:
    """The result of a verification.

    Attributes:
        problems: one line for each mismatch.
        checked: the number of checks of each kind.
        unchecked: what could not be checked, because there is nothing to compare it with.
    """

    problems: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    unchecked: list[str] = field(default_factory=list)

    def check(self, kind: str, check: Callable[..., _Result], *arguments: Any) -> _Result | None:
        """Returns what a check returns; or adds its UserError to the problems and returns None."""
        self.checked[kind] += 1
        try:
            return check(*arguments)
        except UserError as error:
            # A damaged file is found again when the tables made from it are checked.
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None
