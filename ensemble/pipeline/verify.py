"""Whether runs hold what their commands wrote."""

from __future__ import annotations

from pathlib import Path

from ensemble.evaluation.verify import Verification
from ensemble.evaluation.verify import verify as verify_run
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, load_runs


def verify(runs: Folders = DEFAULT_RUN, *, data: Folder | None = None) -> tuple[Verification, ...]:
    """Recompute what runs record of their data, folds, recipe, jobs, tuning and submission; nothing is written.

    Args:
        runs: each is verified by itself.
        data: where the data are now, if they were moved.

    Returns:
        One for each run; what does not match is in its `wrong`.

    Raises:
        MaskensError: a folder that is no run, or a run.json that can't be read.
    """
    return tuple(verify_run(run, Path(data) if data else None) for run in load_runs(runs))
