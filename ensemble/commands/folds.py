"""maskens folds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from ensemble.commands.terminal import make_console, note, progress_bars, say
from folds.errors import SHOWN, typed


def folds(
    k: Annotated[
        int | None, typer.Option("--k", help="Number of folds. The run remembers it; at first 5.", show_default=False)
    ] = None,
    folds_file: Annotated[
        Path | None,
        typer.Option("--folds-file", metavar="CSV", help="Your own folds (columns path, fold), checked like ours."),
    ] = None,
    fixes: FixesOption = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge",
            metavar="CSV",
            help="Ids that are one person (columns a, b); may be repeated. The run remembers them; none drops them.",
        ),
    ] = None,
    merge_duplicates: Annotated[
        bool,
        typer.Option("--merge-duplicates", help="Open every photo; ids with nearly the same photo become one person."),
    ] = False,
    check_photos: Annotated[
        bool,
        typer.Option("--check-photos", help="Open every photo: unreadable ones, near-duplicates across people."),
    ] = False,
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Split the people into folds, no person in two, every class in each.

    Example:  maskens folds --k 5 --check-photos
    Example:  maskens folds --merge same.csv
    """
    from ensemble.pipeline.split import make_folds
    from folds.corrections import describe_fixes, merged_people
    from folds.pages.tables import folds_table
    from folds.people import label_conflicts, repeated_ids

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        made = make_folds(
            data,
            run[0],
            k=k,
            seed=seed,
            folds_file=folds_file,
            fixes=fixes or (),
            merge=merge or (),
            merge_duplicates=merge_duplicates,
            check_photos=check_photos,
            workers=workers,
            on_progress=on_progress,
        )
    if made.near_duplicates is not None:
        say(console, f"all {len(made.data.files)} photos can be read")
        note(console, (f"nearly the same photo of two people: {pair}" for pair in made.near_duplicates), "warning")
    console.print(folds_table(made.data, made.folds, made.k))
    for i in repeated_ids(made.data.people):
        say(console, f"note: id {i} has more than one folder; they are one person and share a fold", "dim")
    merged = merged_people(made.data)
    if made.newly_merged:
        say(console, f"{made.newly_merged} pairs of photos are nearly the same: their ids are one person now")
    for ids in [*merged.values()][:SHOWN]:
        say(console, f"merged: ids {', '.join(ids)} are one person")
    if len(merged) > SHOWN:
        say(console, f"merged: ... and {len(merged) - SHOWN} more people, see {made.run.merged_file}")
    note(console, label_conflicts(made.data), "warning")
    if made.data.fixes:
        say(console, f"fixes: {describe_fixes(made.data)} from {', '.join(made.run.fixes.sources)}")
    if made.note:
        say(console, made.note)
    say(console, f"saved: {made.run.folds_file}")
    say(console, f"next: maskens train --run {typed(made.run.folder)} --fold 0..{made.k - 1}", "dim")
