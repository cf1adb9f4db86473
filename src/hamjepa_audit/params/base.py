"""The base class of all parameter models, and the types they share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Names occur in paths and run ids, which use '-' as separator."""


class Params(BaseModel):
    """Frozen model; unknown keys, NaN and values of another type are errors, never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def later_field(default: Any) -> Any:
    """A field that was added when there were runs already, to which `default` applies.

    While it has its default, it is left out of the content that a run id is computed from, so that
    those runs keep their ids. A file sets it only to another value.
    """
    return Field(default=default, exclude_if=lambda value: value == default)
