"""A page about the data, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, OnProgress, part_of, read_labelled
from ensemble.recipes.reading import load_recipe
from folds.explore.exploration import Exploration, a_few_each, examples, photos_of
from folds.explore.exploration import explore as look
from folds.explore.page import GENERATOR, OURS, write_exploration
from folds.files import replacing_folder
from folds.labels import MASKS
from folds.pages.html import refuse_foreign_page


@dataclass(frozen=True)
class Explored:
    """What was found, and the page that shows it."""

    exploration: Exploration
    folder: Path
    replaced: bool  # an earlier page


def explore(
    data: Folder | None = None,
    run: Folder = DEFAULT_RUN,
    *,
    out: Folder | None = None,
    per_class: int = 24,
    recipe: str = "original",
    fixes: Sequence[str] = (),
    seed: int | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Explored:
    """Look at counts, photos, odd photos and labels, and at what a recipe's augmentation does.

    Args:
        data, fixes, seed: as of `make_folds`.
        out: folder of the page; None is `explore` beside the run.
        per_class: photos on a class's contact sheet.
        recipe: name or file.
        workers: threads; None takes all cores.

    Raises:
        MaskensError: data that don't fit together, a recipe that can't be used, a folder that is not ours to replace.
    """
    _, found, seed = read_labelled(run, data, fixes, seed)
    folder = Path(out) if out else Path(run).parent / "explore"
    refuse_foreign_page(folder, GENERATOR, OURS)

    from ensemble.reporting.sheets import (  # albumentations takes its time
        augment_sheets,
        check_augmentation,
        face_sheets,
    )

    shown = load_recipe(recipe)
    check_augmentation(shown)
    replaced = folder.is_dir() and any(folder.iterdir())
    with replacing_folder(folder) as build:
        exploration = look(found, per_class, seed, workers or -1, part_of(on_progress, "opening photos"))
        chosen = examples(exploration)
        photos = photos_of(found, chosen)
        faces = face_sheets(shown, photos_of(found, a_few_each(exploration)))
        without_mask = np.flatnonzero(found.labels[0][chosen] == MASKS.index("not wear")).tolist()
        sheets = augment_sheets(shown, photos, seed, without_mask)
        write_exploration(build, exploration, sheets, faces, shown.name, workers or -1)
    return Explored(exploration, folder, replaced)
