"""maskens explore."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ensemble.commands.options import ExploreOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.recipes.recipe_file import load_recipe
from folds.corrections import describe_fixes, merged_people
from folds.errors import typed
from folds.explore import exploration, page
from folds.explore.duplicates import FILE
from folds.files import replacing_folder
from folds.labels import MASKS
from folds.pages.html import refuse_foreign_page
from folds.run_folder import read_labelled


@dataclass(frozen=True)
class Explored:
    """What was found, and the page that shows it."""

    exploration: exploration.Exploration
    folder: Path
    replaced: bool  # an earlier page


def _print(done: Explored, options: ExploreOptions, terminal: Terminal) -> None:
    found, run = done.exploration, options.run[0]
    terminal.print(*page.summary_tables(found))
    terminal.lines(page.summary_lines(found))
    terminal.note(page.warnings(found), "warning")
    if found.candidates:
        merged = f"--merge {typed(run / 'merged.csv')} " if merged_people(found.data) else ""
        terminal.next(
            f"copy the rows of {done.folder / FILE} that show one person to same.csv, then  "
            f"maskens folds --run {typed(run)} --data {typed(found.data.root)} {merged}--merge same.csv"
        )
    if found.data.fixes:
        terminal.say(f"shown with label fixes: {describe_fixes(found.data)}")
    if done.replaced:
        terminal.say(f"the earlier page in {done.folder} was replaced")
    terminal.say(f"saved: {done.folder / 'index.html'} and its pictures beside it")


@step(ExploreOptions, show=_print, first="data")
def explore(options: ExploreOptions, observer: Observer) -> Explored:
    """
    Raises:
        MaskensError: data that don't fit together, a recipe that can't be used, a folder that is not ours to replace.
    """
    _, data, seed = read_labelled(options.run[0], options.data, options.fixes or (), options.seed)
    data = dataclasses.replace(data, people=data.own)
    folder = options.out or options.run[0].parent / "explore"
    refuse_foreign_page(folder, page.GENERATOR, page.OURS)

    from ensemble.reporting.sheets import augment_sheets, check_augmentation, face_sheets  # imports torch

    recipe, threads = load_recipe(options.recipe), options.workers or -1
    check_augmentation(recipe)
    replaced = folder.is_dir() and any(folder.iterdir())
    with replacing_folder(folder) as build, observer.progress() as on_progress:
        found = exploration.explore(data, options.per_class, seed, threads, partial(on_progress, "opening photos"))
        chosen = exploration.examples(found)
        two_each = [i for drawn in found.drawn for i in [d for d in drawn if d in found.photos][:2]]
        faces = face_sheets(recipe, exploration.photos_of(data, two_each))
        without_mask = np.flatnonzero(data.labels[0][chosen] == MASKS.index("not wear")).tolist()
        sheets = augment_sheets(recipe, exploration.photos_of(data, chosen), seed, without_mask)
        page.write_exploration(build, found, sheets, faces, recipe.name, threads)
    return Explored(found, folder, replaced)
