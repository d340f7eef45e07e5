"""Whether a run folder holds what its commands wrote: each part is recomputed and compared with its record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.decide import decide
from ensemble.decision.members import Ensemble, load_ensembles
from ensemble.decision.submission import read_answers, skipped_file, skipped_text
from ensemble.decision.tuning import BLEND, TUNING, DecisionParams, made_of, read_tuning
from ensemble.jobs.card import read_card
from ensemble.jobs.job import JOB_FILES, STATUS, Job, JobStatus, job_names, jobs_of
from ensemble.jobs.oof import JobOofLogits, load_job_oof, oof_hash, people_halves
from ensemble.jobs.soft_targets import load_pseudo_labels, read_pseudo_record, read_soft_targets
from ensemble.jobs.spec import run_identity
from ensemble.metrics.scores import half_epochs, task_scores
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import Recipe, TaskRecipe
from ensemble.recipes.tasks import training_mask, true_labels
from ensemble.recipes.views import IDENTITY
from folds.errors import MaskensError, first_line, typed
from folds.files import read_json, sha256_of_arrays, sha256_of_text
from folds.labels import IntArray
from folds.layout import read_train
from folds.people import TrainData, count_skipped, kept_skipped
from folds.run_folder import Run, kept_fixes, kept_merges, library_versions
from folds.splits import read_folds


@dataclass(frozen=True)
class Check:
    """What is recorded of one thing, and what was found."""

    kind: str  # the same for all jobs
    item: str  # the one thing
    expected: str
    found: str
    ok: bool
    mend: str  # what to do if it is not


def same(kind: str, item: str, expected: Mapping[str, Any], found: Mapping[str, Any], mend: str) -> Check:
    """Compare the entries of `expected` with those of `found`; only what differs is in the words."""
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    ours, theirs = (", ".join(f"{k} {values.get(k)}" for k in wrong or expected) for values in (expected, found))
    return Check(kind, item, ours, theirs, not wrong, mend)


PLACES = ("device", "threads", "precision", "compiled")


def environment(jobs: Sequence[Job]) -> list[str]:
    """What finished jobs were trained with, in a line, and in a line each where they differ from one another or from
    the libraries that are installed.

    Floating point depends on all of these: with the same, on the same machine, a job gives the same bytes.
    """
    by_key = _by_key({job: s.record for job in jobs if (s := job.status()).state == "done"})
    common = {key: next(iter(values)) for key, values in by_key.items() if len(values) == 1}
    lines = [f"the jobs were trained {_words(common)}"] if common else []
    for key, values in by_key.items():
        if len(values) > 1:
            which = "; ".join(f"{value} for {job_names(its)}" for value, its in values.items())
            lines.append(f"{key} differs: {which}")
    other = {k: v for k, v in library_versions().items() if k in common and common[k] != v}
    if other:
        lines.append(f"installed are {', '.join(f'{k} {v}' for k, v in other.items())}, which may give other digits")
    return lines


def _by_key(records: Mapping[Job, Mapping[str, Any]]) -> dict[str, dict[str, list[Job]]]:
    """PLACES, then libraries -> value -> the jobs that have it; what a job's record does not say is left out."""
    found: dict[str, dict[str, list[Job]]] = {key: {} for key in (*PLACES, *library_versions())}
    for job, record in records.items():
        versions = record.get("versions")
        known = {key: record.get(key) for key in PLACES} | (versions if isinstance(versions, dict) else {})
        for key, values in found.items():
            if known.get(key) is not None:
                values.setdefault(str(known[key]), []).append(job)
    return found


def _words(common: Mapping[str, str]) -> str:
    places = [f"on {common['device']}"] if "device" in common else []
    if "threads" in common:
        places.append(f"with {common['threads']} thread{'' if common['threads'] == '1' else 's'} each")
    if "precision" in common:
        places.append(f"in {common['precision']}")
    if common.get("compiled") == "True":
        places.append("compiled")
    libraries = ", ".join(f"{key} {value}" for key, value in common.items() if key not in PLACES)
    return ", ".join([*places, f"by {libraries}"] if libraries else places)


NEAR = 1e-3  # of an F1: batches of other photos move the last digits of logits, and a photo may lie on the edge


def verify_job(job: Job, recipe: Recipe, data: TrainData | None, folds: IntArray | None) -> Iterator[Check]:
    """Hold a finished job's files against job.json, and these against run.json and the recipe.

    Args:
        data, folds: of the run, to score the out-of-fold logits; None leaves that out. int64 (people,).
    """
    run, status, mend, name = job.run, job.status(), job.restart_command, f"{job.task}/fold{job.fold}"
    expected = run_identity(run, recipe, job.task, job.fold)
    if status.state != "done":
        found = status.state if job.status_file.exists() and status.record else "missing or damaged"
        yield Check(STATUS, f"{name}/{STATUS}", "a finished job", found, False, mend)
    else:
        learned = {"fingerprint": run.fingerprint, "skipped": run.skipped_hash or None}
        learned |= _lessons(run, job.fold)
        yield same(STATUS, f"{name}/{STATUS}", expected | learned, status.record, mend)
    current = job.checksums()
    for file in JOB_FILES:
        there = current.get(file, "missing")
        recorded = status.checksums.get(file, "") if status.state == "done" else ""
        if recorded or there == "missing":
            yield Check(file, f"{name}/{file}", recorded or "a file", there, recorded == there, mend)
    yield _card(job.model, f"{name} card", expected | {"k": run.k}, status, mend)
    if data is not None and folds is not None:
        task = recipe.tasks[job.task]
        yield _oof_score(job.oof, f"{name} out-of-fold F1", task, expected, data, folds, status, mend)


def _lessons(run: Run, fold: int) -> dict[str, str | None]:
    """Hashes of a fold's pseudo-labels and soft targets; none where they can't be read, which is a check of the run."""
    try:
        pseudo, soft = read_pseudo_record(run), read_soft_targets(run)
    except MaskensError:
        return {}
    return {"pseudo": pseudo.hash if pseudo else None, "soft_targets": soft.fold_hash(fold) if soft else None}


def _card(path: Path, item: str, expected: dict[str, Any], status: JobStatus, mend: str) -> Check:
    if status.state == "done":
        expected = expected | {"f1": status.best}
    try:
        return same("card", item, expected, vars(read_card(path)), mend)
    except MaskensError as error:
        return Check("card", item, "a checkpoint", first_line(error), False, mend)


def _oof_score(
    path: Path,
    item: str,
    task: TaskRecipe,
    expected: Mapping[str, Any],
    data: TrainData,
    folds: IntArray,
    status: JobStatus,
    mend: str,
) -> Check:
    """Macro F1 of the best and the last epoch from the logits of the photos as they are."""
    kind = "out-of-fold F1"
    recorded = [status.best, status.f1]
    try:
        oof = load_job_oof(path, {k: expected[k] for k in ("task_hash", "folds_hash", "fold")})
        found = _scores(oof, task, data, folds == expected["fold"], (expected["seed"], expected["fold"]))
    except MaskensError as error:
        return Check(kind, item, _score_words(recorded), first_line(error), False, mend)
    ok = all(r is None or abs(r - f) <= NEAR for r, f in zip(recorded, found, strict=True))
    return Check(kind, item, _score_words(recorded), _score_words(found), ok, mend)


def _scores(
    oof: JobOofLogits, task: TaskRecipe, data: TrainData, held_out: IntArray, seed: tuple[int, int]
) -> list[float]:
    """[macro F1 of the best epoch, of the last]; `held_out` is bool (people,).

    Raises:
        MaskensError: other photos than the fold's, other halves of its people, or other epochs than are best on these.
    """
    place = {file: n for n, file in enumerate(data.files)}
    rows = np.array([place.get(str(file), -1) for file in oof.files])
    if not np.array_equal(np.sort(rows), np.flatnonzero(held_out[data.photo_person] & data.photos.readable)):
        raise MaskensError("other photos than those of its fold, each once")
    view = oof.views.index(IDENTITY)
    mine = training_mask(task.predicts, data)[rows]
    truth = true_labels(task.target, data)[rows]
    half = people_halves(data.people, held_out.astype(np.bool_), seed)
    plain = oof.logits[:, view][:, mine]
    chosen = half_epochs(task.target, plain, truth[mine], oof.half[mine])
    if not np.array_equal(half[data.photo_person[rows]], oof.half) or chosen != oof.half_epochs:
        raise MaskensError("the epochs of the halves of its people are not the best ones")
    return [task_scores(task.target, plain[epoch], truth[mine])[0] for epoch in (oof.best_epoch, -1)]


def _score_words(scores: list[Any]) -> str:
    best, last = ("unknown" if score is None else f"{score:.4f}" for score in scores)
    return f"best {best}, last {last}"


@dataclass(frozen=True)
class Verification:
    """What was recomputed of a run."""

    run: Run
    checks: tuple[Check, ...]
    notes: tuple[str, ...]  # what could not be held against anything
    environment: tuple[str, ...] = ()  # what else decides the digits of its results

    @property
    def wrong(self) -> tuple[Check, ...]:
        """What does not match."""
        return tuple(check for check in self.checks if not check.ok)


def verify(run: Run, data_folder: Path | None = None) -> Verification:
    """Recompute what a run records of its data, folds, recipe, jobs, tuning and submission. Nothing is written.

    Args:
        data_folder: where the data are now, if they were moved.
    """
    checks, notes = [*_own_files(run)], list[str]()
    data, check = _data(run, data_folder)
    checks.append(check)
    if data and data.skipped:
        notes.append(count_skipped(data.skipped, len(data.files)))
    folds = None
    if all(c.ok for c in checks) and data is not None:
        folds = read_folds(run.folds_file, data)[0]
    if not run.recipe_hash:
        return Verification(run, tuple(checks), (*notes, "nothing is trained yet"))
    recipe, check = _recipe(run)
    checks.append(check)
    if recipe is None:
        return Verification(run, tuple(checks), (*notes, "without the recipe as it was, nothing else can be verified"))
    if folds is None:
        notes.append("without the run's data and folds, out-of-fold scores can't be recomputed")
    every = jobs_of(run, recipe.tasks)
    unfinished = [job for job in every if job.unfinished]
    jobs = [job for job in every if job not in unfinished]
    if unfinished:
        notes.append(f"not finished, and not verified: {job_names(unfinished)}")
    checks += [
        *_check_soft_targets(run),
        *_check_pseudo_labels(run, data.root if data else data_folder or run.folder / run.data),
    ]
    for job in jobs:
        checks += verify_job(job, recipe, data, folds)
    checks += _precision(run, recipe, jobs)
    checks += _tunings(run, recipe)
    found, said = _submission(run, recipe)
    return Verification(run, (*checks, *found), (*notes, *said), tuple(environment(jobs)))


def _own_files(run: Run) -> Iterator[Check]:
    """Those whose sha256 run.json has."""
    mend = "put the file back, or start a new run: maskens folds --run NEW_DIR --data DIR"
    files = (
        (run.folds_file, run.folds_hash),
        (run.fixes_file, run.fixes_hash),
        (run.merged_file, run.merged_hash),
    )
    for file, recorded in files:
        found = sha256_of_text(file)
        if found or recorded:
            yield Check(file.name, file.name, recorded or "no such file", found or "missing", found == recorded, mend)
    if run.skipped_hash or run.skipped_file.exists():
        name, expected = run.skipped_file.name, run.skipped_hash or "no such file"
        try:
            kept_skipped(run.skipped_file, run.skipped_hash)
        except MaskensError as error:
            yield Check(name, name, expected, first_line(error), False, mend)
        else:
            yield Check(name, name, expected, expected, True, mend)


def _data(run: Run, folder: Path | None) -> tuple[TrainData | None, Check]:
    where = folder or run.folder / run.data
    mend = "put the data back, say where they are now with --data DIR, or start a new run: maskens folds --run NEW_DIR"
    try:
        data = read_train(where := run.data_folder(folder), kept_fixes(run), kept_merges(run))
        data = dataclasses.replace(data, skipped=kept_skipped(run.skipped_file, run.skipped_hash))
    except MaskensError as error:
        return None, Check("data", f"data in {where}", run.fingerprint, first_line(error), False, mend)
    ok = data.fingerprint == run.fingerprint
    return data, Check("data", f"data in {where}", run.fingerprint, data.fingerprint, ok, mend)


def _recipe(run: Run) -> tuple[Recipe | None, Check]:
    name = run.recipe_file.name
    mend = f"put {run.recipe_file} back as it was"
    try:
        recipe = parse_recipe(run.recipe_file.read_text(encoding="utf-8"), "recipe", where=str(run.recipe_file))
    except (OSError, ValueError, MaskensError) as error:
        return None, Check("recipe", name, run.recipe_hash, first_line(error), False, mend)
    ok = recipe.hash == run.recipe_hash
    return recipe if ok else None, Check("recipe", name, run.recipe_hash, recipe.hash, ok, mend)


def _check_soft_targets(run: Run) -> Iterator[Check]:
    """That what a student learns from is as it was made."""
    name, mend = run.soft_record.name, "put soft_targets.json and soft_targets/ back as they were"
    try:
        found = read_soft_targets(run)
    except MaskensError as error:
        yield Check(name, name, "soft targets", first_line(error), False, mend)
    else:
        if found:
            yield Check(name, name, found.hash, found.hash, True, mend)


def _check_pseudo_labels(run: Run, root: Path) -> Iterator[Check]:
    """That the pseudo-labels that jobs learn from are as they were made."""
    name = run.pseudo_record.name
    mend = f"put {name} back as it was"
    try:
        found = load_pseudo_labels(run, root)
    except MaskensError as error:
        yield Check(name, name, "pseudo-labels", first_line(error), False, mend)
    else:
        if found:
            yield Check(name, name, found.hash, found.hash, True, mend)


def _precision(run: Run, recipe: Recipe, jobs: Sequence[Job]) -> Iterator[Check]:
    """That jobs were trained in a precision that was measured for their task."""
    file = run.precision_file
    if not file.exists():
        return
    mend = f"delete {file}: what it holds is measured again"
    try:
        entries = read_json(file)
        measured = {key: entry["precision"] for key, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Check(file.name, file.name, "measured precisions", f"damaged: {first_line(error)}", False, mend)
        return
    for job in jobs:
        wanted = recipe.tasks[job.task]
        its = sorted({value for key, value in measured.items() if key.startswith(wanted.hash)})
        found = job.status().record.get("precision")
        if wanted.precision == "auto" and its and found:
            yield Check(file.name, f"{job.task}/fold{job.fold} precision", " or ".join(its), found, found in its, mend)


def _tunings(run: Run, recipe: Recipe) -> Iterator[Check]:
    """That tunings were fitted on the out-of-fold files that there are, and have their own file beside them."""
    try:
        now = oof_hash(run, recipe)
    except MaskensError:  # which was said of that job
        now = "damaged files"
    for path in sorted([*run.folder.glob(TUNING), *run.folder.glob(BLEND.format("*"))]):
        mend = f"maskens tune --run {typed(run.folder)}" if path.name == TUNING else "tune the blended runs again"
        try:
            tuning = read_tuning(path)
        except MaskensError as error:
            yield Check("tuning", path.name, "a tuning", first_line(error), False, mend)
            continue
        if theirs := [fitted.oof_hash for fitted in tuning.fitted.runs if fitted.made_of == made_of(run, recipe)]:
            yield Check("tuning", f"{path.name}: out-of-fold files", theirs[0], now, now in theirs, mend)
        yield _nested(path, mend)


def _nested(path: Path, mend: str) -> Check:
    beside, expected = path.with_suffix(".oof.npz"), sha256_of_text(path)
    try:
        with beside.open("rb") as file, np.load(file) as z:
            found = str(z["of"])
            z["log_probabilities"], z["classes"]
    except Exception as error:  # whatever a damaged archive raises
        found = f"can't be read: {first_line(error)}"
    return Check("tuning", f"{beside.name}: of {path.name}", expected, found, found == expected, mend)


def _submission(run: Run, recipe: Recipe) -> tuple[list[Check], list[str]]:
    """That submission.csv says what was decided, and that this follows from the logits."""
    logits_file, kind = run.eval_file, "submission.csv"
    if not (run.submission_file.exists() and logits_file.exists()):
        return [], []
    mend, item = f"maskens infer --run {typed(run.folder)}", "submission.csv: as in eval.npz"
    try:
        ids, classes = read_answers(run.submission_file)
        with logits_file.open("rb") as file, np.load(file) as z:
            record = json.loads(str(z["record"]))
            arrays = {name: z[name] for name in z.files if name != "record"}
        fitted = DecisionParams.model_validate(record["fitted"]) if record.get("rule") else None
        predicted = arrays["ids"].tolist()
    except Exception as error:  # whatever a damaged archive raises
        return [Check(kind, item, "two readable files", first_line(error), False, mend)], []
    # a logit that became NaN would be taken for one that no model gave
    written, there = str(record.get("sha256")), sha256_of_arrays(arrays)
    intact = [Check("arrays", "eval.npz: its arrays", written, there, written == there, mend)]
    if "classes" not in arrays:
        return intact, []
    decided: IntArray = arrays["classes"]
    photos, differing = decided.size, 0
    if ids == predicted and classes.shape == decided.shape:
        differing = int((classes != decided).sum())
        found = f"{differing} of {photos} classes differ" if differing else f"the classes of {photos} photos"
    else:
        found = "other photos"
    expected = f"the classes of {photos} photos"
    checks = [Check(kind, item, expected, found, found == expected, mend), *intact]
    try:
        checks += _skipped(run, record, arrays, mend)
    except Exception as error:  # arrays of any shape
        checks.append(Check("photos not read", "eval.npz: photos not read", "a list", first_line(error), False, mend))
    if fitted is None:
        return checks, ["submission.csv was decided by more than the logits in eval.npz, and not recomputed from them"]
    try:
        (ensemble,) = load_ensembles([run], [recipe], fitted, allow_missing=True)
    except MaskensError:  # which was said of these jobs
        return checks, ["the classes are not recomputed from eval.npz, as its models can't be used"]
    return [*checks, _recomputed(ensemble, fitted, record, arrays, mend)], []


def _skipped(run: Run, record: Mapping[str, Any], arrays: Mapping[str, Any], mend: str) -> Iterator[Check]:
    """That the photos which no model saw are those that could not be read, and are listed beside the submission."""
    listed, ids, file = record.get("skipped", {}), arrays["ids"].tolist(), skipped_file(run.submission_file)
    logits = [values for name, values in arrays.items() if "logits/" in name]
    unseen = np.all([np.isnan(values).all(axis=(0, 1, 3)) for values in logits], axis=0)
    without = [ids[row] for row in np.flatnonzero(unseen)]
    if not (listed or without or file.exists()):
        return
    expected, found = (f"{len(names)} photos{f', e.g. {names[0]}' if names else ''}" for names in ([*listed], without))
    yield Check("photos not read", "eval.npz: photos not read", expected, found, [*listed] == without, mend)
    text = skipped_text(listed, ids, arrays["classes"])
    same_list = (file.read_text(encoding="utf-8") if file.exists() else "") == text
    found = expected if same_list else "other photos or classes" if file.exists() else "missing"
    yield Check(file.name, f"{file.name}: as in eval.npz", expected, found, same_list, mend)


def _recomputed(
    ensemble: Ensemble, fitted: DecisionParams, record: Mapping[str, Any], arrays: Mapping[str, Any], mend: str
) -> Check:
    kind, item, photos = "eval.npz", "eval.npz: classes from logits", arrays["classes"].size
    models = {task: ensemble.folds(task) for task in ensemble.targets}
    if models != record["folds"]:
        return same(kind, f"{item} of these models", record["folds"], models, mend)
    expected = f"the classes of {photos} photos"
    try:
        joint = ensemble.joint({task: arrays[f"logits/{task}"] for task in models})
        classes = decide(joint[None], fitted.weights, fitted.offsets, record["rule"]).classes
        differing = int((classes != arrays["classes"]).sum())
    except Exception as error:  # arrays of any shape
        return Check(kind, item, expected, f"can't be computed: {first_line(error)}", False, mend)
    found = f"{differing} of {photos} classes differ" if differing else expected
    return Check(kind, item, expected, found, not differing, mend)
