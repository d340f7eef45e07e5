"""The terminal's view of scores and submissions."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ensemble.score import Score
from ensemble.submission import SubmissionCheck
from folds.labels import CLASS_NAMES


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
