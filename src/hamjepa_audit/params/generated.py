"""params/generated.yaml: what generated pictures are like."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from hamjepa_audit.params.base import Count, Params, Seed

JpegQuality = Annotated[int, Field(ge=1, le=95)]
"""As Pillow counts it; above 95 files grow, and pictures gain next to nothing."""


class GeneratedParams(Params):
    """Pictures in PART/CLASS folders; `images` of each class by part, `sides` in pixels."""

    classes: Count
    images: dict[str, Count] = Field(min_length=1)
    sides: tuple[Count, Count]
    jpeg_quality: JpegQuality
    seed: Seed

    @model_validator(mode="after")
    def _sides_are_ordered(self) -> Self:
        if self.sides[0] > self.sides[1]:
            raise ValueError(f"sides must be [shortest, longest], got {list(self.sides)}")
        return self
