"""Splitting the people of a data folder into folds: the start of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, OnProgress, part_of, read_labelled
from folds.corrections import apply_merges
from folds.errors import refuse
from folds.labels import IntArray
from folds.people import TrainData
from folds.run import Run, kept_folds, refuse_foreign, start_run
from folds.splits import make_folds as split_people
from folds.splits import read_folds


@dataclass(frozen=True)
class Folds:
    """A run and the folds it begins with."""

    run: Run
    data: TrainData
    folds: IntArray  # (people,), 0..k-1
    k: int
    note: str  # what happened to folds that were there before, "" if there were none
    near_duplicates: tuple[str, ...] | None  # pairs of photos of two people, in words; None if nobody looked
    newly_merged: int = 0  # pairs of photos by which ids were found to be one person


def make_folds(
    data: Folder | None = None,
    run: Folder = DEFAULT_RUN,
    *,
    k: int | None = None,
    seed: int | None = None,
    folds_file: Folder | None = None,
    fixes: Sequence[str] = (),
    merge: Sequence[Folder] = (),
    merge_duplicates: bool = False,
    check_photos: bool = False,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Folds:
    """Split people into folds, no person in two, every class in each, and write the run folder.

    Args:
        data: the data folder; None takes the run's, at first `data`.
        k: folds; None takes the run's, at first 5.
        seed: None takes the run's, at first 42.
        folds_file: a CSV with the columns path and fold in place of a split by maskens.
        fixes: lists of label fixes, shipped names or CSV files; empty takes the run's, ("none",) drops them.
        merge: CSV files with the columns a and b, two ids that are one person; empty takes the run's, ("none",) drops
            them.
        merge_duplicates: check the photos, and make ids with nearly the same photo one person.
        check_photos: open every photo, refuse unreadable ones and look for near-duplicates across people.
        workers: threads that open photos; None takes all cores.

    Raises:
        MaskensError: data that don't fit together, folds that leak or lack a class, a run with models of other folds.
    """
    folder = Path(run)
    refuse_foreign(folder)
    before, found, seed = read_labelled(folder, data, fixes, seed, [str(m) for m in merge])
    assigned, split_k = _split(found, before, k, seed, folds_file)  # refused, if it is, before a photo is opened
    pairs, merged = None, 0
    if check_photos or merge_duplicates:
        from folds.explore.duplicates import describe, same_people

        duplicates = _near_duplicates(found, workers, on_progress)
        if merge_duplicates and duplicates:
            found, merged, duplicates = apply_merges(found, same_people(found, duplicates)), len(duplicates), ()
            assigned, split_k = _split(found, before, k, seed, folds_file)
        pairs = tuple(describe(duplicates, found.root))
    started, note = start_run(folder, found, assigned, split_k, seed)
    return Folds(started, found, assigned, split_k, note, pairs, merged)


def _split(
    data: TrainData, before: Run | None, k: int | None, seed: int, folds_file: Folder | None
) -> tuple[IntArray, int]:
    """(folds, k): the user's own, else the run's if they are asked for again, else new ones."""
    if folds_file:
        return read_folds(Path(folds_file), data)
    if before and (before.k if k is None else k, seed) == (before.k, before.seed):
        kept = kept_folds(before, data)
        return (split_people(data, before.k, seed) if kept is None else kept), before.k
    if k is None:
        k = before.k if before else 5
    return split_people(data, k, seed), k


def _near_duplicates(
    data: TrainData, workers: int | None, on_progress: OnProgress | None
) -> tuple[tuple[str, str, int], ...]:
    from folds.explore.duplicates import check_photos

    found = check_photos(data, workers or -1, part_of(on_progress, "opening photos"))
    refuse(
        found.unreadable,
        f"photos in {data.root} can't be used",
        "Replace them, or leave them out: make the folds without --check-photos, then maskens train --skip-bad-photos",
    )
    return found.duplicates
