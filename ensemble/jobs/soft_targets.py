"""Targets besides labels: pseudo-labels of photos to predict, and soft targets of a teacher ensemble."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from scipy.special import log_softmax

from ensemble.jobs.job import trained_with
from ensemble.recipes.schema import TaskRecipe
from ensemble.recipes.tasks import ONLY_GENDER, Predicts
from folds.errors import MaskensError, typed
from folds.files import load_npz, save_npz, sha256, sha256_of_arrays
from folds.labels import CLASSES, UNKNOWN, FloatArray, IntArray, decode
from folds.layout import read_eval
from folds.people import PhotoSet, TrainData
from folds.records import read_record, write_record
from folds.run_folder import Run

NOT_TAKEN = -1
NO_PHOTOS = PhotoSet(Path(), (), "")
PUT_BACK = "Put it back, or start a new run."


@dataclass(frozen=True)
class PseudoLabels:
    """pseudo.json: classes that another run's models predict for photos without labels. Those of fold k come from its
    models of fold k alone, which were never trained on the people that fold k's models here are validated on."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    source: str  # folder of the other run
    min_p: float  # least probability of a class
    fingerprint: str  # of all the photos in info.csv
    labels: dict[str, tuple[Annotated[int, Field(ge=NOT_TAKEN, lt=CLASSES)], ...]]  # photo -> its class in each fold
    photos: PhotoSet = NO_PHOTOS  # in the data folder; not in the file

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the photos and their labels."""
        return sha256(json.dumps(self.labels))

    @property
    def classes(self) -> IntArray:
        """int64 (folds, photos): 0..17, or NOT_TAKEN."""
        return np.array(list(self.labels.values()), dtype=np.int64).T

    def of(self, fold: int, task: TaskRecipe) -> tuple[IntArray, IntArray]:
        """The pseudo-labels of a job: (rows in `photos`, their classes), each int64 (n,)."""
        classes = self.classes[fold]
        only = ONLY_GENDER.get(task.predicts)
        rows = np.flatnonzero(classes != NOT_TAKEN)
        if only is not None:
            rows = rows[decode(classes[rows])[1] == only]
        return rows, classes[rows]


def save_pseudo_labels(run: Run, pseudo: PseudoLabels) -> None:
    """Write pseudo.json into a run."""
    write_record(run.pseudo_record, pseudo, without=("photos",))


def read_pseudo_labels(run: Run) -> PseudoLabels | None:
    """The pseudo-labels of a run without their photos, None if there are none. Raises MaskensError: they are damaged,
    were edited, or are gone though jobs were trained with them."""
    if run.pseudo_record.exists():
        return read_record(run.pseudo_record, PseudoLabels, advice=PUT_BACK)
    if jobs := trained_with(run, "pseudo"):  # which would be trained again, with labels alone
        raise MaskensError(f"{run.pseudo_record} is missing; {jobs[0]} was trained with it. {PUT_BACK}")
    return None


def describe_pseudo_labels(run: Run) -> str:
    """Where a run's pseudo-labels come from."""
    found = read_pseudo_labels(run)
    return f"{found.source}, p >= {found.min_p:g}, hash {found.hash[:6]}" if found else "none"


def load_pseudo_labels(run: Run, root: Path) -> PseudoLabels | None:
    """The pseudo-labels of a run with their photos, from the data folder `root`; None if there are none. Raises
    MaskensError: they are damaged, were edited or are gone, or the photos to predict have changed."""
    found = read_pseudo_labels(run)
    if found is None:
        return None
    data = read_eval(root)
    place = {file: n for n, file in enumerate(data.photos.files)}
    sizes = {len(classes) for classes in found.labels.values()}
    if data.photos.fingerprint != found.fingerprint or sizes != {run.k} or not found.labels.keys() <= place.keys():
        raise MaskensError(
            f"the photos in {root / 'eval'} are not those of the run's pseudo-labels, {run.pseudo_record}. {PUT_BACK}"
        )
    return dataclasses.replace(found, photos=data.photos.some([place[file] for file in found.labels]))


ADVICE = "Put it back, or start a new run: maskens distil --out NEW_DIR"


@dataclass(frozen=True)
class FoldTargets:
    """Predictions of the teachers' models of one fold for the photos of all other folds: models and student alike were
    never trained on the people of that fold, so none of their labels reaches the student that is scored on them."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    models: tuple[str, ...]  # sha256 of each model
    files: tuple[str, ...]  # of the photos
    log_probabilities: npt.NDArray[np.float32]  # (photos, 18), the ensemble's own

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of all of it."""
        return sha256_of_arrays(
            {"models": np.array(self.models), "files": np.array(self.files), "log_p": self.log_probabilities}
        )


@dataclass(frozen=True)
class SoftTargets:
    """The teachers of a run, how they teach, and the targets of each of its folds."""

    teachers: tuple[str, ...]  # folders of their runs
    made_of: tuple[str, ...]  # what the models of each are trained from: `decision.tuning.made_of`
    views: str  # the name of the set, for people
    views_hash: str
    passes: int  # forward passes of the whole ensemble for a new photo
    temperature: float  # by which the log probabilities are divided
    alpha: float  # fraction of the teachers in a target, the rest is the label's
    folds: Mapping[int, FoldTargets] = field(default_factory=dict)  # those that are predicted already

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of all that decides the targets but the predictions of each fold."""
        return sha256(repr((self.made_of, self.views_hash, self.temperature, self.alpha)))

    def fold_hash(self, fold: int) -> str:
        """sha256 of all that decides the targets of a fold; "" while it is not predicted."""
        return sha256(f"{self.hash} {self.folds[fold].hash}") if fold in self.folds else ""

    @property
    def description(self) -> str:
        teachers = f"{', '.join(self.teachers)} ({self.views}, untuned, fold k by its models of fold k)"
        return f"of {teachers}, temperature {self.temperature:g}, alpha {self.alpha:g}"

    def only(self, fold: int) -> SoftTargets:
        """The part that a job of this fold needs."""
        return dataclasses.replace(self, folds={f: targets for f, targets in self.folds.items() if f == fold})

    def of(self, fold: int, predicts: Predicts, data: TrainData) -> FloatArray:
        """The targets of a job: (1 - alpha) * label + alpha * the teachers' probabilities at the temperature.

        A task that is trained on one gender gets the probabilities given that gender.

        Returns:
            float64 (photos of the data, 18), rows summing to 1; NaN for photos of the fold's own people.
        """
        predicted = self.folds[fold]
        logits = predicted.log_probabilities.astype(np.float64) / self.temperature
        if predicts in ONLY_GENDER:
            logits[:, decode(np.arange(CLASSES))[1] != ONLY_GENDER[predicts]] = -np.inf
        found = np.full((len(data.files), CLASSES), np.nan)
        place = {file: n for n, file in enumerate(data.files)}
        found[[place[file] for file in predicted.files]] = np.exp(log_softmax(logits, axis=1))
        return np.asarray((1 - self.alpha) * _labels(data, found) + self.alpha * found)


def _labels(data: TrainData, found: FloatArray) -> FloatArray:
    """float64 (photos, 18): the label as a distribution; where a part is unknown, the probabilities `found` given what
    is known."""
    possible = np.ones((len(data.classes), CLASSES))
    for part, labels in zip(decode(np.arange(CLASSES)), data.labels, strict=True):
        possible[(labels[:, None] != UNKNOWN) & (labels[:, None] != part)] = 0
    partial = data.classes == UNKNOWN
    given = possible[partial] * found[partial]
    with np.errstate(invalid="ignore"):  # of photos that the task is not trained on
        possible[partial] = given / given.sum(axis=1, keepdims=True)
    return possible


def soft_with_mask(targets: npt.NDArray[np.float32], mask: int) -> npt.NDArray[np.float32]:
    """The target of one photo, float32 (18,), on which a mask, 0..2, was drawn: its state is known, gender and age are
    what they were. The target given is not changed."""
    per_mask = targets.reshape(3, -1)
    changed = np.zeros_like(per_mask)
    changed[mask] = per_mask.sum(axis=0)
    return changed.reshape(-1)


def soft_target_rows(data: TrainData, folds: IntArray, fold: int) -> IntArray:
    """int64 (n,): the photos with soft targets for a fold's jobs: those of other folds' people that can be read.
    `folds` is int64 (people,)."""
    return np.flatnonzero((folds[data.photo_person] != fold) & data.photos.readable)


def save_soft_targets(run: Run, soft: SoftTargets) -> None:
    """Write soft_targets.json into a run, and remove predictions that the soft targets don't have."""
    for fold in set(range(run.k)) - soft.folds.keys():
        run.soft_file(fold).unlink(missing_ok=True)
    write_record(run.soft_record, soft, without=("folds",))


def save_fold_targets(run: Run, soft: SoftTargets, fold: int) -> None:
    """Write the targets of a fold into soft_targets/."""
    predicted = soft.folds[fold]
    arrays = {"models": np.array(predicted.models), "files": np.array(predicted.files), "hash": soft.fold_hash(fold)}
    run.soft_file(fold).parent.mkdir(exist_ok=True)
    save_npz(run.soft_file(fold), arrays | {"log_probabilities": predicted.log_probabilities})


def read_soft_targets(run: Run) -> SoftTargets | None:
    """The soft targets of a run; None if there are none. Raises MaskensError: they were edited, are damaged or are
    gone."""
    there = [fold for fold in range(run.k) if run.soft_file(fold).exists()]
    if not run.soft_record.exists() and not there:
        return None
    soft = read_record(run.soft_record, SoftTargets, advice=ADVICE)
    for fold in there:
        path = run.soft_file(fold)
        try:
            z = load_npz(path)
            models, files = (tuple(map(str, z[name].tolist())) for name in ("models", "files"))
            log_p, recorded = np.asarray(z["log_probabilities"]), str(z["hash"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise MaskensError(
                f"{path} can't be read ({getattr(error, 'strerror', None) or error}). {ADVICE}"
            ) from error
        soft = dataclasses.replace(soft, folds={**soft.folds, fold: FoldTargets(models, files, log_p)})
        if recorded != soft.fold_hash(fold) or log_p.shape != (len(files), CLASSES):
            raise MaskensError(f"{path} was edited after it was made. {ADVICE}")
    return soft


def load_soft_targets(run: Run, data: TrainData, folds: IntArray) -> SoftTargets | None:
    """The soft targets of a run, None if there are none; `folds` is int64 (people,). Raises MaskensError: they can't be
    read, lack a training photo, have one of a held-out person, or are gone though models were trained with them."""
    found = read_soft_targets(run)
    targets = found.folds if found else {}
    for job in trained_with(run, "soft_targets"):  # which would be trained again, with labels alone
        if job.fold not in targets:
            raise MaskensError(f"{run.soft_file(job.fold)} is missing; {job} was trained with it. {ADVICE}")
    for fold, predicted in targets.items():
        wanted = {data.files[row] for row in soft_target_rows(data, folds, fold)}
        held_out = {file for file, person in zip(data.files, data.photo_person, strict=True) if folds[person] == fold}
        there = set(predicted.files)
        if not (wanted <= there <= set(data.files) and not there & held_out):
            raise MaskensError(
                f"{run.soft_file(fold)} has other photos than the training photos of fold {fold}. {ADVICE}"
            )
    return found


def refuse_missing_targets(run: Run, soft: SoftTargets, folds: set[int]) -> None:
    """Raises MaskensError: folds whose soft targets are not predicted yet, which only `maskens distil` does."""
    if missing := sorted(folds - soft.folds.keys()):
        written = ",".join(map(str, missing))
        teachers = " ".join(f"--run {typed(teacher)}" for teacher in soft.teachers)
        raise MaskensError(
            f"{run.folder} has no soft targets of fold {written} yet. Make them and train: maskens distil {teachers} "
            f"--out {typed(run.folder)} --fold {written} --temperature {soft.temperature:g} --alpha {soft.alpha:g}"
        )


def describe_soft_targets(run: Run) -> str:
    """Where a run's soft targets come from."""
    found = read_soft_targets(run)
    return f"{found.description}, hash {found.hash[:6]}" if found else "none"
