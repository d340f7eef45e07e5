"""Test-time augmentation: views by name, and the sets of them that ship.

A view's name says all of it, `hflip scale=0.9`, so that two views of one name show the same. The steps are functions of
`ttach.functional`; `ensemble.models.tta` takes them.
"""

from __future__ import annotations

from folds.errors import MaskensError, did_you_mean

Tta = str  # the name of a set
IDENTITY = "identity"  # the photo as it is

CROP = (0.5, 1.0)
STEPS: dict[str, tuple[float, float] | None] = {
    "hflip": None,
    "scale": (0.5, 2.0),  # then back to the model's size: the centre is cut out, or the border repeated
    "center_crop": CROP,  # this share of each side, enlarged to the model's size
    "crop_lt": CROP,
    "crop_rt": CROP,
    "crop_lb": CROP,
    "crop_rb": CROP,
    "multiply": (0.5, 2.0),  # brightness, of the photo before it is normalised
    "add": (-0.5, 0.5),  # the same, as a share of the range from black to white
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

    Raises:
        ValueError: no view reads so, with what is wrong.
    """
    found: dict[str, float | None] = {}
    for word in [] if view.strip() == IDENTITY else view.split() or [""]:
        name, equals, text = word.partition("=")
        if name not in STEPS:
            near = did_you_mean(name, [*STEPS, IDENTITY])
            raise ValueError(f"there is no step '{name}'{near}; there are {IDENTITY} by itself, {', '.join(STEPS)}")
        if name in found:
            raise ValueError(f"'{name}' is there twice")
        found[name] = _number(name, equals, text)
    return {name: found[name] for name in STEPS if name in found}


def _number(name: str, equals: str, text: str) -> float | None:
    limits = STEPS[name]
    if limits is None:
        if equals:
            raise ValueError(f"'{name}' takes no number")
        return None
    low, high = limits
    try:
        value = float(text)
    except ValueError:
        value = high + 1
    if not low <= value <= high:
        raise ValueError(f"'{name}' needs a number from {low:g} to {high:g}, like {name}={(low + high) / 2:g}")
    return value


def view_name(view: str) -> str:
    """The one name of a view, however it is written: `scale=0.90 hflip` is `hflip scale=0.9`.

    Raises:
        ValueError: as `steps_of`.
    """
    return " ".join(n if v is None else f"{n}={v:g}" for n, v in steps_of(view).items()) or IDENTITY


def views_of(tta: Tta) -> tuple[str, ...]:
    """The names of a shipped set's views.

    Raises:
        MaskensError: no such set.
    """
    if tta not in VIEWS:
        raise MaskensError(f"--tta {tta}: there are {', '.join(VIEWS)}{did_you_mean(tta, VIEWS)}.")
    return VIEWS[tta]
