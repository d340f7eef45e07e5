"""Terminal tables in the one style of all commands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from folds.labels import CLASS_NAMES, IntArray
from folds.people import TrainData
from folds.splits import STRATA, people_per_fold, people_per_stratum_and_fold, photos_per_class_and_fold

MANY = 6  # folds; more have names of two lines


def new_table(title: str = "", left: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    """A table without vertical lines.

    Args:
        title: plain text, not markup: it may hold a path.
        left, right: names of its first columns, which don't wrap, by how they are justified.
    """
    table = Table(title=Text(title) if title else None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def table_of_classes(title: str, right: Sequence[str] = ()) -> Table:
    """A table with a row a class: its number, its name, then columns of figures."""
    table = new_table(title, right=[""])
    table.add_column("class", no_wrap=True)
    for name in right:
        table.add_column(name, justify="right")
    return table


def fold_columns(k: int, each: bool) -> list[str]:
    """Names of columns of counts: one for each fold, or of the folds with the fewest and the most."""
    if not each:
        return ["fewest in a fold", "most"]
    gap = " " if k <= MANY else "\n"
    return [f"fold{gap}{fold}" for fold in range(k)]


def fold_counts(counts: Sequence[int], each: bool) -> list[str]:
    """Counts in each fold for `fold_columns`."""
    return [str(count) for count in (counts if each else (min(counts), max(counts)))]


@dataclass(frozen=True)
class WideOrNarrow:
    """The wide form of a table, where the terminal is wide enough for it, else the narrow one.

    Attributes:
        table: makes it: wide if True.
    """

    table: Callable[[bool], Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = self.table(True)
        fits = Measurement.get(console, options.update(width=10_000), whole).maximum <= options.max_width
        yield whole if fits else self.table(False)


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
