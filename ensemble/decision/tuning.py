"""What `maskens tune` fits, and the file that keeps it with the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ensemble.decision.joint import FLIP, Decision
from ensemble.jobs.oof import oof_hash
from ensemble.metrics.scores import Interval
from ensemble.recipes.recipe_file import find_set, run_recipe
from ensemble.recipes.views import Tta, TtaSet, known_sets
from folds.errors import MaskensError, typed
from folds.files import load_npz, replace_keeping, save_npz, sha256, sha256_of_file, sha256_of_text
from folds.labels import CLASSES
from folds.records import read_record, record_text
from folds.run_folder import Run

StepName = Literal["views", "temperatures", "weights", "offsets"]

TUNING, BLEND = "tuning.json", "blend-{}.json"  # of one run, of several


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

    tta: Tta = "flip"  # the name of the views
    views: TtaSet = FLIP  # and what it means
    runs: tuple[RunTuning, ...]
    offsets: Annotated[tuple[float, ...], Field(min_length=CLASSES, max_length=CLASSES)] = (0.0,) * CLASSES
    """Of the classes' log probabilities."""

    @model_validator(mode="after")
    def _usable(self) -> DecisionParams:
        if not any(run.weight for run in self.runs):
            raise ValueError("every run weighs 0")
        return self

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """float64 (runs,)."""
        return np.array([r.weight for r in self.runs])

    def with_runs(self, values: Sequence[Mapping[str, Any]]) -> DecisionParams:
        """A copy with other values of each run."""
        runs = tuple(run.model_copy(update=dict(its)) for run, its in zip(self.runs, values, strict=True))
        return self.model_copy(update={"runs": runs})


class TuningStep(_Strict):
    """One kind of tuning, added to those kept before it, scored on people it was not fitted on."""

    name: StepName
    kept: bool
    what: str  # was fitted, for people
    f1: Interval
    gain: Interval  # in macro F1, against what was kept before
    loss: Interval  # mean log loss, in nats
    loss_gain: Interval  # how much lower it became


class Tuning(_Strict):
    """The contents of tuning.json or, of several runs, blend-*.json."""

    fitted: DecisionParams  # what was kept of the steps, on everybody
    steps: tuple[TuningStep, ...]
    untuned: Interval  # macro F1
    tuned: Interval
    gain: Interval

    @property
    def kept(self) -> tuple[StepName, ...]:
        """The steps that are applied."""
        return tuple(s.name for s in self.steps if s.kept)

    @property
    def summary(self) -> list[str]:
        """Lines about what is applied and its gain."""
        lines = [f"{s.name}: {s.what}" for s in self.steps if s.kept]
        if any(run.temperatures for run in self.fitted.runs):
            means = describe_temperatures(run.mean_temperatures for run in self.fitted.runs)
            lines.append(f"temperatures of the mean of all folds: {means}")
        lines += [
            f"{run.run}: the mean of all folds gets no temperature above 1 before its own is measured on 100 photos or "
            f"more: maskens infer --run {typed(run.run)}, then tune again"
            for run in self.fitted.runs
            if not run.mean_measured
        ]
        lines.append(f"macro F1 {self.untuned:.4f} untuned")
        if self.kept:
            lines.append(f"macro F1 {self.tuned:.4f} tuned, {self.gain:+.4f}: {self.gain.significance}")
        return [*lines, f"applied: {', '.join(self.kept) or 'nothing, no gain in macro F1 is more than noise'}"]


def describe_temperatures(temperatures: Iterable[Mapping[str, Sequence[float]]]) -> str:
    """The temperatures of each task's heads, run by run."""
    found = [(task, its) for of_run in temperatures for task, its in of_run.items()]
    return ", ".join(f"{task} {'/'.join(f'{t:.2f}' for t in its)}" for task, its in found)


def tuning_file(untuned: Sequence[RunTuning]) -> str:
    """Name of the file that keeps the tuning of these runs, the same in any order; it lies in the folder of the
    first."""
    if len(untuned) == 1:
        return TUNING
    return BLEND.format(sha256(repr(sorted(r.made_of for r in untuned)))[:8])


def save_tuning(path: Path, tuning: Tuning, files: Sequence[str], nested: Decision) -> Path | None:
    """Write the tuning, and as .oof.npz the decision on each photo by a tuning that was fitted on other people. Returns
    where an earlier, different tuning is kept."""
    text = record_text(tuning)
    log_p = nested.log_probabilities.astype(np.float32)
    arrays = {"files": np.array(files), "log_probabilities": log_p, "classes": nested.classes, "of": sha256(text)}
    save_npz(path.with_suffix(".oof.npz"), arrays)
    return replace_keeping(path, text)


def read_nested(path: Path, files: Sequence[str]) -> Decision:
    """What `save_tuning` wrote as .oof.npz. Raises MaskensError: missing, damaged, of other photos, or of another
    tuning."""
    beside = path.with_suffix(".oof.npz")
    try:
        z = load_npz(beside)
        ours = str(z["of"]) == sha256_of_text(path) and z["files"].tolist() == list(files)
        log_p, classes = z["log_probabilities"].astype(np.float64), z["classes"].astype(np.int64)
        fits = log_p.shape == (len(files), CLASSES) and classes.shape == (len(files),)
        if ours and not (fits and ((classes >= 0) & (classes < CLASSES)).all()):
            raise ValueError("its arrays don't fit each other")
    except Exception as error:  # a damaged archive may raise anything
        raise MaskensError(f"{beside} can't be used ({type(error).__name__}); tune again") from error
    if not ours:
        raise MaskensError(f"{beside} does not belong to {path.name} and its photos; tune again")
    return Decision(log_p, classes)


def read_tuning(path: Path) -> Tuning:
    """What `save_tuning` wrote. Raises MaskensError where it can't be used."""
    return read_record(path, Tuning, advice="Tune again, or skip it: --no-tuning")


def kept_tuning(untuned: Sequence[RunTuning]) -> tuple[Tuning, Path] | None:
    """The tuning of these runs, in their order, and its file; None if they are not tuned. Raises MaskensError: a file
    that is damaged or was edited, or one fitted on logits that have changed since."""
    paths = [p for p in (Path(run.run) / tuning_file(untuned) for run in untuned) if p.exists()]
    places = sorted(range(len(untuned)), key=lambda n: untuned[n].oof_hash)
    for path in paths:
        tuning = read_tuning(path)
        theirs = sorted(tuning.fitted.runs, key=lambda run: run.oof_hash)
        if [r.oof_hash for r in theirs] == [untuned[n].oof_hash for n in places]:
            placed = dict(zip(places, theirs, strict=True))
            fitted = tuning.fitted.model_copy(update={"runs": tuple(placed[n] for n in range(len(untuned)))})
            return tuning.model_copy(update={"fitted": fitted}), path
    if paths:
        options = " ".join(f"--run {typed(run.run)}" for run in untuned) + (" --blend" if len(untuned) > 1 else "")
        raise MaskensError(
            f"{paths[0]} was fitted on other out-of-fold logits: a job was trained since. "
            f"Tune again: maskens tune {options}; or skip it: --no-tuning"
        )
    return None


@dataclass(frozen=True)
class ActiveTuning:
    """What is used of what was fitted."""

    fitted: DecisionParams
    tuning: Tuning | None  # None if nothing is tuned
    path: Path | None
    description: str


def apply_tuning(runs: Sequence[Run], tta: Tta | None, tuned: bool = True) -> ActiveTuning:
    """The tuning of these runs if there is one, it is wanted, and it gained more than noise; else none.

    Args:
        tta: name or file of the views to use; a tuning for others is not applied. None takes the tuning's, else flip.
        tuned: False applies none.

    Raises:
        MaskensError: no such views, or as `kept_tuning`.
    """
    name, views = find_set(tta or "flip", known_sets(run_recipe(run).tta for run in runs))
    untuned = tuple(map(untuned_run, runs))
    plain = DecisionParams(tta=name, views=views, runs=untuned)
    found = kept_tuning(untuned) if tuned else None
    if not found:
        return ActiveTuning(plain, None, None, "untuned")
    tuning, path = found
    if not tuning.kept:
        return ActiveTuning(plain, None, None, f"untuned: {path} found no gain beyond noise")
    if tta is not None and views != tuning.fitted.views:
        return ActiveTuning(plain, None, None, f"untuned: {path} is for --tta {tuning.fitted.tta}")
    return ActiveTuning(tuning.fitted, tuning, path, f"tuned: {', '.join(tuning.kept)} ({path})")


def untuned_run(run: Run) -> RunTuning:
    """A run with nothing fitted."""
    return RunTuning(run=str(run.folder), made_of=made_of(run), oof_hash=oof_hash(run))


def made_of(run: Run) -> str:
    """sha256 of all that a run's jobs are trained from: a student and its twin without teachers differ in it."""
    given = [run.fixes_hash, run.merged_hash, run.skipped_hash, *filter(None, [run.extra_hash])]
    given += [sha256_of_file(f) if f.exists() else "" for f in (run.soft_record, run.pseudo_record)]
    return sha256(repr([run_recipe(run).hash, run.seed, run.folds_hash, run.fingerprint, *given]))
