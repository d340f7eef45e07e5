"""Terminal tables of recipes and of what a training would take."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from ensemble.jobs.soft_targets import NOT_TAKEN
from folds.labels import CLASS_NAMES, CLASSES, IntArray
from folds.pages.tables import WideOrNarrow, fold_columns, fold_counts, new_table
from folds.ranges import in_short

if TYPE_CHECKING:
    from ensemble.jobs.soft_targets import PseudoLabels
    from ensemble.recipes.schema import Recipe
    from ensemble.training.cost import Estimate


def estimate_table(found: Estimate) -> Table:
    """The jobs left to do, a row a task, with what a short probe says of each. Tasks of several recipes are named with
    theirs."""
    table = new_table("jobs left to do")
    table.add_column("task", no_wrap=True)
    for name in ("folds", "epochs", "photos an epoch", "photos/s", "a job", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    several = len({recipe for recipe, _ in found.costs}) > 1
    for (recipe, task), cost in found.costs.items():
        jobs = [j for j in found.jobs if (j.recipe, j.task) == (recipe, task)]
        mean = sum(j.seconds for j in jobs) / len(jobs)
        epochs = ", ".join(dict.fromkeys(str(j.epochs) for j in jobs))
        photos = f"{sum(j.photos for j in jobs) / len(jobs):.0f}"
        folds = in_short(j.fold for j in jobs)
        cells = (folds, epochs, photos, f"{1 / cost.train:.0f}", time_words(mean), f"{cost.weights / 1e6:.0f}")
        table.add_row(f"{recipe}: {task}" if several else task, *cells)
    return table


def estimate_lines(found: Estimate) -> list[str]:
    """The totals, a line each."""
    return [
        f"{len(found.jobs)} jobs, {found.at_a_time} at a time: about {time_words(found.seconds)}"
        + (f", of which {time_words(found.decode)} for decoding photos" if found.decode else ""),
        f"memory about {found.memory / 1e9:.1f} GB" + _room_words(found),
        f"disk: models {found.disk / 1e9:.2f} GB, photo cache {found.cache / 1e9:.2f} GB more; "
        f"{found.free / 1e9:.1f} GB are free",
        *found.averages,
    ]


def _room_words(found: Estimate) -> str:
    if found.room is None:
        return ""
    free = f", {found.room / 1e9:.1f} GB are free"
    return free + (": jobs may be killed; lower --jobs or batch_size" if found.memory > found.room else "")


def time_words(seconds: float) -> str:
    """Seconds in the unit that reads best: "90 min", where humanize would say "an hour"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def recipes_table(recipes: Sequence[Recipe]) -> Table:
    """What each recipe is for."""
    table = new_table()
    for name in ("recipe", "for", "tasks", "photos"):
        table.add_column(name, no_wrap=name in ("recipe", "photos"))
    for recipe in recipes:
        sizes = dict.fromkeys("{}x{}".format(*t.input_size) for t in recipe.tasks.values())
        table.add_row(recipe.name, recipe.description, ", ".join(recipe.tasks), ", ".join(sizes))
    return table


def pseudo_table(found: PseudoLabels) -> WideOrNarrow:
    """Photos of each class that each fold learns from beside its own."""
    taken = [np.bincount(labels[labels != NOT_TAKEN], minlength=CLASSES) for labels in found.classes]
    return WideOrNarrow(functools.partial(_pseudo_table, np.array(taken)))


def _pseudo_table(counts: IntArray, each: bool) -> Table:
    table = new_table("pseudo-labels: photos to predict that are learned from")
    table.add_column("class", no_wrap=True)
    for name in fold_columns(len(counts), each):
        table.add_column(name, justify="right")
    for number, name in enumerate(CLASS_NAMES):
        if counts[:, number].any():
            table.add_row(f"{number:2} {name}", *fold_counts(counts[:, number].tolist(), each))
    table.add_section()
    table.add_row("   photos", *fold_counts(counts.sum(axis=1).tolist(), each))
    return table


def pseudo_line(found: PseudoLabels) -> str:
    """Where they come from."""
    return (
        f"{len(found.photos.files)} photos in all, labelled by {found.source} with a probability of {found.min_p:g} or "
        "more; the labels of a fold come from the models of that fold alone, and none is scored"
    )
