"""What a job leaves besides its model: out-of-fold logits and the history of its epochs."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ensemble.jobs.job import Job, JobStatus, jobs_of
from ensemble.recipes.recipe_file import run_recipe
from folds.errors import MaskensError, refuse, typed
from folds.files import csv_text, lfs_pointer, load_npz, save_npz, sha256, write_text
from folds.labels import UNKNOWN, FloatArray, IntArray
from folds.people import Person, TrainData
from folds.run_folder import OOF, Run
from folds.splits import strata

HISTORY = ("epoch", "lr", "loss", "val_loss", "f1", "accuracy", "best_f1", "photos_per_s", "seconds")
CURVES = ("loss", "val_loss", "f1")  # columns of history.csv


@dataclass(frozen=True)
class JobCurves:
    """One job's way through its epochs."""

    task: str
    fold: int
    status: JobStatus
    curves: Mapping[str, FloatArray]  # column of history.csv -> (epochs,)

    @property
    def epochs(self) -> int:
        return len(self.curves["f1"])

    @property
    def best(self) -> int:
        """Number of the epoch with the highest macro F1, from 1; of equals the first."""
        return int(self.curves["f1"].argmax()) + 1

    @property
    def minutes(self) -> float:
        return float(self.curves["seconds"][-1]) / 60


def write_history(job: Job, rows: Sequence[Mapping[str, float]]) -> None:
    """Replace a job's history.csv; a row an epoch, with the columns HISTORY; empty where nobody was validated."""
    cells = ([f"{row[c]:.6g}" if c in row else "" for c in HISTORY] for row in rows)
    write_text(job.history, csv_text(HISTORY, cells))


def read_curves(run: Run) -> tuple[list[JobCurves], list[str]]:
    """(the jobs that have finished an epoch, the others and those whose history can't be read)."""
    found, missing = [], []
    for job in jobs_of(run, run_recipe(run).tasks):
        try:
            with job.history.open(newline="", encoding="utf-8") as handle:
                rows = list(csv.DictReader(handle))
            curves = {c: np.array([float(r[c]) for r in rows]) for c in (*CURVES, "seconds")}
        except (OSError, ValueError, KeyError, TypeError):  # it is only shown: a report does not fail for it
            rows = []
        if rows:
            found.append(JobCurves(job.task, job.fold, job.status(), curves))
        else:
            missing.append(str(job))
    return found, missing


Checkpoint = Literal["cross-fitted", "best", "last"]
"""Which epoch of a job predicts a photo. cross-fitted: the best one on the other half of the fold's people, so that the
epoch that scores a person does not depend on that person. All three are the last of a recipe that keeps the last."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class JobOofLogits:
    """The predictions of one job for its held-out fold, after each epoch."""

    files: npt.NDArray[np.str_]  # (photos,), paths below the data folder
    logits: Logits  # (epochs, views, photos, width)
    best_epoch: int  # from 0: whose model is kept, the best on all people of the fold or the last
    half: IntArray  # (photos,), 0 or 1: in which half of the fold's people each is
    half_epochs: tuple[int, int]  # the best epoch on each half, or the last
    views: tuple[str, ...]

    def at(self, checkpoint: Checkpoint) -> Logits:
        """float32 (views, photos, width)."""
        if checkpoint != "cross-fitted":
            return np.asarray(self.logits[self.best_epoch if checkpoint == "best" else -1])
        first, second = (self.logits[self.half_epochs[other]] for other in (1, 0))
        return np.asarray(np.where(self.half[:, None] == 0, first, second))


def people_halves(everyone: Sequence[Person], held_out: npt.NDArray[np.bool_], seed: Sequence[int]) -> IntArray:
    """int64 (people,): 0 or 1, at random; equal for all rows of a person, and each stratum is split evenly. People who
    are not `held_out`, bool (people,), get -1. The seed is of the run, and the fold."""
    people = [p for p, held in zip(everyone, held_out, strict=True) if held]
    groups, first, row = np.unique([p.group for p in people], return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(strata(people)[first][order], kind="stable")]
    half = np.empty(len(groups), dtype=np.int64)
    half[order] = np.arange(len(groups)) % 2
    found = np.full(len(everyone), -1)
    found[held_out] = half[row]
    return found


@dataclass(frozen=True)
class PooledOofLogits:
    """Out-of-fold logits of a run over the photos of its trained folds."""

    rows: IntArray  # (photos,): index of each photo in TrainData.files
    fold: IntArray  # (photos,)
    logits: Mapping[str, Logits]  # task -> (views, photos, width)
    views: tuple[str, ...]  # those that every job has


def save_job_oof(path: Path, oof: JobOofLogits, record: Mapping[str, Any]) -> None:
    """Write a job's out-of-fold logits and their record."""
    save_npz(path, vars(oof) | {"half": oof.half.astype(np.int8), "record": json.dumps(record)})


def load_job_oof(path: Path, expected: Mapping[str, Any]) -> JobOofLogits:
    """Read a job's out-of-fold logits. Raises MaskensError: missing, damaged, or of a record that differs from
    `expected`, e.g. in the task's hash."""
    oof, record = read_job_oof(path)
    wrong = [k for k, v in expected.items() if record.get(k) != v]
    if wrong:
        raise MaskensError(
            f"{path} comes from another {', '.join(wrong)} than this run's; train that job again with --restart"
        )
    return oof


def read_job_oof(path: Path) -> tuple[JobOofLogits, dict[str, Any]]:
    """A job's out-of-fold logits and their record. Raises MaskensError: missing or damaged."""
    try:
        z = load_npz(path)
        record = dict(json.loads(str(z["record"])))
        first, second = map(int, z["half_epochs"])
        half, views = z["half"].astype(np.int64), tuple(map(str, z["views"].tolist()))
        oof = JobOofLogits(z["files"], z["logits"], int(z["best_epoch"]), half, (first, second), views)
        shape, epochs = (len(set(views)), *oof.files.shape), {oof.best_epoch, *oof.half_epochs}
        if oof.logits.dtype.kind != "f" or oof.logits.ndim != 4 or oof.logits.shape[1:3] != shape:
            raise ValueError(f"logits of {oof.logits.dtype} {oof.logits.shape}, and {shape} views and photos")
        if half.shape != oof.files.shape or not epochs <= set(range(len(oof.logits))) or not set(half) <= {0, 1}:
            raise ValueError(f"epochs {sorted(epochs)} of {len(oof.logits)}, and halves of {half.shape} photos")
    except FileNotFoundError:
        raise MaskensError(f"{path} is missing; train that job first") from None
    except Exception as error:
        raise MaskensError(
            f"{path} is damaged ({lfs_pointer(path) or type(error).__name__}); train that job again with --restart"
        ) from error
    return oof, record


def whole_folds(run: Run) -> tuple[list[int], list[Job]]:
    """(the folds of which every task is trained, the jobs that are not). Raises MaskensError: nothing is trained."""
    missing = [job for job in jobs_of(run, run_recipe(run).tasks) if not job.trained]
    return [f for f in range(run.k) if f not in {job.fold for job in missing}], missing


def trained_folds(run: Run) -> tuple[list[int], list[Job]]:
    """(the folds of which every task is trained, the jobs that are not). Raises MaskensError: there is no such fold."""
    trained, missing = whole_folds(run)
    if not trained:
        raise MaskensError(
            f"no fold of {run.folder} has all of its tasks trained yet. "
            f"First: maskens train --run {typed(run.folder)} --fold 0"
        )
    return trained, missing


def oof_hash(run: Run) -> str:
    """sha256 over the out-of-fold files of a run's jobs. Raises MaskensError: a file is not as its job left it."""
    jobs = jobs_of(run, run_recipe(run).tasks)
    return sha256("\n".join(job.verified_sha256(OOF) if job.trained else "-" for job in jobs))


def pool(run: Run, data: TrainData, folds: IntArray, trained: Sequence[int], checkpoint: Checkpoint) -> PooledOofLogits:
    """The jobs' out-of-fold logits together: each photo of the folds `trained` that can be read and has all labels once
    a task. Raises MaskensError: if a job's file is missing, damaged, not finite, or has other photos than its fold."""
    index = {f: i for i, f in enumerate(data.files)}
    photo_fold, readable = folds[data.photo_person], data.photos.readable & data.scored
    rows = np.flatnonzero(np.isin(photo_fold, trained) & readable)
    place = np.full(len(index), -1)
    place[rows] = np.arange(len(rows))
    jobs = {}
    problems: list[str] = []
    for task, recipe in run_recipe(run).tasks.items():
        for fold in trained:
            path = Job(run, task, fold).oof
            oof = load_job_oof(path, {"task_hash": recipe.hash, "folds_hash": run.folds_hash, "fold": fold})
            found = np.array([index.get(str(f), -1) for f in oof.files])
            if not np.array_equal(np.sort(found), np.flatnonzero((photo_fold == fold) & readable)):
                problems.append(f"{path} does not hold the photos of fold {fold}, each once")
            elif oof.logits.shape[3] != recipe.output_spec.width:
                problems.append(f"{path} holds logits of another width than those of '{task}'")
            elif not np.isfinite(oof.at(checkpoint)).all():
                problems.append(f"{path} holds logits that are not finite")
            jobs[task, fold] = oof, place[found]
    refuse(problems, "the out-of-fold logits can't be used", "Train those jobs again with --restart.")
    first = next(iter(jobs.values()))[0]
    views = tuple(v for v in first.views if all(v in oof.views for oof, _ in jobs.values()))
    pooled: dict[str, Logits] = {}
    for (task, _), (oof, places) in jobs.items():
        logits = select_views(oof.at(checkpoint), oof.views, views)
        shape = (len(views), len(rows), logits.shape[2])
        pooled.setdefault(task, np.full(shape, np.nan, dtype=np.float32))[:, places] = logits
    whole = data.classes[rows] != UNKNOWN
    pooled = {task: logits[:, whole] for task, logits in pooled.items()}
    return PooledOofLogits(rows[whole], photo_fold[rows[whole]], pooled, views)


def select_views(logits: Logits, there: Sequence[str], wanted: Sequence[str]) -> Logits:
    """The wanted views, by name, of logits (views, photos, width) in the views `there`. Raises MaskensError: a view
    that is not there."""
    missing = [v for v in wanted if v not in there]
    if missing:
        raise MaskensError(
            f"the out-of-fold logits have no view {', '.join(missing)}, only {', '.join(there)}: choose another --tta, "
            "or name the set in oof_tta of the recipe and train again with --restart"
        )
    return logits[[list(there).index(v) for v in wanted]]
