"""Who teaches a student, and how: the models of an ensemble, fold by fold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ensemble.decision.members import Ensemble, members
from ensemble.decision.tuning import made_of
from ensemble.jobs.oof import job_names
from ensemble.jobs.soft_targets import SoftTargets
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.tta_choice import find_set
from ensemble.recipes.tta_sets import TtaSet, known_sets
from ensemble.recipes.tta_views import Tta
from folds.errors import MaskensError, typed
from folds.files import sha256
from folds.run import Run


def soft_targets_of(
    runs: Sequence[Run], tta: Tta | None = None, temperature: float = 1.0, alpha: float = 0.5
) -> tuple[SoftTargets, TtaSet]:
    """How an ensemble is to teach; nothing is predicted yet.

    Knowledge distillation (Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network") has a student
    match its teacher's softened probabilities softmax(z / T) with its own at the same T, adds the cross-entropy of the
    label at T = 1, and multiplies the former by T^2, because their gradients shrink as 1 / T^2. Here one target mixes
    both, (1 - alpha) * label + alpha * p^(1/T), and the student's own probabilities are at T = 1 always. So no T^2 is
    due; cross-entropy and the focal loss, which are linear in the target, are the same mix of a loss of the label and a
    loss of the teacher; and at T other than 1 the student learns to be that much less sure or surer. With T = 1 this is
    the imitation of Lopez-Paz et al. 2016, "Unifying distillation and privileged information".

    Like Hinton's, the teacher has seen the photos that it labels: fold k of the student learns from the teacher's
    models of fold k, because all others were trained on the labels of the people whom it is scored on. A tuning was
    fitted on those labels, too, so the ensemble teaches untuned.

    Args:
        runs: on the same folds; several are one ensemble.
        tta: name or file of the views; None is flip.
        temperature: T.
        alpha: share of the teachers in a target, above 0 and at most 1.

    Returns:
        (soft targets of no fold, the views).

    Raises:
        MaskensError: no such views, or a number out of its range.
    """
    if not 0 < alpha <= 1:
        raise MaskensError(f"--alpha {alpha:g}: the ensemble's share of a target lies above 0 and is at most 1.")
    if not 0.1 <= temperature <= 100:
        raise MaskensError(
            f"--temperature {temperature:g}: name a number from 0.1 to 100; 1 leaves the ensemble as it is."
        )
    recipes = [run_recipe(run) for run in runs]
    name, views = find_set(tta or "flip", known_sets(recipe.tta for recipe in recipes))
    passes = sum(len(recipe.tasks) * run.k for run, recipe in zip(runs, recipes, strict=True)) * len(views.views)
    teachers = tuple(str(run.folder) for run in runs)
    made_by = tuple(made_of(run, recipe) for run, recipe in zip(runs, recipes, strict=True))
    return SoftTargets(teachers, made_by, name, sha256(views.model_dump_json()), passes, temperature, alpha), views


def teachers_of_fold(runs: Sequence[Run], views: TtaSet, fold: int) -> list[Ensemble]:
    """Of each run the models of one fold, untuned. Raises MaskensError as `members`."""
    return [
        Ensemble(tuple(members(run, run_recipe(run), False, only=fold)), {}, views, (), run.class_photos)
        for run in runs
    ]


def refuse_unfinished(runs: Sequence[Run], folds: Collection[int]) -> None:
    """Refuse folds of a student whose teachers are not trained. Raises MaskensError naming them."""
    for run in runs:
        pairs = [(task, fold) for fold in sorted(folds) for task in run_recipe(run).tasks]
        missing = [job for job in pairs if not (run.job_folder(*job) / "oof.npz").exists()]
        if missing:
            written = ",".join(str(fold) for fold in sorted({fold for _, fold in missing}))
            raise MaskensError(
                f"{run.folder} can't teach fold {written} yet, whose models are not trained: {job_names(missing, 8)}. "
                f"Train them: maskens train --run {typed(run.folder)} --fold {written}"
            )
