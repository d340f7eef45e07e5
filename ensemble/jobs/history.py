"""A job's history.csv, a row an epoch: written, and read back as learning curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.jobs.status import JobStatus, read_status
from ensemble.recipes.schema import Recipe
from folds.data.labels import FloatArray
from folds.files import csv_text, write_text
from folds.run import Run

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
        """Number of the best epoch, from 1; of equals the first, whose checkpoint was kept."""
        return int(self.curves["f1"].argmax()) + 1

    @property
    def minutes(self) -> float:
        return float(self.curves["seconds"][-1]) / 60


def write_history(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Replace history.csv in a job's folder.

    Args:
        rows: one an epoch, with the columns HISTORY.
    """
    write_text(folder / "history.csv", csv_text(HISTORY, ([f"{row[c]:.6g}" for c in HISTORY] for row in rows)))


def last_row(folder: Path) -> dict[str, float]:
    """The columns of a job's last finished epoch; nothing where its history can't be read."""
    try:
        with (folder / "history.csv").open(newline="", encoding="utf-8") as handle:
            return {column: float(value) for column, value in list(csv.DictReader(handle))[-1].items()}
    except (OSError, ValueError, TypeError, IndexError):
        return {}


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
