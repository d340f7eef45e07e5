"""maskens folds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ensemble.commands.options import FoldsOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.corrections import Merge, apply_merges, merged_people
from folds.errors import SHOWN, refuse, typed
from folds.files import replace_keeping, safe_csv
from folds.labels import UNKNOWN, IntArray
from folds.layout import find_eval
from folds.people import Lists, TrainData, label_conflicts, repeated_ids
from folds.run_folder import Run, kept_folds, read_labelled, refuse_foreign, start_run
from folds.splits import make_folds, read_folds
from folds.terminal_tables import folds_table

if TYPE_CHECKING:
    from folds.explore.duplicates import MergeCandidate

EXTRA_DUPLICATES = "extra-duplicates.csv"


@dataclass(frozen=True)
class Folds:
    """A run and the folds it begins with."""

    run: Run
    data: TrainData
    folds: IntArray  # (people,), 0..k-1
    k: int
    note: str  # what happened to folds that were there before, "" if there were none
    near_duplicates: tuple[MergeCandidate, ...] | None  # pairs of ids with nearly the same photo; None if nobody looked
    newly_merged: int  # pairs of ids that were merged for nearly the same photo


def _print(made: Folds, options: FoldsOptions, terminal: Terminal) -> None:
    if made.near_duplicates is not None:
        terminal.say(f"all {len(made.data.files)} photos can be read")
        pairs = [f"nearly the same photo of two people: {pair}" for pair in made.near_duplicates]
        more = len(pairs) - SHOWN
        terminal.note(pairs[:SHOWN] + ([f"{more} more such pairs: maskens explore"] if more > 0 else []), "warning")
    terminal.print(folds_table(made.data, made.folds, made.k))
    for i in repeated_ids(made.data.people):
        terminal.say(f"note: id {i} has several folders; they are one person and share a fold", "dim")
    merged = merged_people(made.data)
    if made.newly_merged:
        terminal.say(f"{made.newly_merged} pairs of ids have nearly the same photo: each is one person now")
    for ids in [*merged.values()][:SHOWN]:
        terminal.say(f"merged: ids {', '.join(ids)} are one person")
    if len(merged) > SHOWN:
        terminal.say(f"merged: ... and {len(merged) - SHOWN} more people, see {made.run.merged_file}")
    terminal.note(label_conflicts(made.data), "warning")
    if extra := int((~made.data.scored).sum()):
        known = zip(("mask", "gender", "age"), (labels != UNKNOWN for labels in made.data.labels), strict=True)
        labelled = ", ".join(f"{name} {int((~made.data.scored & there).sum()):,}" for name, there in known)
        terminal.say(f"extra photos: {extra:,}; labelled: {labelled}")
    if made.data.fixes:
        terminal.say(f"fixes: {made.run.fixes}")
    if made.note:
        terminal.say(made.note)
    terminal.say(f"saved: {made.run.folds_file}")
    terminal.next(f"maskens train --run {typed(made.run.folder)} --fold 0..{made.k - 1}")


@step(FoldsOptions, show=_print, first="data")
def folds(options: FoldsOptions, observer: Observer) -> Folds:
    """
    Raises:
        MaskensError: data that don't fit together, folds that leak or lack a class, a run with models of other folds.
    """
    return split_people(options, observer)


def split_people(options: FoldsOptions, observer: Observer, write: bool = True) -> Folds:
    """Split the people into folds; without `write` the run folder stays as it is. Raises MaskensError as in `folds`."""
    folder = options.run[0]
    refuse_foreign(folder)
    merge = [str(file) for file in options.merge or ()]
    columns, labels, extra = options.columns or (), options.labels or (), options.extra or ()
    lists = Lists(options.photo_list, tuple(extra), tuple(columns), tuple(labels))
    before, data, seed = read_labelled(folder, options.data, options.fixes or (), options.seed, merge, lists)
    assigned, k = _split(data, before, seed, options)  # refused, if it is, before a photo is opened
    known = before.extra_hash if before else ""
    if data.extra_hash not in ("", known) and not options.allow_duplicates:
        _refuse_duplicates(data, options, observer)
    pairs, newly_merged = None, 0
    if options.check_photos or options.merge_duplicates:
        from folds.explore import duplicates  # imports OpenCV

        with observer.progress() as on_progress:
            photos, opened = np.flatnonzero(data.scored).tolist(), partial(on_progress, "opening photos")
            hashes, unreadable = duplicates.hash_photos(data.photos, photos, options.workers or -1, opened)
        skip = "To skip them: make the folds without --check-photos, then maskens train --skip-bad-photos"
        refuse(unreadable, f"photos in {data.photos.root} can't be used", skip)
        pairs = duplicates.merge_candidates(data, hashes)
        if options.merge_duplicates and pairs:
            data, newly_merged = apply_merges(data, [Merge(c.a, c.b, str(c)) for c in pairs]), len(pairs)
            pairs = ()
            assigned, k = _split(data, before, seed, options)
    run, note = start_run(folder, data, assigned, k, seed, write)
    return Folds(run, data, assigned, k, note, pairs, newly_merged)


def _refuse_duplicates(data: TrainData, options: FoldsOptions, observer: Observer) -> None:
    """Raise MaskensError for extra photos that show who is scored or predicted; they are listed in a CSV."""
    from folds.explore.duplicates import BITS, extra_duplicates  # imports OpenCV

    to_predict = find_eval(data.root, skip_bad=True)
    with observer.progress() as on_progress:
        opened = partial(on_progress, "comparing extra photos")
        pairs = extra_duplicates(data, to_predict.photos if to_predict else None, options.workers or -1, opened)
    if pairs:
        table = options.run[0].parent / EXTRA_DUPLICATES
        replace_keeping(table, safe_csv(("photo", "other", "bits"), pairs))
        refuse(
            [f"{photo}  ~  {other}  ({bits} of {BITS} bits differ)" for photo, other, bits in pairs],
            "extra photos are nearly photos of other people in the folds, or photos to predict",
            f"All are listed in {table}. Remove their rows, give the photos of one person one `person`, or train on "
            "them: --allow-duplicates",
        )


def _split(data: TrainData, before: Run | None, seed: int, options: FoldsOptions) -> tuple[IntArray, int]:
    """(folds, k): the user's own, else the run's if they are asked for again, else new ones."""
    if options.folds_file:
        return read_folds(options.folds_file, data)
    k = options.k if options.k is not None else before.k if before else 5
    kept = kept_folds(before, data) if before and (k, seed) == (before.k, before.seed) else None
    return (make_folds(data, k, seed) if kept is None else kept), k
