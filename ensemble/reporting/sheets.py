"""Pictures of what a recipe does to photos: augmentation before and after, and faces found."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ensemble.data.augment import Augment, always, build, faults
from ensemble.data.cache import in_preprocessings
from ensemble.data.drawn_masks import NOT_WEAR, WEAR, DrawMasks, detection_faults
from ensemble.recipes.schema import Entry, Recipe, SomeOf, TaskRecipe, transforms_in
from folds.errors import refuse
from folds.faces import draw_boxes
from folds.pages.contact_sheet import Cell, Sheet, thumbnail
from folds.people import FaceCrop
from folds.photos import Pixels

DRAWS = 4


def check_augmentation(recipe: Recipe) -> None:
    """Try every transform on noise. Raises MaskensError: every transform that is unknown, takes other arguments or
    changes a photo's size."""
    problems = [
        f"tasks.{names[0]}.{fault}"
        for names, task in _alike(recipe)
        for fault in faults(task.augment, task.input_size) + detection_faults(task)
    ]
    refuse(problems, f"the recipe '{recipe.name}' can't be used")


def augment_sheets(
    recipe: Recipe, photos: Sequence[tuple[str, Pixels]], seed: int, without_mask: Collection[int] = ()
) -> list[Sheet]:
    """A sheet for each list of transforms of a recipe; tasks with the same list and photo size share the sheet.

    A row is a photo; its columns are the photo at the task's size, a few drawn masks if the recipe draws masks, each
    transform alone with p = 1 (those of a SomeOf too), and a few draws of the whole policy.

    Args:
        photos: (caption, uint8 (h, w, 3) RGB of any size).
        without_mask: places of the photos of faces without one, the only ones that masks are drawn on.
    """
    sheets = []
    for names, task in _alike(recipe) if photos else []:
        heads = ["before"]
        if task.masks.prob:
            heads += [f"mask {d + 1}\np {task.masks.prob:g} without one" for d in range(DRAWS)]
        for entry in task.augment:
            if isinstance(entry, SomeOf):
                of = f"{entry.some_of} of {len(entry.transforms)} drawn, here alone"
                heads += [f"{t.name}\n{of}" for t in entry.transforms]
            else:
                heads.append(f"{entry.name}\np {build(entry).p:g}, here always")
        heads += [f"draw {d + 1}" for d in range(DRAWS)]
        cells = []
        for number, (caption, photo) in enumerate(photos):
            (before,) = in_preprocessings([photo], [task.preprocessing]).sizes
            name = caption.replace("\n", "")
            cells.append(Cell(thumbnail(before), caption, f"{name}, before"))
            pictures = masked(task, before, number in without_mask, (seed, number))
            pictures += after(task.augment, before, (seed, number))
            for head, picture in zip(heads[1:], pictures, strict=True):
                change = np.abs(before.astype(np.int16) - picture).mean()  # of the pixels, 0..255
                cells.append(Cell(thumbnail(picture), f"change {change:.1f}", f"{name}, {head.splitlines()[0]}"))
        height, width = task.input_size
        nothing = "" if task.augment or task.masks.prob else ", which augments nothing"
        title = f"{', '.join(names)}: {width} x {height} pixels{nothing}"
        sheets.append(Sheet(f"augment-{names[0]}", title, tuple(cells), columns=len(heads), heads=tuple(heads)))
    return sheets


def after(augment: Sequence[Entry], photo: Pixels, key: Sequence[int]) -> list[Pixels]:
    """Each transform alone, always applied, then DRAWS draws of the whole policy, seeded by `key`; each a uint8 array
    of the shape of `photo`."""
    steps = [Augment([always(t)]) for _, t in transforms_in(augment)] + [Augment(augment)] * DRAWS
    return [step(photo, (*key, n)) for n, step in enumerate(steps)]


def masked(task: TaskRecipe, photo: Pixels, bare: bool, key: Sequence[int]) -> list[Pixels]:
    """DRAWS masks on a face that is `bare`, the last one worn incorrectly; no mask on one that wears one. Each a uint8
    array of the shape of `photo`."""
    if not task.masks.prob:
        return []
    pictures, labels = [], np.zeros(len(task.output_spec.heads), np.int64)
    for n in range(DRAWS):
        masks = task.masks.model_copy(update={"prob": 1.0, "incorrect": float(n == DRAWS - 1)})
        draw = DrawMasks(task.model_copy(update={"masks": masks}), np.array([NOT_WEAR if bare else WEAR]))
        pictures.append(draw(photo, labels, 0, (*key, n))[0])
    return pictures


def _alike(recipe: Recipe) -> list[tuple[list[str], TaskRecipe]]:
    groups: dict[str, tuple[list[str], TaskRecipe]] = {}
    for name, task in recipe.tasks.items():
        shown = task.model_dump_json(include={"masks", "augment", "resize", "crop"})
        groups.setdefault(shown, ([], task))[0].append(name)
    return list(groups.values())


def face_sheets(recipe: Recipe, photos: Sequence[tuple[str, Pixels]]) -> list[Sheet]:
    """A sheet for each shape and kind in which tasks of a recipe cut out faces; none if none does. Photos are (caption,
    uint8 (h, w, 3) RGB of any size)."""
    shapes: dict[tuple[tuple[int, int], FaceCrop], list[str]] = {}
    for name, task in recipe.tasks.items():
        if isinstance(task.crop, str) and photos:
            shapes.setdefault((task.resize, task.crop), []).append(name)
    sheets = []
    for (shape, kind), names in shapes.items():
        cells, without = [], 0
        for caption, photo in photos:
            drawn, found = draw_boxes(photo, shape, kind)
            without += not found
            text = caption if found else f"{caption}\nno face found"
            cells.append(Cell(thumbnail(drawn), text, text.replace("\n", " ")))
        title = f"{', '.join(names)}: a face found on {len(photos) - without} of {len(photos)} photos"
        sheets.append(Sheet(f"faces-{names[0]}", title, tuple(cells)))
    return sheets
