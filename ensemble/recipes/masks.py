"""The key `masks` of a recipe: masks drawn on training photos of faces without one."""

from __future__ import annotations

from pydantic import Field, model_validator

from ensemble.recipes.strict import Strict


class FaceTemplate(Strict):
    """Where a face is on a photo before the crop: shares of the photo's height, or of its width."""

    eyes: float = Field(0.42, ge=0, le=1)  # of the height
    mouth: float = Field(0.63, ge=0, le=1)  # of the height
    middle: float = Field(0.5, ge=0, le=1)  # of the width
    width: float = Field(0.5, gt=0, le=1)  # of the width, from cheek to cheek

    def cropped(self, resize: tuple[int, int], crop: tuple[int, int]) -> FaceTemplate:
        """Where the face is on the `crop` of the centre; both sizes are (height, width).

        Raises:
            ValueError: not on it.
        """
        (height, width), (cut_height, cut_width) = resize, crop
        top, left = (height - cut_height) // 2, (width - cut_width) // 2
        return FaceTemplate(
            eyes=(self.eyes * height - top) / cut_height,
            mouth=(self.mouth * height - top) / cut_height,
            middle=(self.middle * width - left) / cut_width,
            width=min(1.0, self.width * width / cut_width),
        )

    @model_validator(mode="after")
    def _upright(self) -> FaceTemplate:
        if self.mouth - self.eyes < 0.05:
            raise ValueError(f"the mouth ({self.mouth:g}) has to be below the eyes ({self.eyes:g}) by at least 0.05")
        return self


class Masks(Strict):
    """How often training photos of faces without a mask get one drawn, and where their faces are."""

    prob: float = Field(0.0, ge=0, le=1)  # that a photo without a mask gets one
    incorrect: float = Field(0.3, ge=0, le=1)  # share of them below the nose or on the chin
    detect: bool = False  # find each face with a detector, and leave out photos where there is none
    face: FaceTemplate = FaceTemplate()  # type: ignore[call-arg]
