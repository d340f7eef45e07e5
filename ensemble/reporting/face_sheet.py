"""Which faces are found, and what models are shown of them."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.recipes.schema import Recipe
from folds.data.decode import Pixels
from folds.data.faces import draw_boxes
from folds.pages.contact_sheet import Cell, Sheet, thumbnail


def face_sheets(recipe: Recipe, photos: Sequence[tuple[str, Pixels]]) -> list[Sheet]:
    """A sheet for each shape in which tasks of a recipe cut out faces; none if none does.

    Args:
        photos: (caption, uint8 (h, w, 3) RGB of any size).
    """
    shapes: dict[tuple[int, int], list[str]] = {}
    for name, task in recipe.tasks.items():
        if task.crop == "face":
            shapes.setdefault(task.resize, []).append(name)
    return [_sheet(names, shape, photos) for shape, names in shapes.items()] if photos else []


def _sheet(names: Sequence[str], shape: tuple[int, int], photos: Sequence[tuple[str, Pixels]]) -> Sheet:
    cells, without = [], 0
    for caption, photo in photos:
        drawn, found = draw_boxes(photo, shape)
        without += not found
        words = caption if found else f"{caption}\nno face found"
        cells.append(Cell(thumbnail(drawn), words, words.replace("\n", " ")))
    title = f"{', '.join(names)}: a face found on {len(photos) - without} of {len(photos)} photos"
    return Sheet(f"faces-{names[0]}", title, tuple(cells))
