"""The trained models of a run, checked, and their joint predictions; which models a command predicts with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from ensemble.decision.joint import FLIP, joint_scores, log_prior
from ensemble.decision.tuning import ActiveTuning, DecisionParams, apply_tuning
from ensemble.jobs.card import ModelCard, read_card
from ensemble.jobs.job import Job, job_names, jobs_of, unverified
from ensemble.jobs.oof import Logits
from ensemble.jobs.spec import run_identity
from ensemble.recipes.recipe_file import run_recipe
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import OutputSpec
from ensemble.recipes.views import Tta, TtaSet
from folds.errors import MaskensError, refuse, typed
from folds.labels import CLASSES
from folds.ranges import FULL, in_short
from folds.run_folder import MODEL, Run, refuse_other_folds

BLOCK = 2**14  # photos scored at a time, which bounds the memory


@dataclass(frozen=True)
class Member:
    """One trained model of the ensemble."""

    task: str
    fold: int  # or FULL
    path: Path
    card: ModelCard
    sha256: str  # of the checkpoint

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.path.parents[2]


@dataclass(frozen=True)
class Ensemble:
    """The models of one run, in the order of task and fold, FULL last, and what was fitted for them."""

    members: tuple[Member, ...]
    temperatures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Task -> of each head, for the mean of the folds; empty if untuned."""
    tta: TtaSet = FLIP  # how its views are merged
    notes: tuple[str, ...] = ()  # what the user should know of the models
    class_photos: tuple[int, ...] = (1,) * CLASSES  # of each class in training: the decision on a photo never seen
    of_one_fold: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Temperatures of a fold's models alone."""

    @property
    def output_specs(self) -> dict[str, OutputSpec]:
        return {m.task: m.card.output_spec for m in self.members}

    def folds(self, task: str) -> list[int]:
        """The folds whose model there is, in the order of the logits."""
        return [m.fold for m in self.members if m.task == task]

    def scores(
        self, logits: Mapping[str, Logits], only: int | None = None, missing: float = -np.inf
    ) -> npt.NDArray[np.float64]:
        """`joint_scores` of the logits, float64 (photos, 18).

        Args:
            logits: task -> float32 (folds, views, photos, width), NaN where a photo was not shown.
            only: the one fold whose models predict. Default: all.
        """
        temperatures = self.temperatures
        if only is not None:
            temperatures = self.of_one_fold
            logits = {task: values[np.array(self.folds(task)) == only] for task, values in logits.items()}
        return joint_scores(logits, self.output_specs, temperatures, self.tta, missing)

    def joint(self, logits: Mapping[str, Logits], only: int | None = None) -> npt.NDArray[np.float64]:
        """`scores`, normalised to log probabilities; `log_prior` where a photo was shown to no model."""
        photos, parts = next(iter(logits.values())).shape[2], []
        for start in range(0, max(1, photos), BLOCK):
            block = {task: values[:, :, start : start + BLOCK] for task, values in logits.items()}
            scores = self.scores(block, only)
            unseen = np.isneginf(scores).all(axis=1, keepdims=True)
            parts.append(log_softmax(np.where(unseen, log_prior(self.class_photos), scores), axis=1))
        return np.concatenate(parts)

    @property
    def complete_folds(self) -> list[int]:
        """The folds of which every task has a model, in the order of the logits."""
        every = set.intersection(*(set(self.folds(t)) for t in self.output_specs))
        return [fold for fold in self.folds(self.members[0].task) if fold in every]


def all_members(ensembles: Iterable[Ensemble]) -> list[Member]:
    """The models of several runs, in order."""
    return [member for ensemble in ensembles for member in ensemble.members]


def preprocessings(ensembles: Iterable[Ensemble]) -> list[Preprocessing]:
    """How photos are shown to the models of these runs, each way once."""
    return list(dict.fromkeys(member.card.preprocessing for member in all_members(ensembles)))


Only = Literal["full", "folds"]
"""Which models of a run predict: the one on everybody, or those of the folds."""


def choose_folds(run: Run, only: Only | None) -> tuple[list[int], list[str]]:
    """(the folds whose models predict, all or none of the tasks of FULL, notes). Raises MaskensError: only the model
    on everybody is to predict, and it is not trained."""
    full = jobs_of(run, run_recipe(run).tasks, [FULL])
    missing = [job for job in full if not job.complete]
    command = f"Train it: maskens train --run {typed(run.folder)} --fold full"
    if only == "full":
        if missing:
            raise MaskensError(f"--only full: {run.folder} has no {job_names(missing, 8)} yet. {command}")
        return [FULL], []
    if only == "folds" or len(missing) == len(full):
        return [*range(run.k)], []
    if missing:
        return [*range(run.k)], [f"{run.folder}: full is not used, as {job_names(missing, 8)} is missing. {command}"]
    return [*range(run.k), FULL], []


def members(run: Run, allow_missing: bool, folds: Sequence[int] | None = None) -> list[Member]:
    """The trained models of a run, checked against its recipe and folds by their cards.

    Args:
        allow_missing: if models are missing, take the folds of which every task is trained, or all models that there
            are if there is no such fold.
        folds: those of these folds; None is all, without FULL.

    Raises:
        MaskensError: jobs that are not trained (unless allowed, and then a task without any), checkpoints that are
            damaged or not as their job left them, or of another recipe or other folds.
    """
    recipe = run_recipe(run)
    found: list[Member] = []
    missing: list[Job] = []
    problems: list[str] = []
    for job in jobs_of(run, recipe.tasks, folds):
        if not job.complete:
            missing.append(job)
            continue
        try:
            digest, card = job.verified_sha256(MODEL), read_card(job.model)
        except MaskensError as error:
            problems.append(str(error))
            continue
        task = recipe.tasks[job.task]
        expected = run_identity(run, recipe, job.task, job.fold) | {
            "model": task.model,
            "model_args": task.model_args,
            "output_spec": task.output_spec,
            "preprocessing": task.preprocessing,
        }
        if wrong := [key.removesuffix("_hash") for key, value in expected.items() if getattr(card, key) != value]:
            problems.append(f"{job.model} belongs to another {' and '.join(wrong)}")
        found.append(Member(job.task, job.fold, job.model, card, digest))
    refuse(problems, "the trained models can't all be used")
    without = recipe.tasks.keys() - {m.task for m in found}
    if without or (missing and not allow_missing):
        written = ",".join(str(f) for f in sorted({job.fold for job in missing}))
        hint = "" if without else " Or predict with the folds that are there: --allow-missing."
        raise MaskensError(
            f"{len(missing)} of {len(missing) + len(found)} models are not trained yet: {job_names(missing, 8)}. "
            f"Train them: maskens train --run {typed(run.folder)} --fold {written}.{hint}"
        )
    whole = {member.fold for member in found} - {job.fold for job in missing}
    return [member for member in found if member.fold in whole] if whole else found


def _used_folds(run: Run, found: Sequence[Member]) -> str:
    """A note on which folds predict, where not all do."""
    folds = {task: in_short(m.fold for m in found if m.task == task) for task in run_recipe(run).tasks}
    if len(used := set(folds.values())) == 1:
        return f"{run.folder}: models of the folds {used.pop()}; the others of {run.k} are not complete"
    each = ", ".join(f"{task} {its}" for task, its in folds.items())
    return f"{run.folder}: no fold has a model of every task; models of the folds {each}"


def load_ensembles(
    runs: Sequence[Run], fitted: DecisionParams, allow_missing: bool, only: Only | None = None
) -> list[Ensemble]:
    """The trained models of several runs and the temperatures fitted for them: for the mean of the folds, with FULL as
    one more, or for FULL alone those of a single fold. Raises as `members` and `choose_folds`."""
    ensembles = []
    for run, tuned in zip(runs, fitted.runs, strict=True):
        chosen, notes = choose_folds(run, only)
        found = tuple(members(run, allow_missing, chosen))
        if len(found) < len(chosen) * len(run_recipe(run).tasks):
            notes.append(_used_folds(run, found))
        notes += unverified(run, [Job(run, m.task, m.fold) for m in found])
        temperatures = tuned.temperatures if only == "full" else tuned.mean_temperatures
        ensembles.append(
            Ensemble(found, temperatures, fitted.views, tuple(notes), run.class_photos, tuned.temperatures)
        )
    return ensembles


@dataclass(frozen=True)
class ChosenEnsembles:
    """Which models predict, and how."""

    ensembles: list[Ensemble]
    fitted: DecisionParams  # for these ensembles, in their order
    tuning: ActiveTuning
    runs: Sequence[Run]

    @property
    def models(self) -> int:
        return len(all_members(self.ensembles))

    @property
    def counted(self) -> str:
        """How many models, and where those on everybody are among them, of which folds."""
        folds = {m.fold for m in all_members(self.ensembles)}
        rest = in_short(folds - {FULL})
        of = "" if FULL not in folds else f" of folds {rest} and full" if rest else " of full"
        return f"{self.models} models{of}"

    @property
    def description(self) -> str:
        """Models, views and tuning."""
        return f"{self.counted}, views: {self.fitted.tta}, {self.tuning.description}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the models."""
        return tuple(line for e in self.ensembles for line in e.notes)

    @property
    def aspect(self) -> float:
        """Height / width of the photos that the models were trained on."""
        from folds.photo_files import training_aspect

        height, width = self.ensembles[0].members[0].card.preprocessing.resize
        return training_aspect(self.runs[0]) or height / width


def choose_ensembles(
    runs: Sequence[Run],
    tta: Tta | None,
    tuned: bool,
    allow_missing: bool,
    only: Only | None = None,
    weighted: bool = True,
) -> ChosenEnsembles:
    """The models of runs that are one ensemble.

    Args:
        tta: name or file of the views; None takes the tuning's, else flip.
        tuned: apply what was fitted for these runs.
        allow_missing: see `members`.
        only: the model on everybody, or those of the folds; None: all.
        weighted: skip runs whose tuned weight is 0.

    Raises:
        MaskensError: models missing or damaged, runs of other folds.
    """
    refuse_other_folds(runs)
    tuning = apply_tuning(runs, tta, tuned)
    used, fitted = runs, tuning.fitted
    if weighted:
        used = [run for run, its in zip(runs, fitted.runs, strict=True) if its.weight]
        fitted = fitted.model_copy(update={"runs": tuple(its for its in fitted.runs if its.weight)})
    return ChosenEnsembles(load_ensembles(used, fitted, allow_missing, only), fitted, tuning, used)
