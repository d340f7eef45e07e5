"""Making soft targets and pseudo-labels from the predictions of a trained ensemble."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.special import log_softmax

from ensemble.decision.eval_logits import read_logits
from ensemble.decision.members import Ensemble, members
from ensemble.decision.tuning import made_of
from ensemble.jobs.job import Job, job_names
from ensemble.jobs.oof import Logits, oof_hash
from ensemble.jobs.soft_targets import NOT_TAKEN, PseudoLabels, SoftTargets
from ensemble.recipes.recipe_file import find_set, run_recipe
from ensemble.recipes.views import Tta, TtaSet, known_sets
from folds.errors import MaskensError, typed
from folds.files import sha256
from folds.labels import IntArray
from folds.layout import read_eval
from folds.people import EvalData
from folds.ranges import FULL
from folds.run_folder import Run, differing


def soft_targets_of(
    runs: Sequence[Run], tta: Tta | None, temperature: float, alpha: float
) -> tuple[SoftTargets, TtaSet]:
    """How an ensemble is to teach, and with which views; nothing is predicted yet.

    Knowledge distillation (Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network"), with one
    target (1 - alpha) * label + alpha * p^(1/T) for both losses; the student's own probabilities are at T = 1, so that
    the factor T^2, which makes up for gradients that shrink with T, is not due. With T = 1 this is the imitation of
    Lopez-Paz et al. 2016, "Unifying distillation and privileged information".

    Fold k of the student learns from the teacher's models of fold k, because all others were trained on the labels of
    the people whom it is scored on. A tuning was fitted on those labels, too, so the ensemble teaches untuned.

    Args:
        runs: on the same folds; several are one ensemble.
        tta: name or file of the views; None is flip.
        temperature: T.
        alpha: fraction of the teachers in a target, above 0 and at most 1.

    Raises:
        MaskensError: no such views, or a number out of its range.
    """
    if not 0 < alpha <= 1:
        raise MaskensError(f"--alpha {alpha:g}: the ensemble's fraction of a target lies above 0 and is at most 1.")
    if not 0.1 <= temperature <= 100:
        raise MaskensError(
            f"--temperature {temperature:g}: name a number from 0.1 to 100; 1 leaves the ensemble as it is."
        )
    recipes = [run_recipe(run) for run in runs]
    name, views = find_set(tta or "flip", known_sets(recipe.tta for recipe in recipes))
    passes = sum(len(recipe.tasks) * run.k for run, recipe in zip(runs, recipes, strict=True)) * len(views.views)
    teachers = tuple(str(run.folder) for run in runs)
    made_by, views_hash = tuple(map(made_of, runs)), sha256(views.model_dump_json())
    return SoftTargets(teachers, made_by, name, views_hash, passes, temperature, alpha), views


def teachers_of_fold(runs: Sequence[Run], views: TtaSet, fold: int) -> list[Ensemble]:
    """Of each run the models of one fold, untuned. Raises MaskensError as `members`."""
    return [Ensemble(tuple(members(run, False, [fold])), tta=views, class_photos=run.class_photos) for run in runs]


def refuse_unfinished(runs: Sequence[Run], folds: Collection[int]) -> None:
    """Raises MaskensError naming folds of a student whose teachers are not trained."""
    for run in runs:
        jobs = [Job(run, task, fold) for fold in sorted(folds) for task in run_recipe(run).tasks]
        missing = [job for job in jobs if not job.trained]
        if missing:
            written = ",".join(str(fold) for fold in sorted({job.fold for job in missing}))
            raise MaskensError(
                f"{run.folder} can't teach fold {written} yet, whose models are not trained: {job_names(missing, 8)}. "
                f"Train them: maskens train --run {typed(run.folder)} --fold {written}"
            )


def make_pseudo_labels(source: Run, run: Run, root: Path, min_p: float) -> PseudoLabels:
    """The classes that `source` is sure of, for each fold by its models of that fold alone (Lee 2013, "Pseudo-Label:
    The Simple and Efficient Semi-Supervised Learning Method"), the mean over the views of eval.npz, not tuned.

    Where an early exit skipped an age model, its log probabilities count as 0, their upper bound, so that the
    probability of another class is a lower bound; of a class that rests on it, it is at most 1/2.

    Args:
        run: whose jobs are to learn from them.
        root: the data folder.
        min_p: least probability of a class, above 0.5 and at most 1.

    Raises:
        MaskensError: `source` is this run, has other folds or data, is not trained or has not predicted these photos;
            or it is that sure of none.
    """
    if source.folder.resolve() == run.folder.resolve():
        raise MaskensError(f"--pseudo {source.folder}: that is this run itself; name one that was trained before.")
    if unlike := differing(run, source, "data", "folds"):
        raise MaskensError(
            f"--pseudo {source.folder}: it has other {unlike} than {run.folder}, so its models may have "
            f"seen the people that these are validated on. Make the folds from its own: "
            f"maskens folds --run {typed(run.folder)} --folds-file {typed(source.folds_file)}"
        )
    data = read_eval(root)
    ensemble = Ensemble(tuple(members(source, allow_missing=False)))
    logits = _eval_logits(source, ensemble, data)
    classes = np.full((run.k, len(data.ids)), NOT_TAKEN, dtype=np.int64)
    surest = 0.0
    for fold in range(run.k):
        log_p = log_softmax(ensemble.scores(logits, only=fold, missing=0.0), axis=1)
        best, p = log_p.argmax(axis=1), np.exp(log_p.max(axis=1))
        classes[fold, p >= min_p] = best[p >= min_p]
        surest = max(surest, float(p.max()))
    taken: IntArray = np.flatnonzero((classes != NOT_TAKEN).any(axis=0))
    if not len(taken):
        raise MaskensError(
            f"--pseudo-min-p {min_p:g}: {source.folder} is not that sure of any photo; its surest class has a "
            f"probability of {surest:.3f}."
        )
    photos = data.photos.some(taken)
    labels = dict(zip(photos.files, map(tuple, classes[:, taken].T.tolist()), strict=True))
    return PseudoLabels(str(source.folder), min_p, data.photos.fingerprint, labels, photos)


def _eval_logits(source: Run, ensemble: Ensemble, data: EvalData) -> dict[str, Logits]:
    """task -> float32 (folds, views, photos, width). Raises MaskensError: none, or of other photos or folds."""
    path, again = source.eval_file, f"Predict them: maskens infer --run {typed(source.folder)}"
    try:
        read = read_logits(path)
        same = (tuple(read.ids), read.record["fingerprint"]) == (data.ids, data.photos.fingerprint)
        folds = {task: [f for f in its if f != FULL] for task, its in read.record["folds"].items()}
        found = {task: read.of_folds(task) for task in ensemble.output_specs}
    except FileNotFoundError:
        raise MaskensError(f"--pseudo {source.folder}: it has predicted no photos. {again}") from None
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise MaskensError(f"{path} can't be read, or holds several runs ({error}). {again}") from error
    if not same:
        raise MaskensError(f"{path} is of other photos than those in {data.photos.root / 'eval'}. {again}")
    complete = all(folds.get(task) == ensemble.folds(task) for task in ensemble.output_specs)
    if not complete or read.record["oof_hashes"] != [oof_hash(source)]:
        raise MaskensError(f"{path} was predicted by other models than those there now. {again}")
    return found
