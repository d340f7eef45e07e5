"""Soft targets for a student from the out-of-fold predictions of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.decision.blend import Blend, load_blend
from ensemble.decision.tuning import apply_tuning, read_nested
from ensemble.jobs.oof import job_names, trained_folds
from ensemble.jobs.soft_targets import SoftTargets
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.tta_views import Tta
from folds.errors import MaskensError
from folds.run import Run


def make_soft_targets(
    runs: Sequence[Run],
    data_folder: Path | None = None,
    tta: Tta | None = None,
    tuned: bool = True,
    temperature: float = 1.0,
    alpha: float = 0.5,
) -> tuple[SoftTargets, Blend]:
    """What an ensemble says of each labelled photo by models that never saw its person.

    Knowledge distillation (Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network") has a student
    match its teacher's softened probabilities softmax(z / T) with its own at the same T, adds the cross-entropy of the
    label at T = 1, and multiplies the former by T^2, because their gradients shrink as 1 / T^2. Here one target mixes
    both, (1 - alpha) * label + alpha * p^(1/T), and the student's own probabilities are at T = 1 always. So no T^2 is
    due; cross-entropy and the focal loss, which are linear in the target, are the same mix of a loss of the label and a
    loss of the teacher; and at T other than 1 the student learns to be that much less sure or surer. With T = 1 this is
    the imitation of Lopez-Paz et al. 2016, "Unifying distillation and privileged information". Hinton's teacher also
    has seen the photos that it labels; this one has not, so that it says how sure one can be of somebody unknown.

    A tuned ensemble speaks by its tuning, each person by one that was fitted on others (`tune.nested`); offsets, which
    move decisions only, are left out.

    Args:
        runs: on the same folds; several are one ensemble.
        data_folder: where the data are now, if they were moved.
        tta: as of `apply_tuning`.
        tuned: with what `maskens tune` fitted.
        temperature: T, above 0.
        alpha: share of the teachers in a target, above 0 and at most 1.

    Returns:
        (soft targets, the ensemble).

    Raises:
        MaskensError: a run that lacks a fold, runs that don't belong together, a number out of its range.
    """
    if not 0 < alpha <= 1:
        raise MaskensError(f"--alpha {alpha:g}: the ensemble's share of a target lies above 0 and is at most 1.")
    if not 0.1 <= temperature <= 100:
        raise MaskensError(
            f"--temperature {temperature:g}: name a number from 0.1 to 100; 1 leaves the ensemble as it is."
        )
    _refuse_unfinished(runs)
    blend = load_blend(runs, data_folder, "best")
    applied = apply_tuning([m.run for m in blend.runs], [m.recipe for m in blend.runs], tta, tuned)
    files = tuple(blend.data.files[row] for row in blend.rows)
    nested = applied.path if applied.tuning else None
    decision = read_nested(nested, files) if nested else blend.decide(applied.fitted)
    soft = SoftTargets(
        teachers=tuple(m.name for m in blend.runs),
        used=f"{applied.fitted.tta}, {applied.without('offsets')}",
        oof_hashes=tuple(m.untuned.oof_hash for m in blend.runs),
        passes=sum(len(m.recipe.tasks) * m.run.k for m in blend.runs) * len(applied.fitted.tta_set.views),
        files=files,
        log_probabilities=decision.log_probabilities.astype(np.float32),
        temperature=temperature,
        alpha=alpha,
    )
    return soft, blend


def _refuse_unfinished(runs: Sequence[Run]) -> None:
    """A photo that nobody predicted out-of-fold has no soft target."""
    for run in runs:
        _, missing = trained_folds(run, run_recipe(run))
        if missing:
            folds = ",".join(str(fold) for fold in sorted({fold for _, fold in missing}))
            raise MaskensError(
                f"{run.folder} can't teach yet: {len(missing)} of its models are not trained, {job_names(missing, 8)}, "
                f"and the people of their folds would have no soft targets. "
                f"Train them: maskens train --run {run.folder} --fold {folds}"
            )
