"""params/generated.yaml: what generated pictures are like."""

from typing import Self

from pydantic import Field, model_validator

from hamjepa_audit.params.base import Count, Params, Seed


class GeneratedParams(Params):
    """Pictures in PART/CLASS folders; `images` of each class by part, `sides` in pixels."""

    classes: Count
    images: dict[str, Count] = Field(min_length=1)
    sides: tuple[Count, Count]
    seed: Seed

    @model_validator(mode="after")
    def _sides_are_ordered(self) -> Self:
        if self.sides[0] > self.sides[1]:
            raise ValueError(f"sides must be [shortest, longest], got {list(self.sides)}")
        return self
