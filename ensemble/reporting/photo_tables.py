"""Terminal tables of submissions, predictions, suspects and exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ensemble.decision.submission import SubmissionCheck
from folds.data.labels import CLASS_NAMES
from folds.pages.tables import new_table, table_of_classes

if TYPE_CHECKING:
    from ensemble.evaluation.audit import Audit
    from ensemble.inference.export import Export


def submission_table(check: SubmissionCheck) -> Table:
    """Predicted photos of each class beside what the training set's mix would give."""
    table = table_of_classes("predicted classes", ["predicted"])
    if check.expected is not None:
        table.add_column("at training mix", justify="right")
    for number, name in enumerate(CLASS_NAMES):
        expected = () if check.expected is None else (str(check.expected[number]),)
        table.add_row(str(number), name, str(check.histogram[number]), *expected)
    return table


def predictions_table(records: Sequence[dict[str, Any]]) -> Table:
    """What the ensemble says of each photo, each part with its probability; and how many folds agree."""
    table = new_table()
    table.add_column("photo", no_wrap=True, overflow="ellipsis")
    for name in ("class", "mask", "gender", "age", "folds", "differ"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("class", "differ") else "left")
    for r in records:
        parts = [f"{r[part]} {r[f'p {part} {r[part]}']:.0%}" for part in ("mask", "gender", "age")]
        cells = (str(r["class"]), *parts, f"{r['folds_agree']} of {r['folds']}", f"{r['disagreement']:.2f}")
        table.add_row(Text(_end(r["photo"])), *cells, style="yellow" if r["folds_agree"] <= r["folds"] / 2 else None)
    return table


def _end(path: str, most: int = 16) -> str:
    """The end of a long path, which tells photos apart better than its beginning."""
    return path if len(path) <= most else f"…{path[1 - most :]}"


def suspects_table(found: Audit, most: int = 15) -> Table:
    """The labels that are most likely wrong."""
    table = new_table("likely label errors")
    table.add_column("", justify="right")
    table.add_column("person", overflow="fold", min_width=20)
    table.add_column("label: given -> suggested", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("photos", no_wrap=True)
    for rank, s in enumerate(found.suspects[:most], start=1):
        label = f"{s.photos or s.field}: {s.change}"
        table.add_row(str(rank), Text(s.person.path), Text(label), f"{s.score:.2f}", f"{s.agree} of {s.of}")
    return table


def export_table(export: Export) -> Table:
    """Each task's ONNX file and how it did against torch."""
    title = f"onnxruntime against torch, {export.photos} photos"
    table = new_table(title)
    for name in ("task", "folds", "views", "input"):
        table.add_column(name)
    for name in ("size MB", "largest difference", "decisions that differ"):
        table.add_column(name, justify="right")
    for task in export.tasks:
        table.add_row(
            task.task,
            ", ".join(map(str, task.folds)),
            ", ".join(task.views),
            "{}x{}".format(*task.input),
            f"{task.bytes / 1e6:.1f}",
            f"{task.difference:.1e}",
            str(task.differing),
            end_section=task is export.tasks[-1],
        )
    table.add_row("18 classes", "", "", "", "", "", str(export.differing), style="bold")
    return table
