"""The model that all parameter models derive from, and the number types they share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Names stand in paths and run ids, where '-' separates."""


class Params(BaseModel):
    """Frozen; unknown keys, NaN and values of another type are errors, never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def later_field(default: Any) -> Any:
    """A field that was added when there were runs already, which had the `default`.

    It is left out of what a run is named by while it has its default, so that those runs keep
    their names. A file that wants another value says so.
    """
    return Field(default=default, exclude_if=lambda value: value == default)
