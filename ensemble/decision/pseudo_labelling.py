"""Pseudo-labels from a run that has predicted the photos of info.csv."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.special import log_softmax

from ensemble.decision.members import Ensemble, members
from ensemble.jobs.oof import Logits, oof_hash
from ensemble.jobs.pseudo_labels import NOT_TAKEN, PseudoLabels
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.schema import Recipe
from folds.data.labels import IntArray
from folds.data.layout import read_eval
from folds.data.people import EvalData
from folds.errors import MaskensError, typed
from folds.run import Run
from folds.runs import differing


def make_pseudo_labels(source: Run, run: Run, root: Path, min_p: float) -> PseudoLabels:
    """What `source` is sure of, for each fold by its models of that fold alone (Lee 2013, "Pseudo-Label: The Simple and
    Efficient Semi-Supervised Learning Method"), the mean over the views of eval.npz, not tuned.

    A photo is taken for its whole class or not at all. Where an early exit left out an age model, its log probabilities
    count as 0, their upper bound, so that the probability of another class is a lower bound; of a class that rests on
    it, it is at most 1/2, as those of three bands are the same.

    Args:
        run: whose jobs are to learn from them.
        root: the data folder.
        min_p: least probability of a class, above 0.5 and at most 1.

    Raises:
        MaskensError: `source` is this run, has other folds or data, is not trained or has not predicted these photos;
            or it is that sure of none.
    """
    _refuse_unlike(source, run)
    data = read_eval(root)
    recipe = run_recipe(source)
    ensemble = Ensemble(tuple(members(source, recipe, allow_missing=False)), {})
    logits = _eval_logits(source, recipe, ensemble, data)
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
    return PseudoLabels(str(source.folder), min_p, data.fingerprint, data.photos.some(taken), classes[:, taken])


def _refuse_unlike(source: Run, run: Run) -> None:
    if source.folder.resolve() == run.folder.resolve():
        raise MaskensError(f"--pseudo {source.folder}: that is this run itself; name one that was trained before.")
    unlike = differing(run, source, "data", "folds")
    if unlike:
        raise MaskensError(
            f"--pseudo {source.folder}: it has other {unlike} than {run.folder}, so its models may have "
            f"seen the people that these are validated on. Make the folds from its own: maskens folds --run "
            f"{typed(run.folder)} --folds-file {typed(source.folds_file)}"
        )


def _eval_logits(source: Run, recipe: Recipe, ensemble: Ensemble, data: EvalData) -> dict[str, Logits]:
    """task -> float32 (folds, views, photos, width).

    Raises:
        MaskensError: there are none, or they are of other photos or folds.
    """
    path, again = source.folder / "eval.npz", f"Predict them: maskens infer --run {typed(source.folder)}"
    try:
        with np.load(path, allow_pickle=False) as file:
            record = json.loads(str(file["record"]))
            found = {task: file[f"logits/{task}"] for task in ensemble.targets}
            same = tuple(file["ids"].tolist()) == data.ids and record["fingerprint"] == data.fingerprint
            folds = record["folds"]
    except FileNotFoundError:
        raise MaskensError(f"--pseudo {source.folder}: it has predicted no photos. {again}") from None
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise MaskensError(f"{path} can't be read, or holds several runs ({error}). {again}") from error
    if not same:
        raise MaskensError(f"{path} is of other photos than those in {data.root / 'eval'}. {again}")
    complete = all(folds.get(task) == ensemble.folds(task) for task in ensemble.targets)
    if not complete or record.get("oof_hashes") != [oof_hash(source, recipe)]:
        raise MaskensError(f"{path} was predicted by other models than those there now, or by maskens 0.5. {again}")
    return found
