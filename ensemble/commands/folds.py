"""maskens folds."""

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
    SeedOption,
    WorkersOption,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.errors import SHOWN, refuse, typed

if TYPE_CHECKING:
    from folds.labels import IntArray
    from folds.people import TrainData
    from folds.run_folder import Run


@dataclass(frozen=True)
class Options:
    """How many folds or which, of which data, with which corrections."""

    k: Annotated[
        int | None, typer.Option("--k", help="Number of folds. The run remembers it; at first 5.", show_default=False)
    ] = None
    folds_file: Annotated[
        Path | None,
        typer.Option("--folds-file", metavar="CSV", help="Your own folds (columns path, fold), checked like ours."),
    ] = None
    fixes: FixesOption = None
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge",
            metavar="CSV",
            help="Ids that are one person (columns a, b); may be repeated. The run remembers them; none drops them.",
        ),
    ] = None
    merge_duplicates: Annotated[
        bool,
        typer.Option("--merge-duplicates", help="Open every photo; ids with nearly the same photo become one person."),
    ] = False
    check_photos: Annotated[
        bool,
        typer.Option("--check-photos", help="Open every photo: unreadable ones, near-duplicates across people."),
    ] = False
    run: RunOption = DEFAULT_RUNS
    data: DataOption = None
    seed: SeedOption = None
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Folds:
    """A run and the folds it begins with."""

    run: Run
    data: TrainData
    folds: IntArray  # (people,), 0..k-1
    k: int
    note: str  # what happened to folds that were there before, "" if there were none
    near_duplicates: tuple[str, ...] | None  # pairs of photos of two people, in words; None if nobody looked
    newly_merged: int  # pairs of photos by which ids were found to be one person


def _print(made: Folds, options: Options, terminal: Terminal) -> None:
    from folds.corrections import merged_people
    from folds.pages.tables import folds_table
    from folds.people import label_conflicts, repeated_ids

    if made.near_duplicates is not None:
        terminal.say(f"all {len(made.data.files)} photos can be read")
        terminal.note((f"nearly the same photo of two people: {pair}" for pair in made.near_duplicates), "warning")
    terminal.print(folds_table(made.data, made.folds, made.k))
    for i in repeated_ids(made.data.people):
        terminal.say(f"note: id {i} has more than one folder; they are one person and share a fold", "dim")
    merged = merged_people(made.data)
    if made.newly_merged:
        terminal.say(f"{made.newly_merged} pairs of photos are nearly the same: their ids are one person now")
    for ids in [*merged.values()][:SHOWN]:
        terminal.say(f"merged: ids {', '.join(ids)} are one person")
    if len(merged) > SHOWN:
        terminal.say(f"merged: ... and {len(merged) - SHOWN} more people, see {made.run.merged_file}")
    terminal.note(label_conflicts(made.data), "warning")
    if made.data.fixes:
        terminal.say(f"fixes: {made.run.fixes}")
    if made.note:
        terminal.say(made.note)
    terminal.say(f"saved: {made.run.folds_file}")
    terminal.say(f"next: maskens train --run {typed(made.run.folder)} --fold 0..{made.k - 1}", "dim")


@step(Options, show=_print, first="data")
def folds(options: Options, observer: Observer) -> Folds:
    """Split the people into folds, no person in two, every class in each.

    Example:  maskens folds --k 5 --check-photos
    Example:  maskens folds --merge same.csv
    \f
    Raises:
        MaskensError: data that don't fit together, folds that leak or lack a class, a run with models of other folds.
    """
    from folds.corrections import apply_merges
    from folds.run_folder import read_labelled, refuse_foreign, start_run

    folder = options.run[0]
    refuse_foreign(folder)
    merge = [str(file) for file in options.merge or ()]
    before, data, seed = read_labelled(folder, options.data, options.fixes or (), options.seed, merge)
    assigned, k = _split(data, before, seed, options)  # refused, if it is, before a photo is opened
    pairs, newly_merged = None, 0
    if options.check_photos or options.merge_duplicates:
        from folds.explore.duplicates import describe, same_people

        duplicates = _near_duplicates(data, options.workers, observer)
        if options.merge_duplicates and duplicates:
            data, newly_merged = apply_merges(data, same_people(data, duplicates)), len(duplicates)
            duplicates = ()
            assigned, k = _split(data, before, seed, options)
        pairs = tuple(describe(duplicates, data.root))
    run, note = start_run(folder, data, assigned, k, seed)
    return Folds(run, data, assigned, k, note, pairs, newly_merged)


def _split(data: TrainData, before: Run | None, seed: int, options: Options) -> tuple[IntArray, int]:
    """(folds, k): the user's own, else the run's if they are asked for again, else new ones."""
    from folds.run_folder import kept_folds
    from folds.splits import make_folds, read_folds

    if options.folds_file:
        return read_folds(options.folds_file, data)
    k = options.k if options.k is not None else before.k if before else 5
    kept = kept_folds(before, data) if before and (k, seed) == (before.k, before.seed) else None
    return (make_folds(data, k, seed) if kept is None else kept), k


def _near_duplicates(data: TrainData, workers: int | None, observer: Observer) -> tuple[tuple[str, str, int], ...]:
    from folds.explore.duplicates import check_photos

    with observer.progress() as on_progress:
        found = check_photos(data, workers or -1, partial(on_progress, "opening photos"))
    refuse(
        found.unreadable,
        f"photos in {data.root} can't be used",
        "Replace them, or leave them out: make the folds without --check-photos, then maskens train --skip-bad-photos",
    )
    return found.duplicates
