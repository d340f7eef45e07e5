"""Sets of views, shipped or one's own, with how what the views say is merged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from ensemble.recipes.strict import Strict
from ensemble.recipes.tta_views import IDENTITY, STEPS, VIEWS, Tta, view_name, views_of
from folds.errors import did_you_mean, refuse

Merge = Literal["mean", "gmean", "max"]


class TtaSet(Strict):
    """Views of a photo. `mean` is that of the logits; `gmean` and `max` are of the probabilities of each head."""

    views: tuple[Annotated[str, AfterValidator(view_name)], ...]
    merge: Merge = "mean"  # named as in ttach
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

    def weighed(self, weights: tuple[float, ...]) -> TtaSet:
        """The set with these weights, without the views that weigh nothing."""
        counts = [n for n, weight in enumerate(weights) if weight]
        views = tuple(self.views[n] for n in counts)
        return self.model_copy(update={"views": views, "weights": tuple(weights[n] for n in counts)})


SETS: dict[Tta, TtaSet] = {name: TtaSet(views=views) for name, views in VIEWS.items()}


def as_set(tta: Tta | TtaSet) -> TtaSet:
    """A set, or the shipped one of that name. Raises MaskensError as `views_of`."""
    return tta if isinstance(tta, TtaSet) else TtaSet(views=views_of(tta))


def known_sets(own: Iterable[Mapping[Tta, TtaSet]]) -> dict[Tta, TtaSet]:
    """The shipped sets and those of several recipes.

    Raises:
        MaskensError: recipes that mean different sets by one name.
    """
    found = dict(SETS)
    for sets in own:
        clashing = [f"tta.{n}: {_words(found[n])}, and {_words(s)}" for n, s in sets.items() if found.get(n, s) != s]
        refuse(clashing, "the runs mean different views by one name", "Name a file instead: --tta FILE.toml.")
        found |= sets
    return found


def oof_views(names: Iterable[Tta], own: Mapping[Tta, TtaSet]) -> tuple[str, ...]:
    """The views of these sets, those of flip first: score, tune and compare take flip where nothing else is named."""
    known = SETS | dict(own)
    return tuple(dict.fromkeys(view for name in ("flip", *names) for view in known[name].views))


def _words(tta: TtaSet) -> str:
    return f"{tta.merge} of {', '.join(tta.views)}"


def _own_names(sets: dict[Tta, TtaSet]) -> dict[Tta, TtaSet]:
    wrong = [name for name in sets if not re.fullmatch(r"[\w+-]{1,64}", name)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: a set's name has 1 to 64 letters, digits, +, - and _")
    taken = [name for name in sets if name in SETS or name in (IDENTITY, *STEPS)]
    if taken:
        raise ValueError(f"{', '.join(taken)}: a set or a step that ships has this name; choose another")
    return sets


def _known_names(names: tuple[Tta, ...], info: ValidationInfo) -> tuple[Tta, ...]:
    known = [*SETS, *info.data.get("tta", names)]  # where the recipe's own sets are wrong, that is said already
    unknown = [f"'{name}'{did_you_mean(name, known)}" for name in names if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: there are {', '.join(known)}")
    return names


OwnSets = Annotated[dict[Tta, TtaSet], AfterValidator(_own_names)]
OofSets = Annotated[tuple[Tta, ...], AfterValidator(_known_names)]
