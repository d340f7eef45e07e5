"""Which pseudo-labels a training learns from."""

from __future__ import annotations

from pathlib import Path

from ensemble.decision.teaching import make_pseudo_labels
from ensemble.jobs.teaching import PseudoLabels, load_pseudo_labels
from ensemble.pipeline.inputs import Folder
from folds.errors import MaskensError, typed
from folds.run import Run, load_run

PSEUDO_MIN_P = 0.95


def choose_pseudo_labels(run: Run, root: Path, teacher: Folder | None, least: float | None) -> PseudoLabels | None:
    """Those of the run that is named, or those that this run keeps.

    Args:
        root: of the data.
        teacher: the run whose labels are learned from; None: those that are kept, if there are any.
        least: probability of such a label.

    Raises:
        MaskensError: others than those that the run's jobs have learned from.
    """
    kept = load_pseudo_labels(run, root)
    if teacher is None:
        if least is not None:
            raise MaskensError("--pseudo-min-p goes with --pseudo RUN.")
        return kept
    min_p = PSEUDO_MIN_P if least is None else least
    if not 0.5 < min_p <= 1:
        raise MaskensError(f"--pseudo-min-p {min_p:g} is not above 0.5: what is less sure is as likely wrong.")
    named = make_pseudo_labels(load_run(Path(teacher)), run, root, min_p)
    if run.jobs_on_disk() and named.hash != (kept.hash if kept else ""):
        raise MaskensError(
            f"{run.folder} holds models that were trained with {'other' if kept else 'no'} pseudo-labels. "
            f"Begin a new run: maskens folds --run NEW --folds-file {typed(run.folds_file)}"
        )
    return named
