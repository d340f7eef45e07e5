"""maskens audit."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    CheckpointOption,
    DataOption,
    QuietOption,
    RunOption,
    ViewsOption,
    WorkersOption,
)
from ensemble.commands.terminal import make_console, progress_bars, say
from folds.errors import typed


class FieldChoice(StrEnum):
    gender = "gender"
    age = "age"
    mask = "mask"


def audit(
    tta: ViewsOption = "flip",
    checkpoint: CheckpointOption = "cross-fitted",
    field: Annotated[
        list[FieldChoice] | None, typer.Option("--field", help="Only these labels; may be repeated.")
    ] = None,
    top: Annotated[
        int, typer.Option("--top", metavar="N", min=1, max=200, help="Suspects on a field's contact sheet.")
    ] = 24,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where lists, sheets and page go; by default audit in the run."),
    ] = None,
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Likely label errors, ranked: what models that never saw the person say against the labels. A list to look at.

    Example:  maskens audit --field gender --top 48
    """
    from ensemble.pipeline.audit import audit as audit_run
    from ensemble.reporting.audit_page import SUSPECTS
    from ensemble.reporting.tables import suspects_table
    from folds.explore.merge_candidates import FILE
    from folds.pages.html import INDEX

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        done = audit_run(
            run[0],
            data=data,
            tta=tta,
            checkpoint=checkpoint,
            fields=[f.value for f in field or []],
            top=top,
            out=out,
            workers=workers,
            on_progress=on_progress,
        )
    found, folder = done.audit, done.folder
    if done.note:
        say(console, done.note, "yellow")
    earlier = f"--fixes {typed(done.run.fixes_file)} " if found.data.fixes else ""
    merged = f"--merge {typed(done.run.merged_file)} " if done.run.merged_hash else ""
    if done.candidates:
        pairs = f"{len(done.candidates)} pairs of ids" if len(done.candidates) > 1 else "a pair of ids"
        say(console, f"warning: {pairs} may be one person: nearly the same photo, see {folder / FILE}", "yellow")
        say(
            console,
            "next: look at them, copy the rows that show one person to same.csv, then  "
            f"maskens folds --run NEW --data {typed(found.data.root)} {earlier}{merged}--merge same.csv",
            "dim",
        )
    views = f"{checkpoint} epochs, views: {tta}"
    if not found.suspects:
        say(console, f"no suspects: no label of {len(found.people)} people is unlikely ({views})", "bold")
        say(console, f"saved: {folder / INDEX}, lists and contact sheets beside it")
        return
    console.print(suspects_table(found))
    counts = ", ".join(f"{n} {name}" for name, n in found.counts.items())
    say(console, f"{len(found.suspects)} suspects ({counts}) among {len(found.people)} people ({views})", "bold")
    say(console, f"saved: {folder / INDEX}, lists and contact sheets beside it")
    say(
        console,
        f"next: look at them, copy the rows of {folder / SUSPECTS} that you believe to mine.csv, then  "
        f"maskens folds --run NEW --data {typed(found.data.root)} --folds-file {typed(done.run.folds_file)} {merged}"
        f"{earlier}--fixes mine.csv",
        "dim",
    )
