"""What `maskens tune` fits, and the file that keeps it with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.bootstrap import Interval
from ensemble.oof import oof_hash, save_npz
from ensemble.recipe import Recipe
from ensemble.tta import Tta
from folds.errors import MaskensError
from folds.files import replace_keeping
from folds.labels import CLASSES, IntArray
from folds.run import Run


@dataclass(frozen=True)
class Judged:
    """Probabilities and decision. Offsets move the decision only: a class may be decided on that is not the most
    probable one, because macro F1 weighs all classes alike."""

    log_probabilities: npt.NDArray[np.float64]  # (photos, 18)
    classes: IntArray  # (photos,)


StepName = Literal["views", "temperatures", "weights", "offsets"]
NONE = (0.0,) * CLASSES


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTuning(_Strict):
    """One run's share."""

    run: str  # its folder, to be read by people; the hashes say which it is
    recipe_hash: str
    oof_hash: str
    weight: float = 1.0
    temperatures: dict[str, tuple[tuple[float, ...], ...]] = {}  # task -> (folds, heads)


class Fitted(_Strict):
    """All that is fitted on out-of-fold logits."""

    tta: Tta
    runs: tuple[RunTuning, ...]
    offsets: tuple[float, ...] = NONE  # of the classes' log probabilities

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """float64 (runs,)."""
        return np.array([r.weight for r in self.runs])


class Step(_Strict):
    """One kind of tuning, added to those kept before it, judged on people it was not fitted on."""

    name: StepName
    kept: bool
    what: str  # was fitted, in words
    f1: Interval
    gain: Interval  # in macro F1, against what was kept before
    loss: Interval  # mean log loss, in nats
    loss_gain: Interval  # how much lower it became


class Tuning(_Strict):
    """The contents of tuning.json or, of several runs, blend.json."""

    format: Literal[1] = 1
    fitted: Fitted  # what was kept of the steps, on everybody
    steps: tuple[Step, ...]
    untuned: Interval  # macro F1
    tuned: Interval
    gain: Interval
    dropped: Interval | None = None  # gain of steps that were each worth it, but not together against no tuning
    photos: int
    people: int
    parts: int  # of the outer cross-validation

    @property
    def kept(self) -> tuple[StepName, ...]:
        """The steps that are applied."""
        return tuple(s.name for s in self.steps if s.kept)

    @property
    def words(self) -> str:
        """What is applied, in words."""
        return ", ".join(self.kept) or "nothing"

    @property
    def summary(self) -> list[str]:
        """What it is worth, a line each."""
        lines = [f"{s.name}: {s.what}" for s in self.steps if s.kept]
        lines.append(f"macro F1 {self.untuned:.4f} untuned")
        if self.kept:
            lines.append(f"macro F1 {self.tuned:.4f} tuned, {self.gain:+.4f}: {self.gain.verdict}")
        if self.dropped:
            lines.append(
                f"steps that were worth it one by one gain {self.dropped:+.4f} together: {self.dropped.verdict}"
            )
        return [*lines, f"applied: {self.words if self.kept else 'nothing, no gain in macro F1 is more than noise'}"]


def tuning_file(run: Run, runs: int) -> Path:
    """Where the tuning of a run, or of several of which it is the first, lies."""
    return run.folder / ("tuning.json" if runs == 1 else "blend.json")


def save_tuning(path: Path, tuning: Tuning, files: Sequence[str], nested: Judged) -> Path | None:
    """Write the tuning, and beside it as .npz what it says of people that it was not fitted on.

    Args:
        files: of the photos.
        nested: each photo by a tuning that was fitted on other people.

    Returns:
        Where an earlier, different tuning is kept.
    """
    record = "\n".join(r.oof_hash for r in tuning.fitted.runs)
    log_p = nested.log_probabilities.astype(np.float32)
    arrays = {"files": np.array(files), "log_probabilities": log_p, "classes": nested.classes, "record": record}
    save_npz(path.with_suffix(".npz"), arrays)
    return replace_keeping(path, tuning.model_dump_json(indent=2) + "\n")


def kept_tuning(runs: Sequence[Run], recipes: Sequence[Recipe]) -> tuple[Tuning, Path] | None:
    """The tuning of these runs, in their order; None if they are not tuned.

    Raises:
        MaskensError: a damaged file, or one fitted on logits that have changed since.
    """
    hashes = [oof_hash(run, recipe) for run, recipe in zip(runs, recipes, strict=True)]
    for run in runs:
        path = tuning_file(run, len(runs))
        if not path.exists():
            continue
        tuning = _read(path, run)
        theirs = {r.oof_hash: r for r in tuning.fitted.runs}
        if sorted(theirs) == sorted(hashes):
            fitted = tuning.fitted.model_copy(update={"runs": tuple(theirs[h] for h in hashes)})
            return tuning.model_copy(update={"fitted": fitted}), path
        if len(runs) == 1 or sorted(r.recipe_hash for r in theirs.values()) == sorted(r.hash for r in recipes):
            raise MaskensError(
                f"{path} was fitted on other out-of-fold logits: a job was trained since. "
                f"Tune again: {tune_command(runs)}; or leave it out: --untuned"
            )
    return None


@dataclass(frozen=True)
class Applied:
    """What is used of what was fitted."""

    fitted: Fitted
    tuning: Tuning | None  # None if nothing is tuned
    path: Path | None
    words: str


def apply_tuning(runs: Sequence[Run], recipes: Sequence[Recipe], tta: Tta | None, untuned: bool) -> Applied:
    """The tuning of these runs if there is one, it is wanted, and it gained more than noise; else none.

    Args:
        tta: the views asked for; a tuning for others is left out. None takes the tuning's, else flip.
        untuned: leave it out.

    Raises:
        MaskensError: as `kept_tuning`.
    """
    plain = no_tuning(runs, recipes, tta or "flip")
    found = None if untuned else kept_tuning(runs, recipes)
    if not found:
        return Applied(plain, None, None, "untuned")
    tuning, path = found
    if not tuning.kept:
        return Applied(plain, None, None, f"untuned: {path} found no gain beyond noise")
    if tta not in (None, tuning.fitted.tta):
        return Applied(plain, None, None, f"untuned: {path} is for --tta {tuning.fitted.tta}")
    return Applied(tuning.fitted, tuning, path, f"tuned: {tuning.words} ({path})")


def no_tuning(runs: Sequence[Run], recipes: Sequence[Recipe], tta: Tta) -> Fitted:
    """The plain ensemble: mean of the runs, no temperatures, no offsets."""
    both = zip(runs, recipes, strict=True)
    shares = (RunTuning(run=str(r.folder), recipe_hash=c.hash, oof_hash=oof_hash(r, c)) for r, c in both)
    return Fitted(tta=tta, runs=tuple(shares))


def tune_command(runs: Sequence[Run]) -> str:
    """The command that tunes these runs."""
    named = " ".join(f"--run {r.folder}" for r in runs)
    return f"maskens tune {named}{' --blend' if len(runs) > 1 else ''}"


def read_nested(path: Path, tuning: Tuning, files: Sequence[str]) -> Judged:
    """What `save_tuning` wrote beside the tuning.

    Raises:
        MaskensError: missing, damaged, or of other photos.
    """
    path = path.with_suffix(".npz")
    try:
        with np.load(path) as z:
            same = sorted(str(z["record"]).split("\n")) == sorted(r.oof_hash for r in tuning.fitted.runs)
            if same and z["files"].tolist() == list(files):
                return Judged(z["log_probabilities"].astype(np.float64), z["classes"])
    except Exception as error:
        raise MaskensError(f"{path} can't be used ({type(error).__name__}); tune again") from error
    raise MaskensError(f"{path} is of other photos or another training; tune again")


def _read(path: Path, run: Run) -> Tuning:
    try:
        return Tuning.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        raise MaskensError(
            f"{path} can't be used: {str(error).splitlines()[0]}. Tune again, or leave it out: --untuned"
        ) from error
