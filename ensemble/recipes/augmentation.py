"""What `augment` may hold: transforms, draws from a list of them, and the named policies that come with maskens."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from ensemble.recipes.strict import Strict
from folds.errors import did_you_mean


class Transform(Strict):
    """One albumentations transform by name and arguments."""

    name: str
    args: dict[str, Any] = Field(default={})


class SomeOf(Strict):
    """So many of a list, drawn anew for each photo without repeats and applied in the list's order, each with its own
    `p`: as RandAugment (Cubuk et al. 2020) does, and with 1 TrivialAugment (Müller & Hutter 2021)."""

    transforms: tuple[Transform, ...] = Field(min_length=1)
    some_of: int = Field(ge=1)
    p: float = Field(1.0, gt=0, le=1)  # that anything is drawn at all

    @field_validator("some_of")
    @classmethod
    def _enough(cls, some_of: int, info: ValidationInfo) -> int:
        transforms = info.data.get("transforms")
        if transforms and some_of > len(transforms):
            raise ValueError(f"there are {len(transforms)} transforms to draw from")
        return some_of


def _kind(entry: Any) -> Literal["Transform", "SomeOf"]:
    draws = entry.keys() & {"some_of", "transforms"} if isinstance(entry, dict) else isinstance(entry, SomeOf)
    return "SomeOf" if draws else "Transform"


Entry = Annotated[
    Annotated[Transform, Tag("Transform")] | Annotated[SomeOf, Tag("SomeOf")],
    Discriminator(_kind),
]
"""An entry of `augment`."""

ENTRIES: dict[str, type[Strict]] = {"Transform": Transform, "SomeOf": SomeOf}
"""The kinds of entries by the name that pydantic puts into the paths of their errors."""


def policies() -> dict[str, dict[str, Any]]:
    """Name -> entry of the policies that come with maskens, as TOML says them."""
    folder = resources.files("ensemble.recipes") / "policies"
    texts = {f.name[:-5]: f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".toml")}
    return {name: tomllib.loads(texts[name]) for name in sorted(texts)}


def expand(augment: Any) -> Any:
    """The value of `augment` with each policy's name replaced by its entry, so that other entries keep their places.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(augment, str):
        augment = [augment]
    if not isinstance(augment, list) or not any(isinstance(entry, str) for entry in augment):
        return augment
    known = policies()
    unknown = [entry for entry in augment if isinstance(entry, str) and entry not in known]
    if unknown:
        raise ValueError(
            f"there is no policy '{unknown[0]}'{did_you_mean(unknown[0], known)}; there are {', '.join(known)}"
        )
    return [known[entry] if isinstance(entry, str) else entry for entry in augment]


def transforms_in(augment: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """(key path within `augment`, transform) of all that may be applied, those to draw from too.

    Args:
        augment: entries, or the tables that TOML has for them; what is neither is left out.
    """
    for number, entry in enumerate(augment):
        if _kind(entry) == "Transform":
            yield str(number), entry
            continue
        inner = entry.transforms if isinstance(entry, SomeOf) else entry.get("transforms")
        for place, transform in enumerate(inner if isinstance(inner, (list, tuple)) else ()):
            yield f"{number}.transforms.{place}", transform
