"""params/generated.yaml: parameters of generated images."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from hamjepa_audit.params.base import Count, Params, Seed

JpegQuality = Annotated[int, Field(ge=1, le=95)]
"""On Pillow's scale; above 95, files grow with almost no gain in quality."""


class GeneratedParams(Params):
    """Images in PART/CLASS folders; `images` per class by part, `sides` in pixels."""

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
