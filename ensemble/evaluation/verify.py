"""Whether a run folder holds what its commands wrote: each part is recomputed and compared with its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ensemble.decision.eval_logits import read_logits
from ensemble.decision.joint import decide
from ensemble.decision.members import Only, load_ensembles
from ensemble.decision.submission import read_answers, skipped_file, skipped_text
from ensemble.decision.tuning import BLEND, TUNING, DecisionParams, made_of, read_tuning
from ensemble.jobs.card import read_card
from ensemble.jobs.job import STATUS, Job, job_names, jobs_of
from ensemble.jobs.oof import load_job_oof, oof_hash, people_halves
from ensemble.jobs.soft_targets import load_pseudo_labels, read_soft_targets
from ensemble.jobs.spec import JobSpec, identity
from ensemble.metrics.scores import half_epochs, task_scores
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import TaskRecipe
from ensemble.recipes.tasks import scored_mask, true_labels
from ensemble.recipes.views import IDENTITY
from folds.errors import MaskensError, first_line, typed
from folds.files import load_npz, sha256_of_arrays, sha256_of_text
from folds.labels import FloatArray, IntArray
from folds.people import TrainData, count_skipped, kept_skipped
from folds.ranges import FULL
from folds.run_folder import Run, read_run_data
from folds.splits import read_folds

F1_TOLERANCE = 1e-3  # batches of other photos move the last digits of logits, and a photo may lie on the edge
ENVIRONMENT = ("device", "threads", "precision", "compiled")  # keys of a job's record, besides versions
TRAINED_FROM = ("pseudo", "soft_targets", "skipped", "extra")  # keys of a job's identity that most jobs lack
Found = TypeVar("Found")


@dataclass(frozen=True)
class Check:
    """What is recorded of a file or value, and what was found."""

    kind: str  # the same for all jobs
    item: str  # the file or value
    expected: str
    found: str
    remedy: str  # what to do if they differ

    @property
    def ok(self) -> bool:
        return self.expected == self.found


@dataclass
class Verification:
    """The checks of a run."""

    run: Run
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what can't be compared, where the jobs' environments differ

    @property
    def wrong(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]

    def check(
        self,
        item: str,
        remedy: str,
        read: Callable[[], Found],
        expected: str = "intact",
        describe: Callable[[Found], str] = lambda value: "intact",
        kind: str = "",
    ) -> Found | None:
        """Read something and compare its description with what is recorded. Default: only check that it can be read.
        Returns what was read; None if it differs or can't be read."""
        value = None
        try:
            value = read()
            found = describe(value)
        except Exception as error:  # whatever a damaged file raises
            found = f"failed: {first_line(error)}"
        self.checks.append(Check(kind or item, item, expected, found, remedy))
        return value if found == expected else None

    def compare(
        self, item: str, remedy: str, expected: Mapping[str, Any], read: Callable[[], Mapping[str, Any]], kind: str
    ) -> None:
        """Compare entries with those recorded; the check lists those that differ."""
        recorded = ", ".join(f"{key} {value}" for key, value in expected.items())

        def describe(found: Mapping[str, Any]) -> str:
            return ", ".join(f"{k} {found.get(k)}" for k in expected if found.get(k) != expected[k]) or recorded

        self.check(item, remedy, read, recorded, describe, kind)


def verify(run: Run, data_folder: Path | None = None) -> Verification:
    """Recompute what a run records of its data, folds, recipe, jobs, tuning and submission. Nothing is written. The
    data are in `data_folder`, if they were moved."""
    found = Verification(run)
    data = _verify_data(found, data_folder)
    folds = read_folds(run.folds_file, data)[0] if data and not found.wrong else None
    if data and data.skipped:
        found.notes.append(count_skipped(data.skipped, len(data.files)))
    if not run.recipe_hash:
        found.notes.append("nothing is trained yet")
        return found
    kind, file, root = "training input", run.recipe_file, data_folder or run.recorded_data
    recipe = found.check(
        file.name,
        f"put {file} back as it was",
        lambda: parse_recipe(file.read_text(encoding="utf-8"), "recipe", where=str(file)),
        run.recipe_hash,
        lambda recipe: recipe.hash,
        kind,
    )
    pseudo = soft = None
    if run.pseudo_record.exists():
        item = run.pseudo_record.name
        pseudo = found.check(item, f"put {item} back", lambda: load_pseudo_labels(run, root), kind=kind)
    if run.soft_record.exists() or run.soft_file(0).parent.exists():
        item = f"{run.soft_record.name} and {run.soft_file(0).parent.name}/"
        soft = found.check(item, f"put {item} back", lambda: read_soft_targets(run), kind=kind)
    if recipe is None:
        found.notes.append("nothing else is verified: that needs the recipe as it was")
        return found
    if folds is None:
        found.notes.append("out-of-fold scores are not recomputed: that needs the run's data and folds")
    jobs = jobs_of(run, recipe.tasks)
    jobs += [job for job in jobs_of(run, recipe.tasks, [FULL]) if job.status_file.exists() or job.trained]
    if unfinished := [job for job in jobs if job.unfinished]:
        found.notes.append(f"not finished, and not verified: {job_names(unfinished)}")
    if any(check.kind == kind for check in found.wrong):
        found.notes.append("jobs are not verified: that needs what they were trained from")
    else:
        for job in (job for job in jobs if job not in unfinished):
            spec = JobSpec(run, recipe, job.task, job.fold, "", 0, 0, None, pseudo=pseudo, soft=soft)
            _verify_job(found, job, identity(spec))
            if data is not None and folds is not None and job.fold != FULL and job.status().state == "done":
                _verify_oof_score(found, job, recipe.tasks[job.task], data, folds)
    found.notes += _environments([job for job in jobs if job.status().state == "done"])
    _verify_tunings(found)
    _verify_submission(found)
    return found


def _environments(jobs: Sequence[Job]) -> list[str]:
    """Notes on finished jobs whose environments differ: only in the same environment a job gives the same bytes."""
    found: dict[str, dict[str, list[Job]]] = {}
    for job in jobs:
        record = job.status().record
        versions = record.get("versions")
        known = {key: record.get(key) for key in ENVIRONMENT} | (versions if isinstance(versions, dict) else {})
        for key, value in known.items():
            if value is not None:
                found.setdefault(key, {}).setdefault(str(value), []).append(job)
    return [
        f"{key} differs: " + "; ".join(f"{value} ({job_names(its)})" for value, its in values.items())
        for key, values in found.items()
        if len(values) > 1
    ]


def _verify_data(found: Verification, folder: Path | None) -> TrainData | None:
    """The files whose sha256 run.json has, and the data."""
    run, remedy = found.run, "put the file back, or start a new run: maskens folds --run NEW_DIR --data DIR"
    recorded = {run.folds_file: run.folds_hash, run.fixes_file: run.fixes_hash, run.merged_file: run.merged_hash}
    for file, expected in recorded.items():
        if expected or file.exists():
            found.check(file.name, remedy, partial(sha256_of_text, file), expected or "no such file", str)
    if run.skipped_hash or run.skipped_file.exists():
        found.check(run.skipped_file.name, remedy, partial(kept_skipped, run.skipped_file, run.skipped_hash))
    if run.extra:
        found.check("extra photos", remedy, lambda: read_run_data(run, folder).extra_hash, run.extra_hash, str)
    return found.check(
        f"data in {run.lists.photos or folder or run.recorded_data}",
        "put the data back, name their folder with --data DIR, or start a new run: maskens folds --run NEW_DIR",
        partial(read_run_data, run, folder),
        run.fingerprint,
        lambda data: data.fingerprint,
        "data",
    )


def _verify_job(found: Verification, job: Job, identity: dict[str, Any]) -> None:
    """A job's files against job.json, and these against run and recipe."""
    status, remedy, name = job.status(), job.restart_command, job.name
    card = {key: value for key, value in identity.items() if key not in TRAINED_FROM} | {"k": job.run.k}
    if status.state == "done":
        recorded = dict.fromkeys(TRAINED_FROM) | identity | {"fingerprint": job.run.fingerprint}
        found.compare(f"{name}/{STATUS}", remedy, recorded, lambda: status.record, STATUS)
        card["f1"] = status.best
        card |= {"epoch": status.epoch} if job.fold == FULL else {}
        current = job.checksums()
        for file in job.files:
            expected, there = status.checksums.get(file, "a checksum"), current.get(file, "missing")
            found.checks.append(Check(file, f"{name}/{file}", expected, there, remedy))
    else:
        found.checks.append(Check(STATUS, f"{name}/{STATUS}", "a finished job", "missing or damaged", remedy))
    found.compare(f"{name} card", remedy, card, lambda: vars(read_card(job.model)), "card")


def _verify_oof_score(found: Verification, job: Job, task: TaskRecipe, data: TrainData, folds: IntArray) -> None:
    """Macro F1 of the best and the last epoch from the logits of the photos as they are; `folds` is int64 (people,)."""
    run, held_out = job.run, folds == job.fold
    recorded = np.array([job.status().best, job.status().f1], dtype=np.float64)

    def scores() -> FloatArray:
        oof = load_job_oof(job.oof, {"task_hash": task.hash, "folds_hash": run.folds_hash, "fold": job.fold})
        place = {file: n for n, file in enumerate(data.files)}
        rows = np.array([place.get(str(file), -1) for file in oof.files])
        if not np.array_equal(
            np.sort(rows), np.flatnonzero(held_out[data.photo_person] & data.photos.readable & data.scored)
        ):
            raise MaskensError("other photos than those of its fold, each once")
        mine = scored_mask(task.output_spec, data)[rows]
        truth = true_labels(task.output_spec, data)[rows][mine]
        logits = oof.logits[:, oof.views.index(IDENTITY)][:, mine]
        half = people_halves(data.people, held_out, (run.seed, job.fold))[data.photo_person[rows]]
        last = len(logits) - 1
        chosen = half_epochs(task.output_spec, logits, truth, half[mine]) if task.checkpoint == "best" else (last, last)
        if (half != oof.half).any() or chosen != oof.half_epochs:
            raise MaskensError("the epochs of the halves of its people are not the best ones")
        return np.array([task_scores(task.output_spec, logits[epoch], truth)[0] for epoch in (oof.best_epoch, -1)])

    def describe(values: FloatArray) -> str:
        near = np.allclose(values, recorded, rtol=0, atol=F1_TOLERANCE, equal_nan=True)
        best, last = recorded if near else values
        return f"best {best:.4f}, last {last:.4f}"

    item = f"{job.name} out-of-fold F1"
    found.check(item, job.restart_command, scores, describe(recorded), describe, "out-of-fold F1")


def _verify_tunings(found: Verification) -> None:
    """Whether tunings were fitted on the current out-of-fold files, and their .oof.npz is theirs."""
    run = found.run
    try:
        now = oof_hash(run)
    except MaskensError:  # the check of that job has the reason
        now = "damaged files"
    for path in sorted([*run.folder.glob(TUNING), *run.folder.glob(BLEND.format("*"))]):
        remedy = f"maskens tune --run {typed(run.folder)}" if path.name == TUNING else "tune the blended runs again"
        tuning = found.check(path.name, remedy, partial(read_tuning, path), kind="tuning")
        for fitted in tuning.fitted.runs if tuning else ():
            if fitted.made_of == made_of(run):
                item = f"{path.name}: out-of-fold files"
                found.checks.append(Check("tuning", item, fitted.oof_hash, now, remedy))
        beside = path.with_suffix(".oof.npz")
        item, expected = f"{beside.name}: of {path.name}", sha256_of_text(path)
        found.check(item, remedy, partial(load_npz, beside), expected, lambda arrays: str(arrays["of"]), "tuning")


def _verify_submission(found: Verification) -> None:
    """Whether submission.csv has the classes that were decided, and these follow from the logits."""
    run = found.run
    if not (run.submission_file.exists() and run.eval_file.exists()):
        return
    name, remedy = run.eval_file.name, f"maskens infer --run {typed(run.folder)}"
    read = found.check(f"{name}: readable", remedy, lambda: read_logits(run.eval_file))
    if read is None:
        return
    ids, classes, record = read.ids, read.classes, read.record
    written = str(record.get("sha256"))  # a logit that became NaN would be taken for one that no model gave
    found.check(f"{name}: its arrays", remedy, lambda: sha256_of_arrays(read.arrays), written, str)
    expected = f"0 of {len(classes)} classes differ"

    def differing(other: IntArray) -> str:
        return f"{(other != classes).sum() if other.shape == classes.shape else 'all'} of {len(classes)} classes differ"

    def submitted() -> IntArray:
        answered, answers = read_answers(run.submission_file)
        return answers if answered == ids else answers[:0]

    def recomputed() -> IntArray:
        fitted = DecisionParams.model_validate(record["fitted"])
        used = {fold for its in record["folds"].values() for fold in its}
        only: Only | None = "folds" if FULL not in used else "full" if used == {FULL} else None
        (ensemble,) = load_ensembles([run], fitted, allow_missing=True, only=only)
        models = {task: ensemble.folds(task) for task in ensemble.output_specs}
        if models != record["folds"]:
            raise MaskensError(f"predicted by models of folds {record['folds']}, there are {models}")
        joint = ensemble.joint({task: read.logits(task) for task in models})
        return decide(joint[None], fitted.weights, fitted.offsets, record["rule"]).classes

    found.check(f"{run.submission_file.name}: as in {name}", remedy, submitted, expected, differing)
    if record["rule"]:
        found.check(f"{name}: classes from logits", remedy, recomputed, expected, differing)
    else:
        found.notes.append(f"{run.submission_file.name} is not recomputed: votes or a person's photos decided it too")
    listed = skipped_file(run.submission_file)
    if record["skipped"] or listed.exists():
        found.check(
            f"{listed.name}: as in {name}",
            remedy,
            lambda: skipped_text(record["skipped"], ids, classes) == listed.read_text(encoding="utf-8"),
            "the same rows",
            lambda same: "the same rows" if same else "other rows",
        )
