"""How a recipe trains ages: in which bins, towards which targets, with what kind of head, and without whom."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from ensemble.recipes.strict import Strict
from ensemble.recipes.tasks import AgeHead, merge_of
from folds.data.labels import AGE_CUTS, AGES

Years = tuple[Annotated[int, Field(ge=1, le=120)], ...]

ALL_YEARS = tuple(range(16, 81))  # `cuts = "years"`: <16, 16, 17, ..., 79, >=80


class Ages(Strict):
    """How ages are trained: in which bins, and without whom. Scores always count the bands 30 and 60."""

    cuts: Years = AGE_CUTS  # a bin begins at each cut; "years" is one bin a year
    merge: tuple[int, ...] = Field(
        (), validate_default=True
    )  # the band (0, 1, 2) that each bin counts as; empty: that of its oldest age
    leave_out: Years = ()  # people of these ages are not learned from
    sigma: float = Field(0.0, ge=0, le=50)  # years by which a target spreads around the person's age; 0 is one bin
    head: AgeHead = "softmax"

    @field_validator("cuts", mode="before")
    @classmethod
    def _each_year(cls, cuts: Any) -> Any:
        if isinstance(cuts, str) and cuts != "years":
            raise ValueError('a list of ages, or "years" for one bin a year')
        return ALL_YEARS if cuts == "years" else cuts

    @field_validator("cuts")
    @classmethod
    def _rising(cls, cuts: Years) -> Years:
        if len(cuts) < 2 or any(a >= b for a, b in pairwise(cuts)):
            raise ValueError("at least two ages, each above the one before")
        return cuts

    @field_validator("merge", mode="after")
    @classmethod
    def _whole(cls, merge: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        cuts = info.data.get("cuts")
        if cuts is None:
            return merge
        given, merge = merge, merge or merge_of(cuts)
        if len(merge) != len(cuts) + 1 or sorted(merge) != list(merge) or set(merge) != set(range(len(AGES))):
            raise ValueError(
                f"{len(cuts)} cuts make {len(cuts) + 1} bins; each needs a band, rising from 0 to 2 with none left out"
            )
        return given

    @field_validator("head")
    @classmethod
    def _something_to_regress(cls, head: AgeHead, info: ValidationInfo) -> AgeHead:
        cuts = info.data.get("cuts")
        if head == "regression" and cuts and len(cuts) == len(AGE_CUTS):
            raise ValueError(
                f'regression learns the age itself, and cuts {list(cuts)} leave only three bands of it: cuts = "years"'
            )
        return head

    @property
    def bands(self) -> tuple[int, ...]:
        """The band of each bin."""
        return self.merge or merge_of(self.cuts)

    @property
    def in_bands(self) -> bool:
        """Whether the bins are the three bands themselves."""
        return (self.cuts, self.bands) == (AGE_CUTS, merge_of(AGE_CUTS))
