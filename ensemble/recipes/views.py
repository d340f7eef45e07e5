"""Test-time augmentation: views by name, and the sets of them, shipped or one's own.

What `--tta` accepts is found by `recipe_file.find_set`; how a view is made is in models/tta.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from folds.errors import did_you_mean, refuse

Tta = str  # the name of a set
IDENTITY = "identity"  # the photo as it is

CROP = (0.5, 1.0)
STEPS: dict[str, tuple[float, float] | None] = {
    "hflip": None,
    "scale": (0.5, 2.0),  # then back to the model's size: the centre is cut out, or the border repeated
    "center_crop": CROP,  # this fraction of each side, enlarged to the model's size
    "crop_lt": CROP,
    "crop_rt": CROP,
    "crop_lb": CROP,
    "crop_rb": CROP,
    "multiply": (0.5, 2.0),  # brightness, of the photo before it is normalised
    "add": (-0.5, 0.5),  # the same, as a fraction of the range from black to white
}
"""Step -> the limits of its number, or None if it takes none; a view takes its steps in this order.

Faces are mirrored left to right only: ttach's own `flip_transform` would also show them upside down.
"""

VIEWS: dict[Tta, tuple[str, ...]] = {
    "none": (IDENTITY,),
    "flip": (IDENTITY, "hflip"),
    "flip+scale": (IDENTITY, "hflip", "scale=0.9", "hflip scale=0.9", "scale=1.1", "hflip scale=1.1"),
    "flip+light": (IDENTITY, "hflip", "multiply=0.8", "hflip multiply=0.8", "multiply=1.2", "hflip multiply=1.2"),
    "crops": (IDENTITY, "center_crop=0.9", "crop_lt=0.9", "crop_rt=0.9", "crop_lb=0.9", "crop_rb=0.9"),
}
"""Set -> its views. A set added here is a choice of --tta, of a recipe's `oof_tta` and of `maskens tune`."""


def steps_of(view: str) -> dict[str, float | None]:
    """Step -> its number, or None if it takes none, in the order in which they are taken; empty for the photo as it is.
    Raises ValueError: it is not the name of a view."""
    found: dict[str, float | None] = {}
    for word in [] if view.strip() == IDENTITY else view.split() or [""]:
        name, equals, text = word.partition("=")
        if name not in STEPS:
            near = did_you_mean(name, [*STEPS, IDENTITY])
            raise ValueError(f"there is no step '{name}'{near}; there are {IDENTITY} by itself, {', '.join(STEPS)}")
        if name in found:
            raise ValueError(f"'{name}' is there twice")
        limits = STEPS[name]
        if limits is None and equals:
            raise ValueError(f"'{name}' takes no number")
        found[name] = _number(name, text, *limits) if limits else None
    return {name: found[name] for name in STEPS if name in found}


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ValueError(f"'{name}' needs a number from {low:g} to {high:g}, like {name}={(low + high) / 2:g}")
    return value


def view_name(view: str) -> str:
    """The one name of a view, however it is written: `scale=0.90 hflip` is `hflip scale=0.9`. Raises ValueError: as
    `steps_of`."""
    return " ".join(n if v is None else f"{n}={v:g}" for n, v in steps_of(view).items()) or IDENTITY


TtaMerge = Literal["mean", "gmean", "max"]


class TtaSet(BaseModel):
    """Views of a photo. `mean` is that of the logits; `gmean` and `max` are of the probabilities of each head."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    views: tuple[Annotated[str, AfterValidator(view_name)], ...]
    merge: TtaMerge = "mean"  # named as in ttach
    weights: tuple[Annotated[float, Field(ge=0)], ...] = ()  # one a view, only ratios count; empty weighs all alike

    @field_validator("views")
    @classmethod
    def _each_once(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        twice = [view for view in dict.fromkeys(views) if views.count(view) > 1]
        if twice:
            raise ValueError(f"more than once: {', '.join(twice)}")
        if IDENTITY not in views:
            raise ValueError(f"'{IDENTITY}' is missing: every set shows the photo as it is, too")
        return views

    @field_validator("weights")
    @classmethod
    def _one_a_view(cls, weights: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        views = info.data.get("views")
        if weights and views is not None and len(weights) != len(views):
            raise ValueError(f"{len(weights)} weights, but {len(views)} views")
        if weights and not any(weights):
            raise ValueError("every weight is 0: no view would count")
        if weights and info.data.get("merge") == "max":
            raise ValueError("'max' takes the largest, whatever it weighs")
        return weights


SETS: dict[Tta, TtaSet] = {name: TtaSet(views=views) for name, views in VIEWS.items()}


def known_sets(own: Iterable[Mapping[Tta, TtaSet]]) -> dict[Tta, TtaSet]:
    """The shipped sets and those of several recipes. Raises MaskensError: recipes that mean different sets by one
    name."""
    found = dict(SETS)
    for sets in own:
        clashing = [f"tta.{n}: {found[n]} and {s}" for n, s in sets.items() if found.get(n, s) != s]
        refuse(clashing, "the runs mean different views by one name", "Name a file instead: --tta FILE.toml.")
        found |= sets
    return found


def _own_names(sets: dict[Tta, TtaSet]) -> dict[Tta, TtaSet]:
    wrong = [name for name in sets if not re.fullmatch(r"[\w+-]{1,64}", name)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: a set's name has 1 to 64 letters, digits, +, - and _")
    taken = [name for name in sets if name in SETS or name in (IDENTITY, *STEPS)]
    if taken:
        raise ValueError(f"{', '.join(taken)}: a shipped set or a step has this name; choose another")
    return sets


def _known_names(names: tuple[Tta, ...], info: ValidationInfo) -> tuple[Tta, ...]:
    known = [*SETS, *info.data.get("tta", names)]  # where the recipe's own sets are wrong, that is an error already
    unknown = [f"'{name}'{did_you_mean(name, known)}" for name in names if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: unknown; the sets are {', '.join(known)}")
    return names


OwnSets = Annotated[dict[Tta, TtaSet], AfterValidator(_own_names)]
OofSets = Annotated[tuple[Tta, ...], AfterValidator(_known_names)]
