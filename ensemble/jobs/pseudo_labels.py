"""Pseudo-labels of a run: photos to predict that its jobs learn from, each fold with labels of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.jobs.status import learned_from
from ensemble.recipes.schema import TaskRecipe
from ensemble.recipes.tasks import ONLY_GENDER
from folds.data.labels import CLASSES, IntArray, decode
from folds.data.layout import read_eval
from folds.data.people import PhotoSet
from folds.data.table import read_table
from folds.errors import MaskensError
from folds.files import csv_text, read_json, sha256, write_json, write_text
from folds.run import Run

NOT_TAKEN = -1
LABELS = "pseudo.csv"


@dataclass(frozen=True)
class PseudoLabels:
    """What another run's models say of photos to predict. The labels of fold k come from its models of fold k alone,
    which never saw the people that fold k's models here are validated on."""

    source: str  # folder of the other run
    min_p: float  # least probability of a class
    fingerprint: str  # of all the photos in info.csv
    photos: PhotoSet  # those with a label in some fold
    classes: IntArray  # (folds, photos), 0..17, or NOT_TAKEN

    @property
    def text(self) -> str:
        """As CSV: a row a photo, a column a fold, empty where it has no label."""
        header = ("photo", *(f"fold{fold}" for fold in range(len(self.classes))))
        labelled = zip(self.photos.files, self.classes.T, strict=True)
        return csv_text(header, ((file, *(_written(c) for c in labels)) for file, labels in labelled))

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the photos and their labels."""
        return sha256(self.text)

    def of(self, fold: int, task: TaskRecipe) -> tuple[IntArray, IntArray]:
        """What a job learns from: (rows in `photos`, their classes), each int64 (n,)."""
        classes = self.classes[fold]
        only = ONLY_GENDER.get(task.predicts)
        rows = np.flatnonzero(classes != NOT_TAKEN)
        if only is not None:
            rows = rows[decode(classes[rows])[1] == only]
        return rows, classes[rows]


def _written(label: np.int64) -> str:
    return "" if label == NOT_TAKEN else str(label)


def save_pseudo_labels(run: Run, pseudo: PseudoLabels) -> None:
    """Write pseudo.csv and pseudo.json into a run."""
    write_text(run.folder / LABELS, pseudo.text)
    record = {"source": pseudo.source, "min_p": pseudo.min_p, "fingerprint": pseudo.fingerprint, "hash": pseudo.hash}
    write_json(run.folder / "pseudo.json", record)


def pseudo_words(run: Run) -> str:
    """Where a run's pseudo-labels come from, for people who compare runs."""
    file = run.folder / "pseudo.json"
    if not file.exists():
        return "none"
    try:
        record = read_json(file)
        return f"{record['source']}, p >= {record['min_p']:g}, hash {record['hash'][:6]}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MaskensError(f"{file} can't be read ({error}). Put it back, or begin a new run.") from error


def load_pseudo_labels(run: Run, root: Path) -> PseudoLabels | None:
    """The pseudo-labels that a run was begun with; None if there are none.

    Args:
        root: the data folder.

    Raises:
        MaskensError: they were edited or are gone, or the photos to predict have changed.
    """
    file, advice = run.folder / "pseudo.json", "Put it back, or begin a new run."
    if not file.exists():
        jobs = [job for job, _ in learned_from(run, "pseudo")]  # which would be trained anew, from the labels alone
        if jobs or file.with_suffix(".csv").exists():
            raise MaskensError(f"{file} is missing{f', from which {jobs[0]} has learned' if jobs else ''}. {advice}")
        return None
    try:
        record = read_json(file)
        source, min_p, fingerprint = record["source"], float(record["min_p"]), record["fingerprint"]
        names = [f"fold{fold}" for fold in range(run.k)]
        rows = read_table(run.folder / LABELS, ("photo", *names), as_written=True)
        classes = np.array([[int(row[n] or NOT_TAKEN) for n in names] for row in rows], dtype=np.int64).T
    except (OSError, ValueError, KeyError, TypeError, MaskensError) as error:
        raise MaskensError(f"the pseudo-labels of {run.folder} can't be read ({error}). {advice}") from error
    data = read_eval(root)
    if data.fingerprint != fingerprint:
        raise MaskensError(f"the photos in {root / 'eval'} are not those that the run's pseudo-labels are of. {advice}")
    place = {file: n for n, file in enumerate(data.photos.files)}
    known = all(row["photo"] in place for row in rows) and classes.min() >= NOT_TAKEN and classes.max() < CLASSES
    photos = data.photos.some([place[row["photo"]] for row in rows]) if known else data.photos
    found = PseudoLabels(source, min_p, fingerprint, photos, classes)
    if not known or found.hash != record.get("hash"):
        raise MaskensError(f"{run.folder / LABELS} was edited after it was made. {advice}")
    return found
