"""Whether a run's finished jobs hold what they wrote: checksums, model cards, out-of-fold scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.evaluation.check import Check, same
from ensemble.jobs.card import read_card
from ensemble.jobs.checksums import JOB_FILES, restart_command
from ensemble.jobs.oof import JobOof, load_job_oof, people_halves
from ensemble.jobs.soft_targets import read_soft_targets
from ensemble.jobs.spec import run_identity
from ensemble.jobs.status import JobStatus, read_status
from ensemble.metrics.scores import half_epochs, task_scores
from ensemble.recipes.schema import Recipe, TaskRecipe
from ensemble.recipes.tasks import learns_from, true_labels
from ensemble.recipes.tta_views import IDENTITY
from folds.data.labels import IntArray
from folds.data.people import TrainData
from folds.errors import MaskensError, first_line
from folds.files import sha256_of_file, sha256_of_text
from folds.run import Run

NEAR = 1e-3  # of an F1: batches of other photos move the last digits of logits, and a photo may lie on the edge


def is_unfinished(run: Run, task: str, fold: int) -> bool:
    """Whether a job has something left to do. One whose files are all there is finished, even without job.json."""
    folder = run.job_folder(task, fold)
    begun = (folder / "last.pt").exists() or not all((folder / name).exists() for name in JOB_FILES)
    return begun and read_status(run, task, fold).state != "done"


def verify_job(
    run: Run, recipe: Recipe, task: str, fold: int, data: TrainData | None, folds: IntArray | None
) -> Iterator[Check]:
    """Hold a finished job's files against job.json, and these against run.json and the recipe.

    Args:
        data, folds: of the run, to score the out-of-fold logits; None leaves that out. int64 (people,).
    """
    folder, status, mend = run.job_folder(task, fold), read_status(run, task, fold), restart_command(run, task, fold)
    name = f"{task}/fold{fold}"
    expected = run_identity(run, recipe, task, fold)
    if status.state != "done":
        found = status.state if (folder / "job.json").exists() and status.record else "missing or damaged"
        yield Check("job.json", f"{name}/job.json", "a finished job", found, False, mend)
    else:
        learned = {"fingerprint": run.fingerprint, "skipped": run.skipped_hash or None}
        learned |= _pseudo_labels(run) | _soft_targets(run, fold)
        yield same("job.json", f"{name}/job.json", expected | learned, status.record, mend)
    for file in JOB_FILES:
        there = sha256_of_file(folder / file) if (folder / file).exists() else "missing"
        recorded = status.sha256.get(file, "") if status.state == "done" else ""
        if recorded or there == "missing":
            yield Check(file, f"{name}/{file}", recorded or "a file", there, recorded == there, mend)
    yield _card(folder / "model.safetensors", f"{name} card", expected | {"k": run.k}, status, mend)
    if data is not None and folds is not None:
        yield _oof_score(
            folder / "oof.npz", f"{name} out-of-fold F1", recipe.tasks[task], expected, data, folds, status, mend
        )


def _pseudo_labels(run: Run) -> dict[str, str | None]:
    """As `PseudoLabels.hash` of the run's pseudo-labels; nothing where one of their files is gone, of which a check of
    the run tells."""
    there = [run.folder / name for name in ("pseudo.csv", "pseudo.json")]
    if any(file.exists() for file in there) != all(file.exists() for file in there):
        return {}
    return {"pseudo": sha256_of_text(there[0]) or None}


def _soft_targets(run: Run, fold: int) -> dict[str, str | None]:
    """The hash of a fold's soft targets; nothing where they can't be read, of which a check of the run tells."""
    try:
        found = read_soft_targets(run)
    except MaskensError:
        return {}
    return {"soft_targets": found.fold_hash(fold) if found else None}


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
        return Check(kind, item, _words(recorded), first_line(error), False, mend)
    ok = all(r is None or abs(r - f) <= NEAR for r, f in zip(recorded, found, strict=True))
    return Check(kind, item, _words(recorded), _words(found), ok, mend)


def _scores(oof: JobOof, task: TaskRecipe, data: TrainData, held_out: IntArray, seed: tuple[int, int]) -> list[float]:
    """[macro F1 of the best epoch, of the last]; `held_out` is bool (people,).

    Raises:
        MaskensError: other photos than the fold's, other halves of its people, or other epochs than are best on these.
    """
    place = {file: n for n, file in enumerate(data.files)}
    rows = np.array([place.get(str(file), -1) for file in oof.files])
    if not np.array_equal(np.sort(rows), np.flatnonzero(held_out[data.photo_person] & data.photos.readable)):
        raise MaskensError("other photos than those of its fold, each once")
    view = oof.views.index(IDENTITY)
    mine = learns_from(task.predicts, data)[rows]
    truth = true_labels(task.target, data)[rows]
    half = people_halves(data.people, held_out.astype(np.bool_), seed)
    plain = oof.logits[:, view][:, mine]
    chosen = half_epochs(task.target, plain, truth[mine], oof.half[mine])
    if not np.array_equal(half[data.photo_person[rows]], oof.half) or chosen != oof.half_epochs:
        raise MaskensError("the epochs of the halves of its people are not the best ones")
    return [task_scores(task.target, plain[epoch], truth[mine])[0] for epoch in (oof.best_epoch, -1)]


def _words(scores: list[Any]) -> str:
    best, last = ("unknown" if score is None else f"{score:.4f}" for score in scores)
    return f"best {best}, last {last}"
