"""A run on the data and folds of another."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from folds.data.layout import place_of
from folds.data.people import TrainData
from folds.errors import MaskensError
from folds.replacing import replacing
from folds.run import Run, refuse_foreign, remembered, save_run
from folds.runs import differing
from folds.versions import library_versions


def run_like(source: Run, folder: Path, data: TrainData) -> Run:
    """The run in `folder`, on the data, folds, seed, label fixes and merged ids of `source`; a new one, without the
    photos that `source` skips, if there is none yet. Nothing is written.

    Args:
        data: of `source`, where they are now.

    Raises:
        MaskensError: the folder holds something else, or a run that differs in one of these.
    """
    refuse_foreign(folder, "--out")
    before = remembered(folder)
    if before is None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return dataclasses.replace(
            source,
            folder=folder,
            data=place_of(data.root, folder),
            recipe_hash="",
            created=now,
            versions=library_versions(),
        )
    unlike = differing(source, before, "data", "folds", "seed", "label fixes", "merged ids")
    if unlike:
        raise MaskensError(f"{folder} is a run with other {unlike} than {source.folder}. Name a new folder: --out DIR")
    return before


def write_run_like(run: Run, source: Run) -> None:
    """Write a run of `run_like`, or what is missing of it."""
    if not (run.folder / "run.json").exists():
        save_run(run)  # first: if the disk is full after it, the next start writes the rest
    files = (
        (source.folds_file, run.folds_file, run.folds_hash),
        (source.fixes_file, run.fixes_file, run.fixes.hash),
        (source.merged_file, run.merged_file, run.merged_hash),
        (source.skipped_file, run.skipped_file, run.skipped_hash),
    )
    for theirs, ours, recorded in files:
        if recorded and not ours.exists():
            with replacing(ours) as handle:
                handle.write(theirs.read_bytes())
