"""Terminal tables of runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from folds.data.labels import CLASS_NAMES
from folds.pages.tables import new_table, table_of_classes

if TYPE_CHECKING:
    from ensemble.evaluation.compare import Comparison, Section


def differences_table(comparison: Comparison) -> Table:
    """What differs between runs, a column a run."""
    table = new_table("what differs")
    table.add_column("")
    for run in comparison.sections[0].scores:
        table.add_column(Text(run.name), overflow="fold")
    for key, values in comparison.differences:
        table.add_row(Text(key), *(Text(v) for v in values))
    return table


def scores_table(section: Section) -> Table:
    """Out-of-fold macro F1 of each run with its interval, and the difference to the first run."""
    title = f"out-of-fold macro F1, 95 % interval over people{'; ' if section.labels else ''}{section.labels}"
    table = new_table(title)
    table.add_column("", overflow="fold")
    table.add_column("macro F1", no_wrap=True)
    table.add_column("against the first run", no_wrap=True)
    table.add_column("", min_width=12)
    for number, run in enumerate(section.scores):
        table.add_row(Text(run.name), style="bold")
        for part, f1 in run.f1.items():
            gain = run.gain[part]
            gain_cells = ("", "") if number == 0 else (f"{gain:+.3f}", gain.of_one_seed)
            table.add_row(f"  {part}", f"{f1:.3f}", *gain_cells, end_section=part == list(run.f1)[-1])
    return table


def class_gain_table(section: Section) -> Table:
    """F1 of each class in each run; + or - where it differs from the first run's by more than noise.

    Of two runs, the difference with its interval too.
    """
    table = table_of_classes("F1 per class; + or -: the interval of the difference to the first run excludes 0")
    first, *others = section.scores
    for run in section.scores:
        table.add_column(Text(run.name), overflow="fold")
    if len(others) == 1:
        table.add_column("difference", justify="right", no_wrap=True)
    for number, name in enumerate(CLASS_NAMES):
        cells = [f"{first.per_class[number].value:.3f}"]
        for run in others:
            gain = run.class_gain[number]
            mark = " " if gain.within_noise else "+" if gain.value > 0 else "-"
            cells.append(f"{run.per_class[number].value:.3f} {mark}")
        if len(others) == 1:
            cells.append(f"{others[0].class_gain[number]:+.2f}")
        table.add_row(str(number), name, *cells)
    return table
