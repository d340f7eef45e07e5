"""maskens explore."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DataOption,
    FixesOption,
    QuietOption,
    RunOption,
    WorkersOption,
    seed_option,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.errors import typed

if TYPE_CHECKING:
    from folds.explore.exploration import Exploration


@dataclass(frozen=True)
class Options:
    """Which data are shown, how much of them, and where."""

    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the page goes; by default explore beside the run."),
    ] = None
    per_class: Annotated[
        int, typer.Option("--per-class", metavar="N", min=1, max=200, help="Photos on a class's contact sheet.")
    ] = 24
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", metavar="NAME|FILE", envvar="MASKENS_RECIPE", help="Recipe whose augmentation is shown."
        ),
    ] = "original"
    fixes: FixesOption = None
    run: RunOption = DEFAULT_RUNS
    data: DataOption = None
    seed: Annotated[
        int | None, seed_option("Seed of the photos and augmentations shown; by default that of the run, else 42.")
    ] = None
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Explored:
    """What was found, and the page that shows it."""

    exploration: Exploration
    folder: Path
    replaced: bool  # an earlier page


def _print(done: Explored, options: Options, terminal: Terminal) -> None:
    from folds.corrections import describe_fixes, merged_people
    from folds.explore.merge_candidates import FILE
    from folds.explore.page import class_table, group_table, summary_lines, warning_lines

    found, run = done.exploration, options.run[0]
    terminal.print(class_table(found), group_table(found))
    for line in summary_lines(found):
        terminal.say(line)
    for line in warning_lines(found):
        terminal.say(line, "yellow")
    if found.candidates:
        merged = f"--merge {typed(run / 'merged.csv')} " if merged_people(found.data) else ""
        terminal.say(
            f"next: look at them, copy the rows of {done.folder / FILE} that show one person to same.csv, then  "
            f"maskens folds --run {typed(run)} --data {typed(found.data.root)} {merged}--merge same.csv",
            "dim",
        )
    if found.data.fixes:
        terminal.say(f"shown with label fixes: {describe_fixes(found.data)}")
    if done.replaced:
        terminal.say(f"the earlier page in {done.folder} was replaced")
    terminal.say(f"saved: {done.folder / 'index.html'} and its pictures beside it")


@step(Options, show=_print, first="data")
def explore(options: Options, observer: Observer) -> Explored:
    """Look at the data before any training: counts, contact sheets, odd photos and labels, augmentation.

    Example:  maskens explore --per-class 12
    \f
    Raises:
        MaskensError: data that don't fit together, a recipe that can't be used, a folder that is not ours to replace.
    """
    import numpy as np

    from ensemble.recipes.recipe_file import load_recipe
    from folds.explore.exploration import a_few_each, examples, photos_of
    from folds.explore.exploration import explore as look
    from folds.explore.page import GENERATOR, OURS, write_exploration
    from folds.files import replacing_folder
    from folds.labels import MASKS
    from folds.pages.html import refuse_foreign_page
    from folds.run_folder import read_labelled

    _, data, seed = read_labelled(options.run[0], options.data, options.fixes or (), options.seed)
    folder = options.out or options.run[0].parent / "explore"
    refuse_foreign_page(folder, GENERATOR, OURS)

    from ensemble.reporting.sheets import augment_sheets, check_augmentation, face_sheets  # takes its time

    recipe, threads = load_recipe(options.recipe), options.workers or -1
    check_augmentation(recipe)
    replaced = folder.is_dir() and any(folder.iterdir())
    with replacing_folder(folder) as build, observer.progress() as on_progress:
        found = look(data, options.per_class, seed, threads, partial(on_progress, "opening photos"))
        chosen = examples(found)
        faces = face_sheets(recipe, photos_of(data, a_few_each(found)))
        without_mask = np.flatnonzero(data.labels[0][chosen] == MASKS.index("not wear")).tolist()
        sheets = augment_sheets(recipe, photos_of(data, chosen), seed, without_mask)
        write_exploration(build, found, sheets, faces, recipe.name, threads)
    return Explored(found, folder, replaced)
