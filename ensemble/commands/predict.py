"""maskens predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from ensemble.backends.choose import choose_hardware
from ensemble.commands.options import PredictOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.decision.members import choose_ensembles
from ensemble.models.engine import engine_options
from folds.errors import MaskensError
from folds.files import json_text, must_be_writable, replace_keeping, safe_csv
from folds.people import describe_skipped
from folds.run_folder import load_run

SHOWN_PHOTOS = 40  # rows of the table


@dataclass(frozen=True)
class Predicted:
    """What the ensemble predicts of each photo."""

    records: list[dict[str, Any]]  # one a photo: class, parts, their probabilities, how many folds agree
    used: str  # describes models, views and tuning
    earlier: Path | None  # where an earlier result is kept
    notes: tuple[str, ...]  # other files in the folders, and what the user should know of the models
    skipped: Mapping[str, str]  # photo -> why it can't be read; it has no record
    engine: tuple[str, ...]  # by which the models predicted, where it is not as usual


def _print(done: Predicted, options: PredictOptions, terminal: Terminal) -> None:
    from ensemble.reporting.tables import predictions_table

    records, out = done.records, options.out
    if options.json:
        typer.echo(json_text(records), nl=False)
    else:
        terminal.print(predictions_table(records[:SHOWN_PHOTOS]))
        if len(records) > SHOWN_PHOTOS:
            rest = f"{len(records) - SHOWN_PHOTOS} more photos"
            terminal.say(f"... and {rest}{'' if out else ': --out FILE keeps them all'}")
        terminal.say(done.used)
    terminal.lines(done.engine)
    warnings = [*done.notes]
    if done.skipped:
        count = f"{len(done.skipped):,} of {len(done.skipped) + len(records):,} photos"
        warnings.append(f"{count} can't be read and are skipped: {describe_skipped(done.skipped)}")
    if distorted := [str(record["photo"]) for record in records if record["distorted"]]:
        more = f" and {len(distorted) - 1} more photos" if len(distorted) > 1 else ""
        warnings.append(f"{distorted[0]}{more}: another shape than in training, so resizing distorts it")
    terminal.note(warnings, "warning")
    if out:
        terminal.saved(out, done.earlier)


@step(PredictOptions, show=_print, first="photos")
def predict(options: PredictOptions, observer: Observer) -> Predicted:
    """
    Raises:
        MaskensError: photos that can't be read, models missing, runs of other folds.
    """
    from folds.photo_files import find_photos  # imports OpenCV

    photos, others = find_photos(options.photos)
    out = options.out
    if out and out.suffix not in (".csv", ".json"):
        raise MaskensError(f"--out {out}: name a .csv or a .json file.")
    if out:
        must_be_writable(out)
    runs = [load_run(folder) for folder in options.run]
    chosen = choose_ensembles(runs, options.tta, not options.no_tuning, options.allow_missing, options.only)

    from ensemble.prediction.photo_classifier import predict_files

    hardware = choose_hardware(options.device, options.workers)
    engine = engine_options(options.engine, device=hardware.device, graphs=not options.no_graphs)
    with observer.progress() as on_progress:
        skip, predicting = options.skip_bad_photos, partial(on_progress, "predicting")
        records, skipped, notes = predict_files(
            chosen.ensembles, chosen.fitted, photos, hardware, chosen.aspect, skip, predicting, engine
        )
    earlier = None
    if out:
        as_json = out.suffix == ".json"
        text = json_text(records) if as_json else safe_csv(list(records[0]), [list(r.values()) for r in records])
        earlier = replace_keeping(out, text)
    counted = f"{len(records):,} photo{'s' if len(records) > 1 else ''}"
    used = f"{counted}, {chosen.description}"
    return Predicted(records, used, earlier, (*others, *chosen.notes), skipped, tuple(notes))
