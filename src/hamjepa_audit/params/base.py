"""The base class of all parameter models, and the types they share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Names occur in paths and run ids, which use '-' as separator."""


LONGEST_TITLE = 40


def _shown_title(title: str) -> str:
    if not 0 < len(title) <= LONGEST_TITLE or title[0] == "_" or {*"$\n"} & {*title}:
        raise ValueError(
            f"'{title}' has {len(title)} characters: give a title of 1 to {LONGEST_TITLE}, in one "
            f"line, without $, not beginning with _ (figures can't show it)"
        )
    return title


Title = Annotated[str, AfterValidator(_shown_title)]
"""Titles are shown in legends: Matplotlib drops a leading underscore and reads $ as mathematics."""


class Params(BaseModel):
    """Frozen model; unknown keys, NaN and values of another type are errors, never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
