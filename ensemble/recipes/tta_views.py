"""Test-time augmentation: the named sets of views, as data."""

from __future__ import annotations

from folds.errors import MaskensError, did_you_mean

Tta = str  # the name of a set

SETS: dict[Tta, dict[str, tuple[str, dict[str, float]] | None]] = {
    "none": {"identity": None},
    "flip": {"identity": None, "hflip": ("hflip", {})},
}
"""Set -> view -> (function of ttach.functional, its arguments), or None for the photo as it is. A set added here is a
choice of --tta, and out-of-fold logits are kept in its views.

`flip` is left to right only: ttach's own `flip_transform` would also show faces upside down.
"""

VIEWS: dict[Tta, tuple[str, ...]] = {name: tuple(views) for name, views in SETS.items()}
ALL_VIEWS = tuple(dict.fromkeys(view for views in VIEWS.values() for view in views))
"""The views that out-of-fold logits are kept in."""


def views_of(tta: Tta) -> tuple[str, ...]:
    """The names of a set's views.

    Raises:
        MaskensError: no such set.
    """
    if tta not in VIEWS:
        raise MaskensError(f"--tta {tta}: there are {', '.join(VIEWS)}{did_you_mean(tta, VIEWS)}.")
    return VIEWS[tta]
