"""What `maskens tune` fits, and the file that keeps it with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ensemble.decision.decide import Decision
from ensemble.jobs.oof import oof_hash
from ensemble.metrics.scores import Interval
from ensemble.recipes.recipe_file import find_set
from ensemble.recipes.schema import Recipe
from ensemble.recipes.views import Tta, TtaSet, as_set, known_sets
from folds.errors import MaskensError, typed
from folds.files import read_record, record_text, replace_keeping, save_npz, sha256, sha256_of_file, sha256_of_text
from folds.labels import CLASSES
from folds.run_folder import Run

StepName = Literal["views", "view-weights", "temperatures", "weights", "offsets"]

TUNING, BLEND = "tuning.json", "blend-{}.json"  # of one run, of several
NONE = (0.0,) * CLASSES


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunTuning(_Strict):
    """One run, and what was fitted for it."""

    run: str  # its folder, to be read by people; the hashes identify it
    made_of: str
    oof_hash: str
    weight: Annotated[float, Field(ge=0)] = 1.0
    temperatures: dict[str, tuple[float, ...]] = {}  # task -> of each head, for the models of one fold
    mean_temperatures: dict[str, tuple[float, ...]] = {}  # the same for the mean of all folds
    mean_measured: bool = True  # else those of the mean are at most 1


class DecisionParams(_Strict):
    """All that is fitted on out-of-fold logits; without anything fitted, the plain ensemble: the mean of the runs."""

    tta: Tta  # the name of the views
    views: TtaSet | None = None  # what that name meant; files of maskens 0.5 don't say, and then it ships
    view_weights: tuple[float, ...] = ()  # one a view; empty if they are not fitted
    runs: tuple[RunTuning, ...]
    offsets: Annotated[tuple[float, ...], Field(min_length=CLASSES, max_length=CLASSES)] = NONE
    """Of the classes' log probabilities."""

    @model_validator(mode="after")
    def _usable(self) -> DecisionParams:
        if not any(run.weight for run in self.runs):
            raise ValueError("every run weighs 0")
        if self.view_weights and len(self.view_weights) != len((self.views or as_set(self.tta)).views):
            raise ValueError("view_weights: not one a view")
        return self

    @property
    def tta_set(self) -> TtaSet:
        """The views that count, and how they are merged."""
        whole = self.views or as_set(self.tta)
        return whole.weighed(self.view_weights) if self.view_weights else whole

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """float64 (runs,)."""
        return np.array([r.weight for r in self.runs])


class Step(_Strict):
    """One kind of tuning, added to those kept before it, scored on people it was not fitted on."""

    name: StepName
    kept: bool
    what: str  # was fitted, in words
    f1: Interval
    gain: Interval  # in macro F1, against what was kept before
    loss: Interval  # mean log loss, in nats
    loss_gain: Interval  # how much lower it became


class Tuning(_Strict):
    """The contents of tuning.json or, of several runs, blend-*.json."""

    fitted: DecisionParams  # what was kept of the steps, on everybody
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
        if any(run.temperatures for run in self.fitted.runs):
            means = temperature_words([run.mean_temperatures for run in self.fitted.runs])
            lines.append(f"temperatures of the mean of all folds: {means}")
        lines += [
            f"{run.run}: temperatures above 1 are for single folds only, as the mean of all folds may need none. "
            f"To measure its own on 100 predicted photos or more: maskens infer --run {typed(run.run)}, then tune again"
            for run in self.fitted.runs
            if not run.mean_measured
        ]
        lines.append(f"macro F1 {self.untuned:.4f} untuned")
        if self.kept:
            lines.append(f"macro F1 {self.tuned:.4f} tuned, {self.gain:+.4f}: {self.gain.significance}")
        if self.dropped:
            lines.append(
                f"steps that were worth it one by one gain {self.dropped:+.4f} together: {self.dropped.significance}"
            )
        return [*lines, f"applied: {self.words if self.kept else 'nothing, no gain in macro F1 is more than noise'}"]


def temperature_words(of_runs: Sequence[Mapping[str, Sequence[float]]]) -> str:
    """The temperatures of each task's heads, run by run."""
    return "; ".join(
        ", ".join(f"{task} {'/'.join(f'{t:.2f}' for t in heads)}" for task, heads in found.items()) for found in of_runs
    )


def tuning_file(untuned: Sequence[RunTuning]) -> str:
    """Name of the file that keeps the tuning of these runs, in whatever order: it lies in the first of them."""
    if len(untuned) == 1:
        return TUNING
    return BLEND.format(sha256(repr(sorted(r.made_of for r in untuned)))[:8])


def save_tuning(path: Path, tuning: Tuning, files: Sequence[str], nested: Decision) -> Path | None:
    """Write the tuning, and beside it as .oof.npz what it says of people that it was not fitted on.

    Args:
        files: of the photos.
        nested: each photo by a tuning that was fitted on other people.

    Returns:
        Where an earlier, different tuning is kept.
    """
    text = record_text(tuning)
    log_p = nested.log_probabilities.astype(np.float32)
    arrays = {"files": np.array(files), "log_probabilities": log_p, "classes": nested.classes, "of": sha256(text)}
    save_npz(path.with_suffix(".oof.npz"), arrays)
    return replace_keeping(path, text)


def kept_tuning(folders: Sequence[Path], untuned: Sequence[RunTuning]) -> tuple[Tuning, Path] | None:
    """The tuning of these runs, in their order; None if they are not tuned.

    Args:
        folders: of the runs.
        untuned: the runs as they are now.

    Raises:
        MaskensError: a file that is damaged or was edited, or one fitted on logits that have changed since.
    """
    paths = [p for p in (folder / tuning_file(untuned) for folder in folders) if p.exists()]
    for path in paths:
        tuning = read_tuning(path)
        theirs = list(tuning.fitted.runs)
        if sorted(r.oof_hash for r in theirs) == sorted(r.oof_hash for r in untuned):
            theirs.sort(key=lambda r: r.oof_hash)
            order = np.argsort(np.argsort([r.oof_hash for r in untuned], kind="stable"), kind="stable")
            fitted = tuning.fitted.model_copy(update={"runs": tuple(theirs[i] for i in order)})
            return tuning.model_copy(update={"fitted": fitted}), path
    if paths:
        named = " ".join(f"--run {typed(folder)}" for folder in folders)
        raise MaskensError(
            f"{paths[0]} was fitted on other out-of-fold logits: a job was trained since. "
            f"Tune again: maskens tune {named}{' --blend' if len(folders) > 1 else ''}; or leave it out: --no-tuning"
        )
    return None


@dataclass(frozen=True)
class ActiveTuning:
    """What is used of what was fitted."""

    fitted: DecisionParams
    tuning: Tuning | None  # None if nothing is tuned
    path: Path | None
    words: str

    def without(self, *steps: StepName) -> str:
        """`words`, where some steps make no difference to the decision."""
        left = [s for s in (self.tuning.kept if self.tuning else ()) if s not in steps]
        if not self.tuning or len(left) == len(self.tuning.kept):
            return self.words
        return f"tuned: {', '.join(left)} ({self.path})" if left else "untuned"


def weighted_runs(
    runs: Sequence[Run], recipes: Sequence[Recipe], fitted: DecisionParams
) -> tuple[list[Run], list[Recipe], DecisionParams]:
    """The runs whose weight is not 0, with what was fitted for them: the others are left out."""
    chosen = [n for n, run in enumerate(fitted.runs) if run.weight]
    left = fitted.model_copy(update={"runs": tuple(fitted.runs[n] for n in chosen)})
    return [runs[n] for n in chosen], [recipes[n] for n in chosen], left


def apply_tuning(runs: Sequence[Run], recipes: Sequence[Recipe], tta: Tta | None, tuned: bool = True) -> ActiveTuning:
    """The tuning of these runs if there is one, it is wanted, and it gained more than noise; else none.

    Args:
        tta: name or file of the views to use; a tuning for others is left out. None takes the tuning's, else flip.
        tuned: False leaves it out.

    Raises:
        MaskensError: no such views, or as `kept_tuning`.
    """
    name, views = find_set(tta or "flip", known_sets(recipe.tta for recipe in recipes))
    untuned = tuple(untuned_run(run, recipe) for run, recipe in zip(runs, recipes, strict=True))
    plain = DecisionParams(tta=name, views=views, runs=untuned)
    found = kept_tuning([run.folder for run in runs], untuned) if tuned else None
    if not found:
        return ActiveTuning(plain, None, None, "untuned")
    tuning, path = found
    if not tuning.kept:
        return ActiveTuning(plain, None, None, f"untuned: {path} found no gain beyond noise")
    if tta is not None and views != (tuning.fitted.views or as_set(tuning.fitted.tta)):
        return ActiveTuning(plain, None, None, f"untuned: {path} is for --tta {tuning.fitted.tta}")
    return ActiveTuning(tuning.fitted, tuning, path, f"tuned: {tuning.words} ({path})")


def untuned_run(run: Run, recipe: Recipe) -> RunTuning:
    """A run with nothing fitted."""
    return RunTuning(run=str(run.folder), made_of=made_of(run, recipe), oof_hash=oof_hash(run, recipe))


def made_of(run: Run, recipe: Recipe) -> str:
    """sha256 of all that a run's jobs are trained from: a student and its twin without teachers differ in it."""
    beside = (run.soft_record, run.pseudo_record)
    given = [
        run.fixes_hash,
        run.merged_hash,
        run.skipped_hash,
        *(sha256_of_file(f) if f.exists() else "" for f in beside),
    ]
    return sha256(repr([recipe.hash, run.seed, run.folds_hash, run.fingerprint, *given]))


def read_nested(path: Path, files: Sequence[str]) -> Decision:
    """What `save_tuning` wrote beside the tuning.

    Raises:
        MaskensError: missing, damaged, of other photos, or of another tuning.
    """
    beside = path.with_suffix(".oof.npz")
    try:
        with beside.open("rb") as file, np.load(file) as z:
            ours = str(z["of"]) == sha256_of_text(path) and z["files"].tolist() == list(files)
            decision = Decision(z["log_probabilities"].astype(np.float64), z["classes"].astype(np.int64))
        if ours and not _is_of(decision, len(files)):
            raise ValueError("its arrays don't fit each other")
    except Exception as error:  # whatever a damaged archive raises
        raise MaskensError(f"{beside} can't be used ({type(error).__name__}); tune again") from error
    if not ours:
        raise MaskensError(f"{beside} does not belong to {path.name} and its photos; tune again")
    return decision


def _is_of(decision: Decision, photos: int) -> bool:
    classes, shapes = decision.classes, (decision.log_probabilities.shape, decision.classes.shape)
    return shapes == ((photos, CLASSES), (photos,)) and bool(((classes >= 0) & (classes < CLASSES)).all())


def read_tuning(path: Path) -> Tuning:
    """What `save_tuning` wrote. Raises MaskensError where it can't be used."""
    return read_record(path, Tuning, advice="Tune again, or leave it out: --no-tuning")
