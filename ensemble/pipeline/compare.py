"""Runs side by side."""

from __future__ import annotations

from pathlib import Path

from ensemble.evaluation.compare import Comparison
from ensemble.evaluation.compare import compare as compare_runs
from ensemble.jobs.oof import Checkpoint
from ensemble.pipeline.inputs import Folder, Folders, folders
from ensemble.recipes.views import Tta


def compare(
    runs: Folders, *, data: Folder | None = None, tta: Tta = "flip", checkpoint: Checkpoint = "cross-fitted"
) -> Comparison:
    """What differs between runs, and whether it made a difference: out-of-fold F1 with intervals over people.

    Args:
        runs: two or more; the others are compared with the first.
        data: where the data are now, if they were moved.
        tta: the views of the out-of-fold logits.
        checkpoint: which epoch of each job.

    Raises:
        MaskensError: fewer than two runs, runs of other photos, nothing trained.
    """
    return compare_runs(folders(runs), Path(data) if data else None, tta, checkpoint)
