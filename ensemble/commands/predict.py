"""maskens predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal, make_console
from folds.errors import MaskensError

if TYPE_CHECKING:
    from ensemble.decision.members import Ensemble
    from ensemble.decision.tuning import DecisionParams
    from ensemble.recipes.views import Tta

SHOWN_PHOTOS = 40  # rows of the table
SHOWN_WARNINGS = 5


@dataclass(frozen=True)
class Options:
    """Which photos, the models that predict them, and where the result goes."""

    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO|DIR...", help="Photos, or folders of them.")]
    run: RunsOption = DEFAULT_RUNS
    tta: TtaOption = None
    no_tuning: NoTuningOption = False
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep the result: a .csv or a .json file.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False
    allow_missing: MissingOption = False
    skip_bad_photos: SkipBadOption = False
    device: DeviceOption = "auto"
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Predicted:
    """What the ensemble says of each photo."""

    records: list[dict[str, Any]]  # one a photo: class, parts, their probabilities, how many folds agree
    distorted: tuple[str, ...]  # photos of another shape than in training
    used: str  # models, views and tuning in words
    earlier: Path | None  # where an earlier result is kept
    notes: tuple[str, ...]  # other files in the folders, and what the user should know of the models
    skipped: Mapping[str, str]  # photo -> why it can't be read; it has no record


def _print(done: Predicted, options: Options, terminal: Terminal) -> None:
    from ensemble.reporting.tables import predictions_table
    from folds.files import json_text
    from folds.people import describe_skipped

    records, out = done.records, options.out
    if options.json:
        typer.echo(json_text(records), nl=False)
        terminal.console = make_console(options.quiet, stderr=True)
    else:
        terminal.print(predictions_table(records[:SHOWN_PHOTOS]))
        if len(records) > SHOWN_PHOTOS:
            rest = f"{len(records) - SHOWN_PHOTOS} more photos"
            terminal.say(f"... and {rest}{'' if out else ': --out FILE keeps them all'}")
        terminal.say(done.used)
    terminal.note(done.notes, "warning")
    if done.skipped:
        count = f"{len(done.skipped):,} of {len(done.skipped) + len(records):,} photos"
        terminal.note([f"{count} can't be read and are left out: {describe_skipped(done.skipped)}"], "warning")
    shown = done.distorted[:SHOWN_WARNINGS]
    terminal.note((f"{f} has another shape than in training, so it is distorted" for f in shown), "warning")
    if len(done.distorted) > SHOWN_WARNINGS:
        terminal.note([f"so have {len(done.distorted) - SHOWN_WARNINGS} more"], "warning")
    if done.earlier:
        terminal.say(f"the earlier file is kept as {done.earlier}")
    if out:
        terminal.say(f"saved: {out}")


@step(Options, show=_print)
def predict(options: Options, observer: Observer) -> Predicted:
    """Classify any photos: mask, gender and age band with their probabilities, and whether the folds agree.

    A photo should show one face about as large as in training: the whole photo is resized, unless the recipe says
    crop = "face".

    Example:  maskens predict holiday/*.jpg --out holiday.csv
    Example:  maskens predict holiday --skip-bad-photos, which leaves out what can't be read
    \f
    Raises:
        MaskensError: photos that can't be read, models missing, runs of other folds.
    """
    from ensemble.jobs.hardware import Hardware, choose_device
    from ensemble.prediction.predictions import predict_files
    from folds.files import must_be_writable
    from folds.photo_files import find_photos

    found, others = find_photos(options.photos)
    if options.out and options.out.suffix not in (".csv", ".json"):
        raise MaskensError(f"--out {options.out}: name a .csv or a .json file.")
    if options.out:
        must_be_writable(options.out)
    hardware = Hardware(choose_device(options.device), options.workers)
    chosen = choose_ensembles(options.run, options.tta, not options.no_tuning, options.allow_missing)
    with observer.progress() as tell:
        predicted, records = predict_files(
            chosen.ensembles,
            chosen.fitted,
            found,
            hardware,
            chosen.aspect,
            options.skip_bad_photos,
            partial(tell, "predicting"),
        )
    distorted = tuple(r["photo"] for r in records if r["distorted"])
    earlier = _kept(options.out, records) if options.out else None
    used = f"{len(records)} photos, {chosen.words}"
    return Predicted(records, distorted, used, earlier, (*others, *chosen.notes), predicted.skipped)


def _kept(path: Path, records: Sequence[dict[str, Any]]) -> Path | None:
    from folds.files import json_text, replace_keeping, safe_csv

    if path.suffix == ".json":
        return replace_keeping(path, json_text(records))
    return replace_keeping(path, safe_csv(list(records[0]), [list(r.values()) for r in records]))


@dataclass(frozen=True)
class ChosenEnsembles:
    """Which models predict photos from anywhere, and how."""

    ensembles: list[Ensemble]
    fitted: DecisionParams  # for these ensembles, in their order
    aspect: float  # height / width of the photos that the models were trained on
    tuning: str  # in words

    @property
    def models(self) -> int:
        return sum(len(e.members) for e in self.ensembles)

    @property
    def words(self) -> str:
        """Models, views and tuning."""
        return f"{self.models} models, views: {self.fitted.tta}, {self.tuning}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the models."""
        return tuple(line for e in self.ensembles for line in e.notes)


def choose_ensembles(folders: Sequence[Path], tta: Tta | None, tuned: bool, allow_missing: bool) -> ChosenEnsembles:
    """The models of runs that are one ensemble; runs that were tuned to no weight are left out.

    Args:
        tta, tuned: as of `apply_tuning`.
        allow_missing: as of `load_ensembles`.

    Raises:
        MaskensError: models missing or damaged, no fold with a model of every task, runs of other folds.
    """
    from ensemble.decision.members import load_ensembles
    from ensemble.decision.tuning import apply_tuning, weighted_runs
    from ensemble.prediction.predictions import complete_folds
    from ensemble.recipes.recipe_file import run_recipe
    from folds.photo_files import training_aspect
    from folds.run_folder import load_run, refuse_other_folds

    runs = [load_run(folder) for folder in folders]
    refuse_other_folds(runs)
    recipes = [run_recipe(run) for run in runs]
    applied = apply_tuning(runs, recipes, tta, tuned)
    used, recipes, fitted = weighted_runs(runs, recipes, applied.fitted)
    ensembles = load_ensembles(used, recipes, fitted, allow_missing)
    complete_folds(ensembles)
    height, width = ensembles[0].members[0].card.resize
    return ChosenEnsembles(ensembles, fitted, training_aspect(used[0]) or height / width, applied.words)
