"""Several runs on the same folds as one ensemble: their out-of-fold logits side by side."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.decision.decide import Decision, decide, most_probable
from ensemble.decision.joint import column_temperatures, joint_log_probabilities
from ensemble.decision.tuning import DecisionParams, RunTuning, untuned_run
from ensemble.jobs.job import job_names, jobs_of, unverified
from ensemble.jobs.oof import Checkpoint, Logits, pool, select_views, trained_folds
from ensemble.metrics.scores import few_people, macro_f1
from ensemble.recipes.recipe_file import find_set, run_recipe
from ensemble.recipes.schema import Recipe
from ensemble.recipes.tasks import OutputSpec
from ensemble.recipes.views import Tta, TtaSet, as_set, known_sets
from folds.errors import MaskensError
from folds.labels import CLASSES, FloatArray, IntArray
from folds.people import TrainData, count_skipped
from folds.ranges import in_short
from folds.run_folder import Run, differing, load_data, refuse_other_folds
from folds.splits import strata

ROUNDS = 25  # of the greedy selection: weights come in steps of 1/25 at the finest


@dataclass(frozen=True)
class RunOofLogits:
    """What one run says out-of-fold."""

    run: Run
    recipe: Recipe
    untuned: RunTuning
    logits: Mapping[str, Logits]  # task -> (views, photos, width)
    views: tuple[str, ...]  # that every job has

    @property
    def name(self) -> str:
        return str(self.run.folder)

    @property
    def targets(self) -> dict[str, OutputSpec]:
        return {name: task.target for name, task in self.recipe.tasks.items()}

    def mean_logits(self, task: str, tta: Tta | TtaSet) -> FloatArray:
        """float64 (photos, width): the mean over a set's views. Raises MaskensError where a job lacks one."""
        found, weights = self.view_logits(task, tta), as_set(tta).weights
        if weights:
            return np.asarray(np.average(found, axis=0, weights=weights))
        return np.asarray(found.mean(axis=0, dtype=np.float64))

    def view_logits(self, task: str, tta: Tta | TtaSet) -> Logits:
        """float32 (views, photos, width): of a set's views. Raises MaskensError where a job lacks one."""
        return select_views(self.logits[task], self.views, as_set(tta).views)


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

    def class_log_probs(self, fitted: DecisionParams) -> FloatArray:
        """float64 (runs, photos, 18): each run's log probabilities, its logits divided by its temperatures."""
        found, tta = [], fitted.tta_set
        for member, tuned in zip(self.runs, fitted.runs, strict=True):
            logits = {}
            for task in member.logits:
                merged = member.mean_logits if tta.merge == "mean" else member.view_logits
                values = merged(task, tta).astype(np.float64)
                if task in tuned.temperatures:
                    values /= column_temperatures(tuned.temperatures[task], member.targets[task])
                logits[task] = values
            found.append(joint_log_probabilities(logits, member.targets, tta))
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
        """Nothing fitted: mean of the runs, no temperatures, no offsets.

        Args:
            views: what `tta` means; None is the set of that name, or in that file.

        Raises:
            MaskensError: there is no such set.
        """
        name, found = (tta, views) if views else find_set(tta, self.known_sets)
        return DecisionParams(tta=name, views=found, runs=tuple(member.untuned for member in self.runs))

    def decide(self, fitted: DecisionParams) -> Decision:
        """What the whole ensemble says."""
        return decide(self.class_log_probs(fitted), fitted.weights, fitted.offsets)


def load_oof_ensemble(
    runs: Sequence[Run], data_folder: Path | None, checkpoint: Checkpoint, only: Collection[int] | None = None
) -> OofEnsemble:
    """Read what runs say out-of-fold on the folds that each of them has trained.

    Args:
        only: these of the folds; None is all.

    Raises:
        MaskensError: a run named twice, runs of other photos or folds or that left out others, no fold that all have
            trained, files that don't belong together.
    """
    refuse_other_folds(runs)
    first = runs[0]
    data, folds = load_data(first, data_folder)
    for other in runs[1:]:
        if unlike := differing(first, other, "skipped photos"):
            raise MaskensError(f"{other.folder} has other {unlike} than {first.folder}: train both without the same.")
    notes = [f"{count_skipped(data.skipped, len(data.files))} of {first.folder}"] if data.skipped else []
    notes += [
        f"{other.folder} has other label fixes; the labels of {first.folder} count"
        for other in runs[1:]
        if other.fixes_hash != first.fixes_hash
    ]
    recipes = [run_recipe(run) for run in runs]
    trained = set(range(first.k) if only is None else only)
    for run, recipe in zip(runs, recipes, strict=True):
        have, missing = trained_folds(run, recipe)
        trained &= set(have)
        notes += unverified(run, jobs_of(run, recipe.tasks, [f for f in have if only is None or f in only]))
        if missing and only is None:
            there = f"{in_short(have)} of 0..{run.k - 1}" if have else "none"
            notes.append(f"{run.folder}: folds that count: {there}; not trained: {job_names(missing)}")
    if not trained:
        raise MaskensError("the runs have no fold in common that each has trained; train the same folds.")
    untuned = [
        untuned_run(run, recipe) for run, recipe in zip(runs, recipes, strict=True)
    ]  # before the logits are read
    pooled = [
        pool(run, recipe, data, folds, sorted(trained), checkpoint) for run, recipe in zip(runs, recipes, strict=True)
    ]
    members = tuple(
        RunOofLogits(run, recipe, plain, found.logits, found.views)
        for run, recipe, plain, found in zip(runs, recipes, untuned, pooled, strict=True)
    )
    blend = OofEnsemble(
        members, data, folds, checkpoint, tuple(sorted(trained)), pooled[0].rows, pooled[0].fold, tuple(notes)
    )
    few = few_people(blend.stratum)
    return dataclasses.replace(blend, notes=(*notes, few)) if few else blend


def at_checkpoint(blend: OofEnsemble, checkpoint: Checkpoint) -> OofEnsemble:
    """The same runs, with the logits of another epoch."""
    members = []
    for m in blend.runs:
        found = pool(m.run, m.recipe, blend.data, blend.folds, [*blend.trained], checkpoint)
        members.append(dataclasses.replace(m, logits=found.logits, views=found.views))
    return dataclasses.replace(blend, runs=tuple(members), checkpoint=checkpoint)


def greedy_weights(class_log_probs: FloatArray, truth: IntArray) -> tuple[float, ...]:
    """Weights of the runs by greedy selection with replacement (Caruana et al. 2004, "Ensemble Selection from
    Libraries of Models").

    In each round the run is added with which the mean of all added so far has the highest macro F1; ties go to
    a run already selected. The best of all rounds counts, ties go to the earliest.

    Args:
        class_log_probs: float64 (runs, photos, 18), log probabilities.
        truth: int64 (photos,).

    Returns:
        (runs,), summing to 1.
    """
    counts = np.zeros(len(class_log_probs), dtype=np.int64)
    total = np.zeros(class_log_probs.shape[1:])
    best, best_f1 = counts, -1.0
    for _ in range(ROUNDS):
        f1 = [round(macro_f1(truth, most_probable(total + joint), CLASSES), 6) for joint in class_log_probs]
        chosen = max(range(len(class_log_probs)), key=lambda i: (f1[i], counts[i] > 0, -i))
        counts = counts + np.eye(len(class_log_probs), dtype=np.int64)[chosen]
        total = total + class_log_probs[chosen]
        if f1[chosen] > best_f1:
            best, best_f1 = counts, f1[chosen]
    return tuple((best / best.sum()).tolist())
