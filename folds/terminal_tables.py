"""Terminal tables in the one style of all commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from folds.labels import CLASS_NAMES, UNKNOWN, IntArray
from folds.people import TrainData
from folds.splits import (
    STRATA,
    STRATA_AND_UNKNOWN,
    people_per_fold,
    people_per_stratum_and_fold,
    photos_per_class_and_fold,
)

MANY = 6  # folds; more have names of two lines


def new_table(title: str = "", *columns: str) -> Table:
    """A table without vertical lines; title and columns are plain text, not markup. Text of a column wraps, but for
    "<name", which is on the left, and ">name", which is on the right."""
    table = Table(title=Text(title) if title else None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        side = name[:1] if name[:1] in ("<", ">") else ""
        justify: JustifyMethod = "right" if side == ">" else "left"
        table.add_column(Text(name.removeprefix(side)), justify=justify, no_wrap=bool(side), overflow="fold")
    return table


def table_of_classes(title: str, *columns: str) -> Table:
    """A table with a row a class: its number, its name, then `columns`, by default of figures."""
    table = new_table(title, ">")
    table.add_column("class", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def fold_columns(k: int, each: bool) -> list[str]:
    """Names of columns of counts: one for each fold, or of the folds with the fewest and the most."""
    gap = " " if k <= MANY else "\n"
    return [f"fold{gap}{fold}" for fold in range(k)] if each else ["fewest in a fold", "most"]


def fold_counts(counts: IntArray, each: bool) -> list[str]:
    """Counts in each fold for `fold_columns`."""
    return [str(count) for count in (counts if each else (counts.min(), counts.max()))]


@dataclass(frozen=True)
class WideOrNarrow:
    """The wide form of a table, where the terminal is wide enough for it, else the narrow one."""

    table: Callable[[bool], Table]  # makes it, wide if True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = self.table(True)
        fits = Measurement.get(console, options.update(width=10_000), whole).maximum <= options.max_width
        yield whole if fits else self.table(False)


def folds_table(data: TrainData, folds: IntArray, k: int) -> WideOrNarrow:
    """People per stratum and photos per class, a column a fold."""
    people = people_per_stratum_and_fold(data, folds, k)
    photos = photos_per_class_and_fold(data, folds, k)
    labelled = "photos with all labels" if (data.classes[data.scored] == UNKNOWN).any() else "photos"

    def table(wide: bool) -> Table:
        made = table_of_classes("people and photos per class and fold", *fold_columns(k, wide), "all")

        def add(number: str, name: str, counts: IntArray, style: str = "") -> None:
            made.add_row(number, name, *fold_counts(counts, wide), str(counts.sum()), style=style)

        for name, row in zip(STRATA_AND_UNKNOWN, people, strict=False):
            if name in STRATA or row.any():
                add("", f"people, {name}", row)
        add("", "people", people_per_fold(data, folds, k), "bold")
        made.add_section()
        for number, (name, row) in enumerate(zip(CLASS_NAMES, photos, strict=True)):
            add(str(number), name, row)
        made.add_section()
        add("", labelled, photos.sum(axis=0), "bold")
        return made

    return WideOrNarrow(table)
