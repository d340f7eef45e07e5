"""Whether a run folder holds what its commands wrote: each part is recomputed and held against its record."""

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
from ensemble.decision.tuning import Fitted, made_of, read_tuning
from ensemble.evaluation.check import Check, same
from ensemble.evaluation.made_with import made_with
from ensemble.evaluation.verify_jobs import is_unfinished, verify_job
from ensemble.jobs.oof import job_names, oof_hash
from ensemble.jobs.pseudo_labels import load_pseudo_labels
from ensemble.jobs.soft_targets import RECORD, read_soft_targets
from ensemble.jobs.status import read_status
from ensemble.recipes.reading import parse_recipe
from ensemble.recipes.schema import Recipe
from folds.data.labels import IntArray
from folds.data.layout import read_train
from folds.data.merges import kept_merges
from folds.data.people import TrainData
from folds.data.skipped import kept_skipped, left_out_words
from folds.errors import MaskensError, first_line, typed
from folds.files import read_json, sha256_of_arrays, sha256_of_text
from folds.run import Run, kept_fixes
from folds.splitting.split import read_folds


@dataclass(frozen=True)
class Verification:
    """What was recomputed of a run."""

    run: Run
    checks: tuple[Check, ...]
    notes: tuple[str, ...]  # what could not be held against anything
    made_with: tuple[str, ...] = ()  # what else decides the digits of its results

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
        notes.append(left_out_words(data.skipped, len(data.files)))
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
    pairs = [(task, fold) for task in recipe.tasks for fold in range(run.k)]
    unfinished = [job for job in pairs if is_unfinished(run, *job)]
    jobs = [job for job in pairs if job not in unfinished]
    if unfinished:
        notes.append(f"not finished, and not verified: {job_names(unfinished)}")
    checks += [*_soft_targets(run), *_pseudo_labels(run, data.root if data else data_folder or run.folder / run.data)]
    for job in jobs:
        checks += verify_job(run, recipe, *job, data, folds)
    checks += _precision(run, recipe, jobs)
    checks += _tunings(run, recipe)
    found, said = _submission(run, recipe)
    return Verification(run, (*checks, *found), (*notes, *said), tuple(made_with(run, jobs)))


def _own_files(run: Run) -> Iterator[Check]:
    """Those whose sha256 run.json has."""
    mend = "put the file back, or start a new run: maskens folds --run NEW_DIR --data DIR"
    files = (
        (run.folds_file, run.folds_hash),
        (run.fixes_file, run.fixes.hash),
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
        data = read_train(
            where := run.data_folder(folder), kept_fixes(run), kept_merges(run.merged_file, run.merged_hash)
        )
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


def _soft_targets(run: Run) -> Iterator[Check]:
    """That what a student learns from is as it was made."""
    name, mend = RECORD, "put soft_targets.json and soft_targets/ back as they were"
    try:
        found = read_soft_targets(run)
    except MaskensError as error:
        yield Check(name, name, "soft targets", first_line(error), False, mend)
    else:
        if found:
            yield Check(name, name, found.hash, found.hash, True, mend)


def _pseudo_labels(run: Run, root: Path) -> Iterator[Check]:
    """That the pseudo-labels that jobs learn from are as they were made."""
    name, mend = "pseudo.csv", "put pseudo.csv and pseudo.json back as they were"
    try:
        found = load_pseudo_labels(run, root)
    except MaskensError as error:
        yield Check(name, name, "pseudo-labels", first_line(error), False, mend)
    else:
        if found:
            yield Check(name, name, found.hash, found.hash, True, mend)


def _precision(run: Run, recipe: Recipe, jobs: Sequence[tuple[str, int]]) -> Iterator[Check]:
    """That jobs were trained in a precision that was measured for their task."""
    file = run.folder / "precision.json"
    if not file.exists():
        return
    mend = f"delete {file}: what it holds is measured again"
    try:
        entries = read_json(file)
        measured = {key: entry["precision"] for key, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Check(file.name, file.name, "measured precisions", f"damaged: {first_line(error)}", False, mend)
        return
    for task, fold in jobs:
        wanted = recipe.tasks[task]
        its = sorted({value for key, value in measured.items() if key.startswith(wanted.hash)})
        found = read_status(run, task, fold).record.get("precision")
        if wanted.precision == "auto" and its and found:
            yield Check(file.name, f"{task}/fold{fold} precision", " or ".join(its), found, found in its, mend)


def _tunings(run: Run, recipe: Recipe) -> Iterator[Check]:
    """That tunings were fitted on the out-of-fold files that there are, and have their own file beside them."""
    try:
        now = oof_hash(run, recipe)
    except MaskensError:  # which was said of that job
        now = "damaged files"
    for path in sorted([*run.folder.glob("tuning.json"), *run.folder.glob("blend-*.json")]):
        mend = (
            f"maskens tune --run {typed(run.folder)}" if path.name == "tuning.json" else "tune the blended runs again"
        )
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
    logits_file, kind = run.folder / "eval.npz", "submission.csv"
    if not (run.submission_file.exists() and logits_file.exists()):
        return [], []
    mend, item = f"maskens infer --run {typed(run.folder)}", "submission.csv: as in eval.npz"
    try:
        ids, classes = read_answers(run.submission_file)
        with logits_file.open("rb") as file, np.load(file) as z:
            record = json.loads(str(z["record"]))
            arrays = {name: z[name] for name in z.files if name != "record"}
        fitted = Fitted.model_validate(record["fitted"]) if record.get("rule") else None
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
    ensemble: Ensemble, fitted: Fitted, record: Mapping[str, Any], arrays: Mapping[str, Any], mend: str
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
