"""maskens predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DeviceOption,
    MissingOption,
    NoTuningOption,
    QuietOption,
    RunsOption,
    SkipBadOption,
    TtaOption,
    WorkersOption,
)
from ensemble.commands.terminal import make_console, note, progress_bars, say

SHOWN_PHOTOS = 40  # rows of the table
SHOWN_WARNINGS = 5


def predict(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO|DIR...", help="Photos, or folders of them.")],
    tta: TtaOption = None,
    no_tuning: NoTuningOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep the result: a .csv or a .json file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    allow_missing: MissingOption = False,
    skip_bad_photos: SkipBadOption = False,
    run: RunsOption = DEFAULT_RUNS,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Classify any photos: mask, gender and age band with their probabilities, and whether the folds agree.

    A photo should show one face about as large as in training: the whole photo is resized, unless the recipe says
    crop = "face".

    Example:  maskens predict holiday/*.jpg --out holiday.csv
    Example:  maskens predict holiday --skip-bad-photos, which leaves out what can't be read
    """
    from ensemble.pipeline.predict import predict as predict_photos
    from ensemble.reporting.tables import predictions_table
    from folds.files import json_text
    from folds.people import named

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        done = predict_photos(
            photos,
            run,
            tta=tta,
            tuned=not no_tuning,
            out=out,
            allow_missing=allow_missing,
            skip_bad_photos=skip_bad_photos,
            device=device,
            workers=workers,
            on_progress=on_progress,
        )
    records = done.records
    if as_json:
        typer.echo(json_text(records), nl=False)
        console = make_console(quiet, stderr=True)
    else:
        console.print(predictions_table(records[:SHOWN_PHOTOS]))
        if len(records) > SHOWN_PHOTOS:
            rest = f"{len(records) - SHOWN_PHOTOS} more photos"
            say(console, f"... and {rest}{'' if out else ': --out FILE keeps them all'}")
        say(console, done.used)
    note(console, done.notes, "warning")
    if done.skipped:
        count = f"{len(done.skipped):,} of {len(done.skipped) + len(records):,} photos"
        note(console, [f"{count} can't be read and are left out: {named(done.skipped)}"], "warning")
    shown = done.distorted[:SHOWN_WARNINGS]
    note(console, (f"{f} has another shape than in training, so it is distorted" for f in shown), "warning")
    if len(done.distorted) > SHOWN_WARNINGS:
        note(console, [f"so have {len(done.distorted) - SHOWN_WARNINGS} more"], "warning")
    if done.earlier:
        say(console, f"the earlier file is kept as {done.earlier}")
    if out:
        say(console, f"saved: {out}")
