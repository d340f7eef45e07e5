"""The terminal's view of people and folds."""

from __future__ import annotations

import functools

from rich.table import Table

from folds.data.labels import CLASS_NAMES, IntArray
from folds.data.people import TrainData
from folds.pages.tables import WideOrNarrow, fold_columns, fold_counts, table_of_classes
from folds.splitting.split import STRATA, people_per_fold, people_per_stratum_and_fold, photos_per_class_and_fold


def folds_table(data: TrainData, folds: IntArray, k: int) -> WideOrNarrow:
    """People per stratum and photos per class, a column a fold."""
    people = people_per_stratum_and_fold(data, folds, k)
    photos = photos_per_class_and_fold(data, folds, k)
    everybody = people_per_fold(data, folds, k)
    return WideOrNarrow(functools.partial(_table, people, everybody, photos))


def _table(people: IntArray, everybody: IntArray, photos: IntArray, each: bool) -> Table:
    table = table_of_classes("people and photos per class and fold")
    for name in (*fold_columns(people.shape[1], each), "all"):
        table.add_column(name, justify="right")

    def add(number: str, name: str, counts: IntArray, style: str = "", end: bool = False) -> None:
        figures = (*fold_counts(counts.tolist(), each), str(counts.sum()))
        table.add_row(number, name, *figures, style=style, end_section=end)

    for name, row in zip(STRATA, people, strict=True):
        add("", f"people, {name}", row)
    add("", "people", everybody, "bold", end=True)
    for number, (name, row) in enumerate(zip(CLASS_NAMES, photos, strict=True)):
        add(str(number), name, row, end=number == len(CLASS_NAMES) - 1)
    add("", "photos", photos.sum(axis=0), "bold")
    return table
