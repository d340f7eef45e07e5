"""Soft targets of a run: what the ensemble that teaches it says out-of-fold of each photo to learn from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from ensemble.jobs.status import learned_from
from ensemble.recipes.tasks import ONLY_GENDER, Predicts
from folds.data.labels import CLASSES, FloatArray, decode
from folds.data.people import TrainData
from folds.errors import MaskensError
from folds.files import read_json, save_npz, sealed, sha256, sha256_of_arrays, unsealed, write_json
from folds.run import Run

ARRAYS, RECORD = "soft_targets.npz", "soft_targets.json"
ADVICE = "Put it back, or begin a new run: maskens distil --out NEW_DIR"


@dataclass(frozen=True)
class SoftTargets:
    """What teachers say of each photo, each of them out-of-fold: no model that had a say saw the photo's person."""

    teachers: tuple[str, ...]  # folders of their runs
    used: str  # how they decide, in words
    oof_hashes: tuple[str, ...]  # of their out-of-fold files
    passes: int  # through a model that they make for a photo
    files: tuple[str, ...]  # of the photos
    log_probabilities: npt.NDArray[np.float32]  # (photos, 18), the ensemble's own
    temperature: float  # by which they are divided before they are learned
    alpha: float  # share of the teachers in a target, the rest is the label's

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of all that decides what is learned."""
        arrays = {"files": np.array(self.files), "log_probabilities": self.log_probabilities}
        return sha256(f"{sha256_of_arrays(arrays)} {self.temperature!r} {self.alpha!r}")

    @property
    def words(self) -> str:
        """What they are, for people who compare runs."""
        return f"of {', '.join(self.teachers)} ({self.used}), temperature {self.temperature:g}, alpha {self.alpha:g}"

    def of(self, predicts: Predicts, data: TrainData) -> FloatArray:
        """The targets of a task: (1 - alpha) * label + alpha * the teachers' probabilities at the temperature.

        A task that learns from one gender gets the probabilities given that gender, which its label says.

        Returns:
            float64 (photos of the data, 18), rows summing to 1; NaN where a photo that is left out has none.
        """
        logits = self.log_probabilities.astype(np.float64) / self.temperature
        if predicts in ONLY_GENDER:
            logits[:, decode(np.arange(CLASSES))[1] != ONLY_GENDER[predicts]] = -np.inf
        found = np.full((len(data.files), CLASSES), np.nan)
        place = {file: n for n, file in enumerate(data.files)}
        found[[place[file] for file in self.files]] = np.exp(log_softmax(logits, axis=1))
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


def save_soft_targets(run: Run, soft: SoftTargets) -> None:
    """Write soft_targets.npz and soft_targets.json into a run."""
    save_npz(run.folder / ARRAYS, {"files": np.array(soft.files), "log_probabilities": soft.log_probabilities})
    record = {"teachers": soft.teachers, "used": soft.used, "oof_hashes": soft.oof_hashes, "passes": soft.passes}
    record |= {"temperature": soft.temperature, "alpha": soft.alpha, "hash": soft.hash}
    write_json(run.folder / RECORD, sealed(record))


def read_soft_targets(run: Run) -> SoftTargets | None:
    """The soft targets that a run was begun with; None if there are none.

    Raises:
        MaskensError: they were edited, are damaged or are gone.
    """
    file, arrays = run.folder / RECORD, run.folder / ARRAYS
    if not file.exists() and not arrays.exists():
        return None
    try:
        record = unsealed(read_json(file))
        with arrays.open("rb") as handle, np.load(handle, allow_pickle=False) as z:
            files, log_p = tuple(map(str, z["files"].tolist())), np.asarray(z["log_probabilities"])
        found = SoftTargets(
            teachers=tuple(record["teachers"]),
            used=record["used"],
            oof_hashes=tuple(record["oof_hashes"]),
            passes=int(record["passes"]),
            files=files,
            log_probabilities=log_p,
            temperature=float(record["temperature"]),
            alpha=float(record["alpha"]),
        )
        recorded = record["hash"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise MaskensError(f"the soft targets of {run.folder} can't be read ({reason}). {ADVICE}") from error
    if found.hash != recorded or log_p.shape != (len(files), CLASSES):
        raise MaskensError(f"{arrays} was edited after it was made. {ADVICE}")
    return found


def load_soft_targets(run: Run, data: TrainData) -> SoftTargets | None:
    """As `read_soft_targets`, for the run's data.

    Raises:
        MaskensError: they can't be read, lack a photo to learn from, or are gone though models have learned from them.
    """
    found = read_soft_targets(run)
    if found is None:
        refuse_lost(run)
    else:
        there, files = set(found.files), set(data.files)
        wanted = {file for file in files if file not in data.skipped}
        if not wanted <= there or not there <= files:
            raise MaskensError(f"{run.folder / ARRAYS} is of other photos than those of the run. {ADVICE}")
    return found


def refuse_lost(run: Run) -> None:
    """Without its soft targets a student would be trained anew, from labels.

    Raises:
        MaskensError: a job has learned from some.
    """
    if jobs := learned_from(run, "soft_targets"):
        raise MaskensError(f"{run.folder / ARRAYS} is missing, from which {jobs[0]} has learned. {ADVICE}")


def soft_words(run: Run) -> str:
    """What a run's soft targets are, for people who compare runs."""
    found = read_soft_targets(run)
    return f"{found.words}, hash {found.hash[:6]}" if found else "none"
