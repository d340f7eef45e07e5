"""The terminal's view of scores and submissions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ensemble.score import Score
from ensemble.submission import SubmissionCheck
from folds.labels import CLASS_NAMES

if TYPE_CHECKING:
    from ensemble.bootstrap import Interval
    from ensemble.compare import Comparison, Section
    from ensemble.export import Export
    from ensemble.recipe import Recipe


def class_table(score: Score) -> Table:
    """Precision, recall and F1 of each of the 18 classes."""
    table = Table(title="per class", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column("class", no_wrap=True)
    for name in ("photos", "predicted", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for number, name in enumerate(CLASS_NAMES):
        counts = (str(score.support[number]), str(score.predicted[number]))
        weak = score.per_class[number, 2] < score.f1 / 2
        table.add_row(
            str(number),
            name,
            *counts,
            *(f"{v:.4f}" for v in score.per_class[number]),
            style="yellow" if weak else None,
        )
    return table


def parts_table(score: Score, tasks: dict[str, tuple[float, float]]) -> Table:
    """Macro F1 and accuracy of the whole, of each part of the decision, and of each task's own models."""
    table = Table(title="as a whole and per task", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("macro F1", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_row("18 classes", f"{score.f1:.4f}", f"{score.accuracy:.4f}", style="bold", end_section=True)
    for name, (f1, accuracy) in score.parts.items():
        table.add_row(f"{name}, as decided", f"{f1:.4f}", f"{accuracy:.4f}", end_section=name == "age" and bool(tasks))
    for name, (f1, accuracy) in tasks.items():
        table.add_row(f"task {name}", f"{f1:.4f}", f"{accuracy:.4f}")
    return table


def submission_table(check: SubmissionCheck) -> Table:
    """Predicted photos of each class beside what the training set's mix would give."""
    table = Table(title="predicted classes", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column("class", no_wrap=True)
    table.add_column("predicted", justify="right")
    if check.expected is not None:
        table.add_column("at training mix", justify="right")
    for number, name in enumerate(CLASS_NAMES):
        expected = () if check.expected is None else (str(check.expected[number]),)
        table.add_row(str(number), name, str(check.histogram[number]), *expected)
    return table


def recipes_table(recipes: Sequence[Recipe]) -> Table:
    """What each recipe is for."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("recipe", "for", "tasks", "photos"):
        table.add_column(name, no_wrap=name in ("recipe", "photos"))
    for recipe in recipes:
        sizes = dict.fromkeys("{}x{}".format(*t.input_size) for t in recipe.tasks.values())
        table.add_row(recipe.name, recipe.description, ", ".join(recipe.tasks), ", ".join(sizes))
    return table


def differences_table(comparison: Comparison) -> Table:
    """What differs between runs, a column a run."""
    table = Table(title="what differs", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for run in comparison.sections[0].scores:
        table.add_column(Text(run.name), overflow="fold")
    for key, values in comparison.differences:
        table.add_row(Text(key), *(Text(v) for v in values))
    return table


def scores_table(section: Section) -> Table:
    """Out-of-fold macro F1 of each run with its interval, and the difference to the first run."""
    title = f"out-of-fold macro F1, 95 % interval over people{'; ' if section.labels else ''}{section.labels}"
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    table.add_column("macro F1", no_wrap=True)
    table.add_column("against the first run", no_wrap=True)
    table.add_column("", no_wrap=True)
    for number, run in enumerate(section.scores):
        table.add_row(Text(run.name), style="bold")
        for part, f1 in run.f1.items():
            gain = run.gain[part]
            told = ("", "") if number == 0 else (_short(gain, "+.3f"), gain.verdict)
            table.add_row(f"  {part}", _short(f1, ".3f"), *told, end_section=part == list(run.f1)[-1])
    return table


def _short(found: Interval, form: str) -> str:
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def class_gain_table(section: Section) -> Table:
    """F1 of each class in each run; + or - where it differs from the first run's by more than noise.

    Of two runs, the difference with its interval too.
    """
    table = Table(
        title="F1 per class; + or - where the interval of the difference to the first run lies on one side of 0",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("", justify="right")
    table.add_column("class", no_wrap=True)
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
            cells.append(_short(others[0].class_gain[number], "+.2f"))
        table.add_row(str(number), name, *cells)
    return table


def export_table(export: Export) -> Table:
    """Each task's ONNX file and how it did against torch."""
    title = f"onnxruntime against torch, {export.photos} photos"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("task", "folds", "views", "input"):
        table.add_column(name)
    for name in ("size MB", "largest difference", "decisions that differ"):
        table.add_column(name, justify="right")
    for task in export.tasks:
        table.add_row(
            task.task, ", ".join(map(str, task.folds)), ", ".join(task.views), "{}x{}".format(*task.input),
            f"{task.bytes / 1e6:.1f}", f"{task.difference:.1e}", str(task.differing),
            end_section=task is export.tasks[-1],
        )  # fmt: skip
    table.add_row("18 classes", "", "", "", "", "", str(export.differing), style="bold")
    return table
