"""The base class of all parameter models, and the types they share."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Names occur in paths and run ids, which use '-' as separator."""


Betas: TypeAlias = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
"""AdamW's decay rates of the running means of the gradient and of its square."""

LONGEST_TITLE = 40


def _shown_title(title: str) -> str:
    in_one_line = title.strip().splitlines() == [title]
    if not in_one_line or len(title) > LONGEST_TITLE or title.startswith("_") or "$" in title:
        raise ValueError(
            f"{title!r} can't be shown in figures: give 1 to {LONGEST_TITLE} characters in one "
            f"line, without $, and not beginning with _ or a space"
        )
    return title


Title = Annotated[str, AfterValidator(_shown_title)]
"""Titles are shown in legends: Matplotlib drops a leading underscore and reads $ as mathematics."""


def require_distinct(names: Iterable[Hashable], advice: str = "keep one") -> None:
    """Raises ValueError with advice if two of the names are equal."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{name!r} is listed more than once: {advice}")


def distinct(name: Callable[[Any], Hashable] = lambda item: item) -> AfterValidator:
    """A validator of a list: no two items may have the same `name`."""

    def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
        require_distinct(map(name, items))
        return items

    return AfterValidator(check)


class Params(BaseModel):
    """Frozen model; unknown keys, NaN and values of another type are errors, never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
