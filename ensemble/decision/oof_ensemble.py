"""One run or several on the same folds as one ensemble: their out-of-fold logits side by side."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from ensemble.decision import joint
from ensemble.decision.tuning import DecisionParams, RunTuning, untuned_run
from ensemble.jobs.job import job_names, jobs_of, unverified
from ensemble.jobs.oof import Checkpoint, Logits, pool, select_views, trained_folds
from ensemble.recipes.recipe_file import find_set, run_recipe
from ensemble.recipes.schema import Recipe
from ensemble.recipes.tasks import OutputSpec, training_mask
from ensemble.recipes.views import Tta, TtaSet, known_sets
from folds.errors import MaskensError
from folds.labels import CLASSES, UNKNOWN, FloatArray, IntArray
from folds.people import TrainData, count_skipped
from folds.ranges import in_short
from folds.run_folder import Run, differing, load_data, read_run_data, refuse_other_folds
from folds.splits import strata

FEW_PEOPLE = 10  # of a class; below that the percentile interval over people covers less than it claims


@dataclass(frozen=True)
class RunOofLogits:
    """The out-of-fold logits of one run."""

    run: Run
    recipe: Recipe
    untuned: RunTuning
    logits: Mapping[str, Logits]  # task -> (views, photos, width)
    views: tuple[str, ...]  # that every job has

    @property
    def name(self) -> str:
        return str(self.run.folder)

    @property
    def output_specs(self) -> dict[str, OutputSpec]:
        return {name: task.output_spec for name, task in self.recipe.tasks.items()}

    def of_views(self, task: str, tta: TtaSet) -> Logits:
        """float32 (1, views, photos, width): a set's views, in one fold. Raises MaskensError where a job lacks one."""
        return select_views(self.logits[task], self.views, tta.views)[None]

    def mean_logits(self, task: str, tta: TtaSet) -> FloatArray:
        """float64 (photos, width): the mean over a set's views. Raises MaskensError where a job lacks one."""
        return joint.mean_logits(self.of_views(task, tta), None, tta.weights)


@dataclass(frozen=True)
class OofEnsemble:
    """One run or more, and the photos that each of them predicted out-of-fold."""

    runs: tuple[RunOofLogits, ...]
    data: TrainData  # of the first run, whose labels count
    folds: IntArray  # (people,)
    checkpoint: Checkpoint
    trained: tuple[int, ...]  # the folds that count: those with every task of every run trained
    rows: IntArray  # (photos,): index of each photo in TrainData.files
    fold: IntArray  # (photos,)
    notes: tuple[str, ...]  # what the user should know of the runs

    @functools.cached_property
    def truth(self) -> IntArray:
        """int64 (photos,), 0..17."""
        return self.data.classes[self.rows]

    @functools.cached_property
    def person(self) -> IntArray:
        """int64 (photos,), 0..people-1: who is on two folders or under merged ids is one person."""
        ids = np.array([p.group for p in self.data.people])[self.data.photo_person[self.rows]]
        return np.unique(ids, return_inverse=True)[1].astype(np.int64)

    @functools.cached_property
    def stratum(self) -> IntArray:
        """int64 (people,): gender x age band of each person."""
        found = np.zeros(int(self.person.max()) + 1, dtype=np.int64)
        found[self.person] = strata(self.data.people)[self.data.photo_person[self.rows]]
        return found

    @property
    def class_people(self) -> IntArray:
        """int64 (18,): people with a photo of each class."""
        return np.array([len(np.unique(self.person[self.truth == c])) for c in range(CLASSES)])

    def class_log_probs(self, fitted: DecisionParams) -> FloatArray:
        """float64 (runs, photos, 18): each run's log probabilities, its logits divided by its temperatures."""
        found = []
        for member, tuned in zip(self.runs, fitted.runs, strict=True):
            logits = {task: member.of_views(task, fitted.views) for task in member.logits}
            found.append(joint.joint_log_probabilities(logits, member.output_specs, tuned.temperatures, fitted.views))
        return np.stack(found)

    @functools.cached_property
    def known_sets(self) -> dict[Tta, TtaSet]:
        """The shipped sets of views and those of the runs' recipes."""
        return known_sets(member.recipe.tta for member in self.runs)

    @property
    def views(self) -> list[str]:
        """The views that every run's logits are there for."""
        return [view for view in self.runs[0].views if all(view in m.views for m in self.runs)]

    @property
    def sets(self) -> list[Tta]:
        """The sets of views that every run's logits are there for."""
        return [name for name, tta in self.known_sets.items() if set(tta.views) <= set(self.views)]

    def plain(self, tta: Tta, views: TtaSet | None = None) -> DecisionParams:
        """Nothing fitted: mean of the runs, no temperatures, no offsets. `tta` is the name of these views; without
        `views` that of a set, or a file. Raises MaskensError: there is no such set."""
        name, found = (tta, views) if views else find_set(tta, self.known_sets)
        return DecisionParams(tta=name, views=found, runs=tuple(member.untuned for member in self.runs))

    def decide(self, fitted: DecisionParams) -> joint.Decision:
        """The joint decision of the whole ensemble."""
        return joint.decide(self.class_log_probs(fitted), fitted.weights, fitted.offsets)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those that may differ."""
        return ("last",) if keep_last([member.recipe for member in self.runs]) else get_args(Checkpoint)

    def at(self, checkpoint: Checkpoint) -> OofEnsemble:
        """The same runs, with the logits of another epoch."""
        runs = []
        for m in self.runs:
            found = pool(m.run, self.data, self.folds, self.trained, checkpoint)
            runs.append(dataclasses.replace(m, logits=found.logits, views=found.views))
        return dataclasses.replace(self, runs=tuple(runs), checkpoint=checkpoint)


def keep_last(recipes: Sequence[Recipe]) -> bool:
    """Whether every job of these recipes keeps its last epoch, so that no checkpoint is chosen."""
    return all(task.checkpoint == "last" for recipe in recipes for task in recipe.tasks.values())


def _extra_notes(run: Run, recipe: Recipe, data: TrainData | None, data_folder: Path | None) -> list[str]:
    """How many extra photos each task of a run was trained on; its `data` are read if they are not given."""
    if not run.extra_hash:
        return []
    data = data or read_run_data(run, data_folder)
    counts = {
        name: int((training_mask(task.output_spec, data, task.ages.in_years) & ~data.scored).sum())
        for name, task in recipe.tasks.items()
    }
    learned = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return [f"{run.folder}: {int((~data.scored).sum()):,} extra photos, of which each task is trained on: {learned}"]


def load_oof_ensemble(
    runs: Sequence[Run], data_folder: Path | None, checkpoint: Checkpoint, only: Collection[int] | None = None
) -> OofEnsemble:
    """Read the out-of-fold logits of runs, of the folds that each of them has trained, or of these `only`. Raises
    MaskensError: a run named twice, runs of other photos or folds or that skipped others, no fold that all have
    trained, files that don't belong together."""
    refuse_other_folds(runs)
    first, recipes = runs[0], [run_recipe(run) for run in runs]
    data, folds = load_data(first, data_folder)
    notes = [count_skipped(data.skipped, len(data.files))] if data.skipped else []
    if partial := int((data.classes[data.scored] == UNKNOWN).sum()):
        notes.append(
            f"{partial:,} of {int(data.scored.sum()):,} photos lack a label and are not scored over the 18 classes"
        )
    trained = set(range(first.k) if only is None else only)
    for run, recipe in zip(runs, recipes, strict=True):
        if unlike := differing(first, run, "skipped photos"):
            raise MaskensError(f"{run.folder} has other {unlike} than {first.folder}: train both without the same.")
        notes += _extra_notes(run, recipe, data if run is first else None, data_folder)
        if run.fixes_hash != first.fixes_hash:
            notes.append(f"{run.folder} has other label fixes; the labels of {first.folder} count")
        have, missing = trained_folds(run)
        trained &= set(have)
        notes += unverified(run, jobs_of(run, recipe.tasks, [f for f in have if only is None or f in only]))
        if missing and only is None:
            there = f"{in_short(have)} of 0..{run.k - 1}" if have else "none"
            notes.append(f"{run.folder}: folds that count: {there}; not trained: {job_names(missing)}")
    if not trained:
        raise MaskensError("the runs have no fold in common that each has trained; train the same folds.")
    if keep_last(recipes):
        checkpoint = "last"
    untuned = [untuned_run(run) for run in runs]  # verifies the checksums
    members = []
    for run, recipe, plain in zip(runs, recipes, untuned, strict=True):
        pooled = pool(run, data, folds, sorted(trained), checkpoint)
        members.append(RunOofLogits(run, recipe, plain, pooled.logits, pooled.views))
    found = OofEnsemble(
        tuple(members), data, folds, checkpoint, tuple(sorted(trained)), pooled.rows, pooled.fold, tuple(notes)
    )
    people, few = found.class_people, int((found.class_people < FEW_PEOPLE).sum())
    count = f"{few} of {CLASSES} classes (class {people.argmin()}: {people.min()})"
    note = f"fewer than {FEW_PEOPLE} people in {count}: their F1 and intervals are unreliable"
    return dataclasses.replace(found, notes=(*notes, note)) if few else found
