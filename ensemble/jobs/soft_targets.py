"""What a run learns from besides labels: soft targets of a teacher, and pseudo-labels of photos to predict."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from scipy.special import log_softmax

from ensemble.jobs.job import learned_from
from ensemble.recipes.schema import TaskRecipe
from ensemble.recipes.tasks import ONLY_GENDER, Predicts
from folds.errors import MaskensError, typed
from folds.files import (
    csv_text,
    read_record,
    save_npz,
    sha256,
    sha256_of_arrays,
    write_record,
    write_text,
)
from folds.labels import CLASSES, FloatArray, IntArray, decode
from folds.layout import read_eval
from folds.people import PhotoSet, TrainData
from folds.run_folder import Run
from folds.table import read_table

NOT_TAKEN = -1
PUT_BACK = "Put it back, or begin a new run."


@dataclass(frozen=True)
class PseudoRecord:
    """What pseudo.json holds: where the labels in pseudo.csv come from."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    source: str  # folder of the other run
    min_p: float  # least probability of a class
    fingerprint: str  # of all the photos in info.csv
    hash: str  # of the labels


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
    write_text(run.pseudo_file, pseudo.text)
    record = PseudoRecord(pseudo.source, pseudo.min_p, pseudo.fingerprint, pseudo.hash)
    write_record(run.pseudo_record, record)


def pseudo_words(run: Run) -> str:
    """Where a run's pseudo-labels come from, for people who compare runs."""
    if not run.pseudo_record.exists():
        return "none"
    record = read_record(run.pseudo_record, PseudoRecord, advice=PUT_BACK)
    return f"{record.source}, p >= {record.min_p:g}, hash {record.hash[:6]}"


def load_pseudo_labels(run: Run, root: Path) -> PseudoLabels | None:
    """The pseudo-labels that a run was begun with; None if there are none.

    Args:
        root: the data folder.

    Raises:
        MaskensError: they were edited or are gone, or the photos to predict have changed.
    """
    file, advice = run.pseudo_record, PUT_BACK
    if not file.exists():
        jobs = learned_from(run, "pseudo")  # which would be trained anew, from the labels alone
        if jobs or run.pseudo_file.exists():
            raise MaskensError(f"{file} is missing{f', from which {jobs[0]} has learned' if jobs else ''}. {advice}")
        return None
    record = read_record(file, PseudoRecord, advice=advice)
    try:
        names = [f"fold{fold}" for fold in range(run.k)]
        rows = read_table(run.pseudo_file, ("photo", *names))
        classes = np.array([[int(row[n] or NOT_TAKEN) for n in names] for row in rows], dtype=np.int64).T
    except (OSError, ValueError, KeyError, TypeError, MaskensError) as error:
        raise MaskensError(f"the pseudo-labels of {run.folder} can't be read ({error}). {advice}") from error
    data = read_eval(root)
    if data.fingerprint != record.fingerprint:
        raise MaskensError(f"the photos in {root / 'eval'} are not those that the run's pseudo-labels are of. {advice}")
    place = {file: n for n, file in enumerate(data.photos.files)}
    known = all(row["photo"] in place for row in rows) and classes.min() >= NOT_TAKEN and classes.max() < CLASSES
    photos = data.photos.some([place[row["photo"]] for row in rows]) if known else data.photos
    found = PseudoLabels(record.source, record.min_p, record.fingerprint, photos, classes)
    if not known or found.hash != record.hash:
        raise MaskensError(f"{run.pseudo_file} was edited after it was made. {advice}")
    return found


ADVICE = "Put it back, or begin a new run: maskens distil --out NEW_DIR"


@dataclass(frozen=True)
class FoldTargets:
    """What the teachers' models of one fold predict for the photos of all other folds: models and student alike have
    never seen the people of that fold, so none of their labels reaches the student that is scored on them."""

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
    """Who teaches a run and how, and what each of its folds is taught."""

    teachers: tuple[str, ...]  # folders of their runs
    made_of: tuple[str, ...]  # what the models of each are trained from, as of `decision.tuning.made_of`
    views: str  # the name of the set, for people
    views_hash: str
    passes: int  # through a model that the whole ensemble makes for a new photo
    temperature: float  # by which the log probabilities are divided before they are learned
    alpha: float  # share of the teachers in a target, the rest is the label's
    folds: Mapping[int, FoldTargets] = field(default_factory=dict)  # those that are predicted already

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of all that decides what is learned, but for the predictions of each fold."""
        return sha256(repr((self.made_of, self.views_hash, self.temperature, self.alpha)))

    def fold_hash(self, fold: int) -> str:
        """sha256 of all that decides what a fold's jobs learn; "" while it is not predicted."""
        return sha256(f"{self.hash} {self.folds[fold].hash}") if fold in self.folds else ""

    @property
    def words(self) -> str:
        """What they are, for people who compare runs."""
        teachers = f"{', '.join(self.teachers)} ({self.views}, untuned, fold k by its models of fold k)"
        return f"of {teachers}, temperature {self.temperature:g}, alpha {self.alpha:g}"

    def only(self, fold: int) -> SoftTargets:
        """What a job of this fold needs of it."""
        return dataclasses.replace(self, folds={f: taught for f, taught in self.folds.items() if f == fold})

    def of(self, fold: int, predicts: Predicts, data: TrainData) -> FloatArray:
        """The targets of a job: (1 - alpha) * label + alpha * the teachers' probabilities at the temperature.

        A task that learns from one gender gets the probabilities given that gender, which its label says.

        Returns:
            float64 (photos of the data, 18), rows summing to 1; NaN for photos of the fold's own people.
        """
        taught = self.folds[fold]
        logits = taught.log_probabilities.astype(np.float64) / self.temperature
        if predicts in ONLY_GENDER:
            logits[:, decode(np.arange(CLASSES))[1] != ONLY_GENDER[predicts]] = -np.inf
        found = np.full((len(data.files), CLASSES), np.nan)
        place = {file: n for n, file in enumerate(data.files)}
        found[[place[file] for file in taught.files]] = np.exp(log_softmax(logits, axis=1))
        return np.asarray((1 - self.alpha) * np.eye(CLASSES)[data.classes] + self.alpha * found)


def soft_with_mask(targets: npt.NDArray[np.float32], mask: int) -> npt.NDArray[np.float32]:
    """The target of one photo on which a mask was drawn: its state is known, gender and age are what they were.

    Args:
        targets: float32 (18,); not changed.
        mask: 0..2.
    """
    per_mask = targets.reshape(3, -1)
    changed = np.zeros_like(per_mask)
    changed[mask] = per_mask.sum(axis=0)
    return changed.reshape(-1)


def taught_rows(data: TrainData, folds: IntArray, fold: int) -> IntArray:
    """int64 (n,): the photos whose soft targets a fold's jobs may need: those of other folds' people that can be read.

    Args:
        folds: int64 (people,).
    """
    return np.flatnonzero((folds[data.photo_person] != fold) & data.photos.readable)


def save_soft_targets(run: Run, soft: SoftTargets) -> None:
    """Write soft_targets.json into a run, and remove predictions that the soft targets don't have."""
    for fold in set(range(run.k)) - soft.folds.keys():
        run.soft_file(fold).unlink(missing_ok=True)
    write_record(run.soft_record, soft, without=("folds",))


def save_fold_targets(run: Run, soft: SoftTargets, fold: int) -> None:
    """Write what a fold is taught into soft_targets/."""
    taught = soft.folds[fold]
    arrays = {"models": np.array(taught.models), "files": np.array(taught.files), "hash": soft.fold_hash(fold)}
    run.soft_file(fold).parent.mkdir(exist_ok=True)
    save_npz(run.soft_file(fold), arrays | {"log_probabilities": taught.log_probabilities})


def read_soft_targets(run: Run) -> SoftTargets | None:
    """The soft targets that a run was begun with; None if there are none.

    Raises:
        MaskensError: they were edited, are damaged or are gone.
    """
    path = run.soft_record
    there = [fold for fold in range(run.k) if run.soft_file(fold).exists()]
    if not path.exists() and not there:
        return None
    soft = read_record(path, SoftTargets, advice=ADVICE)
    try:
        for fold in there:
            path = run.soft_file(fold)
            taught, recorded = _read_fold(path)
            soft = dataclasses.replace(soft, folds={**soft.folds, fold: taught})
            if recorded != soft.fold_hash(fold):
                raise MaskensError(f"{path} was edited after it was made. {ADVICE}")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise MaskensError(f"the soft targets of {run.folder}: {path} can't be read ({reason}). {ADVICE}") from error
    return soft


def _read_fold(path: Path) -> tuple[FoldTargets, str]:
    """(what a fold is taught, the hash that it had when it was written)."""
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as z:
        models, files = (tuple(map(str, z[name].tolist())) for name in ("models", "files"))
        log_p, recorded = np.asarray(z["log_probabilities"]), str(z["hash"])
    if log_p.shape != (len(files), CLASSES):
        raise ValueError(f"log probabilities of {log_p.shape}, and {len(files)} photos")
    return FoldTargets(models, files, log_p), recorded


def load_soft_targets(run: Run, data: TrainData, folds: IntArray) -> SoftTargets | None:
    """As `read_soft_targets`, for the run's data.

    Args:
        folds: int64 (people,).

    Raises:
        MaskensError: they can't be read, lack a photo to learn from, or are gone though models have learned from them.
    """
    found = read_soft_targets(run)
    refuse_lost(run, found)
    for fold, taught in found.folds.items() if found else ():
        wanted = {data.files[row] for row in taught_rows(data, folds, fold)}
        held_out = {file for file, person in zip(data.files, data.photo_person, strict=True) if folds[person] == fold}
        there = set(taught.files)
        if not (wanted <= there <= set(data.files) and not there & held_out):
            raise MaskensError(f"{run.soft_file(fold)} is of other photos than those that fold {fold} learns. {ADVICE}")
    return found


def refuse_lost(run: Run, soft: SoftTargets | None) -> None:
    """Without its soft targets a student would be trained anew, from labels.

    Raises:
        MaskensError: a job has learned from some that are not there.
    """
    there = soft.folds if soft else {}
    for job in learned_from(run, "soft_targets"):
        if job.fold not in there:
            raise MaskensError(f"{run.soft_file(job.fold)} is missing, from which {job} has learned. {ADVICE}")


def refuse_untaught(run: Run, soft: SoftTargets, folds: set[int]) -> None:
    """Refuse folds whose soft targets are not predicted yet, which only `maskens distil` does.

    Raises:
        MaskensError: naming them and the command.
    """
    if missing := sorted(folds - soft.folds.keys()):
        written = ",".join(map(str, missing))
        teachers = " ".join(f"--run {typed(teacher)}" for teacher in soft.teachers)
        raise MaskensError(
            f"{run.folder} has no soft targets of fold {written} yet. Make them and train: maskens distil {teachers} "
            f"--out {typed(run.folder)} --fold {written} --temperature {soft.temperature:g} --alpha {soft.alpha:g}"
        )


def soft_words(run: Run) -> str:
    """What a run's soft targets are, for people who compare runs."""
    found = read_soft_targets(run)
    return f"{found.words}, hash {found.hash[:6]}" if found else "none"
