"""maskens infer. What imports OpenCV or torch is imported once the runs, their models and the photos are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ensemble.backends.choose import choose_hardware
from ensemble.commands.options import InferOptions, cache_folder
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal, run_options
from ensemble.decision.early_exit import Budget, choose_budget
from ensemble.decision.eval_logits import read_logits, save_logits
from ensemble.decision.joint import Rule, decide
from ensemble.decision.members import ChosenEnsembles, choose_ensembles, preprocessings
from ensemble.decision.submission import (
    SubmissionCheck,
    align,
    class_mix,
    read_answers,
    read_people,
    skipped_file,
    skipped_text,
    skipped_warning,
    write_submission,
)
from ensemble.decision.tuning import DecisionParams
from folds.errors import MaskensError
from folds.files import must_be_writable, write_or_set_aside
from folds.labels import IntArray
from folds.layout import EVAL, read_eval
from folds.people import EvalData
from folds.run_folder import Run, file_of, load_run

if TYPE_CHECKING:
    from ensemble.prediction.inference import InferenceSettings


@dataclass(frozen=True)
class InferenceEstimate:
    """What `dry_run` finds."""

    seconds: float
    disk: int  # bytes by which the photo cache grows


@dataclass(frozen=True)
class Inferred:
    """A submission and how it came about."""

    classes: IntArray  # (photos,), 0..17, in the order of info.csv
    check: SubmissionCheck
    path: Path
    earlier: Path | None  # where an earlier CSV is kept
    notes: tuple[str, ...]  # on the models and the inference
    skipped: Mapping[str, str]  # ImageID -> why, of photos that could not be read
    warnings: tuple[str, ...]


def _print(done: Inferred | InferenceEstimate, options: InferOptions, terminal: Terminal) -> None:
    from ensemble.reporting.tables import submission_table, time_text

    if isinstance(done, InferenceEstimate):
        found = f"about {time_text(done.seconds)}; photo cache {done.disk / 1e9:.2f} GB more. Nothing was written."
        terminal.say(found, "bold")
        return
    terminal.lines(done.notes)
    terminal.print(submission_table(done.check))
    terminal.note(done.warnings, "warning")
    terminal.saved(done.path, done.earlier)
    terminal.next(f"maskens score{run_options(options.run)}")


def is_current(run: Run, data: EvalData, chosen: ChosenEnsembles) -> bool:
    """Whether a run's submission is what `infer` would write: decided jointly, by these models, with these views and
    this tuning, for these photos. A missing or damaged one is not."""
    (ensemble,) = chosen.ensembles
    try:
        read = read_logits(run.eval_file)
        record, ids, classes = read.record, read.ids, read.classes
        fitted, (answered, answers) = DecisionParams.model_validate(record["fitted"]), read_answers(run.submission_file)
    except Exception:  # whatever a damaged file raises
        return False
    models = {task: ensemble.folds(task) for task in ensemble.output_specs}
    moved = {"runs": {"__all__": {"run"}}}  # the runs' folders may have been moved
    return (
        (record["fingerprint"], record["rule"], record["folds"]) == (data.photos.fingerprint, "joint", models)
        and fitted.model_dump(exclude=moved) == chosen.fitted.model_dump(exclude=moved)
        and answered == ids
        and np.array_equal(answers, classes)
    )


def _to_predict(run: Run, options: InferOptions) -> tuple[EvalData, Path, tuple[str, ...]]:
    """(the photos to predict, the table that lists them, notes)."""
    if not options.photos:
        root = run.data_folder(options.data)
        if run.photos and not options.data and not (root / EVAL).exists():
            raise MaskensError(
                f"{run.folder} has no photos to predict. Name them with --photos DIR --out FILE, or the data folder "
                "that holds eval/info.csv with --data DIR."
            )
        return read_eval(root, options.skip_bad_photos), root / "eval" / "info.csv", ()
    from folds.photo_files import read_to_predict  # imports OpenCV

    if options.person_column and options.photos.is_dir():
        raise MaskensError(f"--person-column needs a table: --photos {options.photos} is a folder, name a CSV.")
    data, notes = read_to_predict(options.photos, options.skip_bad_photos)
    return data, options.photos, notes


def _rule(options: InferOptions) -> Rule:
    """How classes are decided. Raises MaskensError: options that exclude or need one another."""
    if options.vote and options.decision not in (None, "vote"):
        raise MaskensError(f"--vote and --decision {options.decision} exclude each other.")
    rule: Rule = "vote" if options.vote else options.decision or "joint"
    if options.person_column and rule != "joint":
        raise MaskensError("--person-column needs --decision joint, which decides a person's photos together.")
    if options.photos and not options.out:
        raise MaskensError(f"--photos {options.photos}: name the CSV to write with --out FILE.")
    return rule


def _settings(
    options: InferOptions, chosen: ChosenEnsembles, rule: Rule, people: bool, budget: Budget | None, logits_file: Path
) -> InferenceSettings:
    """How the models predict; `people` is whether gender and age are decided per person. Raises MaskensError: hardware,
    an engine or a budget that can't be used."""
    from ensemble.models.engine import engine_options
    from ensemble.prediction.inference import InferenceSettings
    from ensemble.prediction.strategies import check_budget

    hardware = choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)
    if budget:
        if hardware.several_processes:
            raise MaskensError(f"{budget.option} needs a single process: drop --jobs and --backend.")
        check_budget(budget, chosen.ensembles, rule, people)
    early_exit = (budget or not options.no_early_exit) and rule == "joint" and not people
    graphs = not options.no_graphs
    return InferenceSettings(
        hardware=hardware,
        cache=cache_folder(options.cache, options.run[0]),
        engine=engine_options(options.engine, options.precision, options.compile, hardware.device, graphs),
        early_exit=chosen.fitted if early_exit else None,
        budget=budget,
        partial=logits_file.with_suffix(".partial.npz"),
        shards=logits_file.with_suffix(".shards"),
        retries=options.retries,
    )


@step(InferOptions, show=_print, first="run")
def infer(options: InferOptions, observer: Observer) -> Inferred | InferenceEstimate:
    """
    After an interruption, the same call resumes.

    Returns:
        The submission; with `dry_run` an estimate.

    Raises:
        MaskensError: models missing or damaged, runs of other folds, votes of other photos, a photo that can't be read,
            a model whose logits are not finite, a file that can't be written, a full disk.
    """
    rule, column = _rule(options), options.person_column
    budget = choose_budget(options.max_passes, options.max_seconds_per_photo)
    runs = [load_run(run) for run in options.run]
    data, table, notes = _to_predict(runs[0], options)
    person = read_people(table, column) if column else None
    path = options.out or file_of(runs, lambda run: run.submission_file)
    logits_file = path.with_suffix(".logits.npz") if options.out else file_of(runs, lambda run: run.eval_file)
    for file in (path, logits_file):
        must_be_writable(file)
    votes = tuple(align(file, data.ids, exact=True) for file in options.vote or [])
    weighted = rule != "vote"
    tuned = not options.no_tuning
    chosen = choose_ensembles(runs, options.tta, tuned, options.allow_missing, options.only, weighted)
    ensembles, fitted = chosen.ensembles, chosen.fitted

    from ensemble.data.cache import skip_unreadable
    from ensemble.prediction.inference import estimate_inference
    from ensemble.prediction.inference import infer as predict_eval

    settings = _settings(options, chosen, rule, person is not None, budget, logits_file)
    tuning = chosen.tuning.description + (", offsets unused" if rule == "hard" and any(fitted.offsets) else "")
    if person is not None:
        people = len(np.unique(person))
        tuning += f", one gender and age for each of {people} people ({column}), no early exit"
    observer.say(f"{chosen.counted}, {len(data.ids)} photos, views: {fitted.tta}, {tuning}")
    with observer.progress() as on_progress:
        if options.skip_bad_photos:
            wanted = preprocessings(ensembles)
            opening = partial(on_progress, "opening photos" if options.dry_run else "decoding")
            threads, write = settings.hardware.decoding_threads, not options.dry_run
            found = skip_unreadable(data.photos, wanted, settings.cache, threads, opening, write)
            data = dataclasses.replace(data, photos=found)
        if options.dry_run:
            return InferenceEstimate(*estimate_inference(ensembles, data.photos, settings))
        prediction = predict_eval(
            ensembles, data.photos, settings, partial(on_progress, "decoding"), partial(on_progress, "predicting")
        )
    logits = prediction.by_run(ensembles, len(data.ids))
    log_probs = np.stack([ensemble.joint(found) for ensemble, found in zip(ensembles, logits, strict=True)])
    readable = data.photos.readable
    decided = decide(log_probs, fitted.weights, fitted.offsets, rule, votes, person, readable)
    reproducible = rule if person is None and not votes else None
    save_logits(logits_file, data, ensembles, logits, fitted, decided.classes, reproducible)
    earlier = write_submission(path, data.ids, decided.classes)
    write_or_set_aside(skipped_file(path), skipped_text(data.skipped_ids, data.ids, decided.classes))
    check = class_mix(decided.classes, runs[0].class_photos)
    unseen = skipped_warning(path, data.skipped_ids, len(data.ids))
    return Inferred(
        classes=decided.classes,
        check=check,
        path=path,
        earlier=earlier,
        notes=(*notes, *chosen.notes, *prediction.notes),
        skipped=data.skipped_ids,
        warnings=(*filter(None, [unseen]), *check.warnings),
    )
