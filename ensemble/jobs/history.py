"""What a job wrote down while it learned: history.csv and job.json, read back."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ensemble.jobs.status import JobStatus, read_status
from ensemble.recipes.schema import Recipe
from folds.data.labels import FloatArray
from folds.run import Run

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
        """Number of the best epoch, from 1; of equals the first, whose checkpoint was kept."""
        return int(self.curves["f1"].argmax()) + 1

    @property
    def minutes(self) -> float:
        return float(self.curves["seconds"][-1]) / 60


def read_curves(run: Run, recipe: Recipe) -> tuple[list[JobCurves], list[str]]:
    """(the jobs that have finished an epoch, the others and those whose history can't be read)."""
    found, missing = [], []
    for task in recipe.tasks:
        for fold in range(run.k):
            curves = _read(run, task, fold)
            if curves is None:
                missing.append(f"{task} fold {fold}")
            else:
                found.append(JobCurves(task, fold, read_status(run, task, fold), curves))
    return found, missing


def _read(run: Run, task: str, fold: int) -> dict[str, FloatArray] | None:
    path = run.job_folder(task, fold) / "history.csv"
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return {c: np.array([float(r[c]) for r in rows]) for c in (*CURVES, "seconds")} if rows else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is shown and nothing else: a report does not fail for it
