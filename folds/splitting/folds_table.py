"""The terminal's view of people and folds."""

from __future__ import annotations

from rich.table import Table

from folds.data.labels import CLASS_NAMES, IntArray
from folds.data.people import TrainData
from folds.pages.tables import table_of_classes
from folds.splitting.split import STRATA, people_per_stratum_and_fold, photos_per_class_and_fold


def folds_table(data: TrainData, folds: IntArray, k: int) -> Table:
    """People per stratum and photos per class, a column a fold."""
    table = table_of_classes("people and photos per class and fold")
    for fold in range(k):
        table.add_column(f"fold {fold}", justify="right")
    table.add_column("all", justify="right")
    people = people_per_stratum_and_fold(data, folds, k)
    photos = photos_per_class_and_fold(data, folds, k)
    for name, row in zip(STRATA, people, strict=True):
        table.add_row("", f"people, {name}", *map(str, row), str(row.sum()))
    table.add_row("", "people", *map(str, people.sum(axis=0)), str(people.sum()), style="bold", end_section=True)
    for number, (name, row) in enumerate(zip(CLASS_NAMES, photos, strict=True)):
        table.add_row(str(number), name, *map(str, row), str(row.sum()), end_section=number == len(CLASS_NAMES) - 1)
    table.add_row("", "photos", *map(str, photos.sum(axis=0)), str(photos.sum()), style="bold")
    return table
