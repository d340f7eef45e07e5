"""Terminal tables of scores and of what tuning is worth."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import stdev
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ensemble.metrics.scores import Score
from folds.data.labels import CLASS_NAMES, CLASSES
from folds.pages.tables import WideOrNarrow, new_table, table_of_classes

if TYPE_CHECKING:
    from ensemble.decision.tuning import Tuning
    from ensemble.evaluation.answers import AnswersScore
    from ensemble.evaluation.evaluate import Evaluation
    from ensemble.metrics.bootstrap import Interval


def class_table(score: Score, intervals: Sequence[Interval] = (), people: Sequence[int] = ()) -> WideOrNarrow:
    """Precision, recall and F1 of each of the 18 classes, with the interval of the F1 and its people where known."""
    return WideOrNarrow(functools.partial(_class_table, score, intervals, people))


def _class_table(score: Score, intervals: Sequence[Interval], people: Sequence[int], wide: bool) -> Table:
    counts = {"people": list(people)} if people else {}
    counts |= {"photos": score.support.tolist()} | ({"predicted": score.predicted.tolist()} if wide else {})
    long = ("precision", "recall") if wide else ("preci-\nsion", "re-\ncall")
    table = table_of_classes("F1 per class", (*counts, *long, "F1"))
    if intervals:
        table.add_column("95 %", no_wrap=True)
    for number, name in enumerate(CLASS_NAMES):
        weak = score.per_class[number, 2] < score.f1 / 2
        table.add_row(
            str(number),
            name,
            *(str(numbers[number]) for numbers in counts.values()),
            *(f"{v:.3f}" for v in score.per_class[number]),
            *(f"{i.low:.2f}-{i.high:.2f}" for i in intervals[number : number + 1]),
            style="yellow" if weak else None,
        )
    return table


def parts_table(score: Score, tasks: dict[str, tuple[float, float]]) -> Table:
    """Macro F1 and accuracy of the whole, of each part of the decision, and of each task's own models."""
    table = new_table("as a whole and per task")
    table.add_column("")
    table.add_column("macro F1", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_row("18 classes", f"{score.f1:.4f}", f"{score.accuracy:.4f}", style="bold", end_section=True)
    for name, (f1, accuracy) in score.parts.items():
        table.add_row(f"{name}, as decided", f"{f1:.4f}", f"{accuracy:.4f}", end_section=name == "age" and bool(tasks))
    for name, (f1, accuracy) in tasks.items():
        table.add_row(f"task {name}", f"{f1:.4f}", f"{accuracy:.4f}")
    return table


def evaluation_tables(found: Evaluation) -> list[Table | WideOrNarrow]:
    """Per class; as a whole, per part and task; per fold; and what each way to decide gives."""
    folds = new_table("per fold")
    for name in ("fold", "people", "photos", "macro F1", "accuracy"):
        folds.add_column(name, justify="right")
    for f in found.folds:
        folds.add_row(str(f.fold), str(f.people), str(f.photos), f"{f.f1:.4f}", f"{f.accuracy:.4f}")
    if len(found.folds) > 1:
        f1, accuracy = [f.f1 for f in found.folds], [f.accuracy for f in found.folds]
        folds.add_section()
        folds.add_row("spread", "", "", f"±{stdev(f1):.4f}", f"±{stdev(accuracy):.4f}")
    views = WideOrNarrow(functools.partial(_views_table, found))
    classes = class_table(found.score, found.class_f1, found.class_people.tolist())
    return [classes, _whole_table(found), folds, views, _settings_table(found)]


def _whole_table(found: Evaluation) -> Table:
    table = new_table("as a whole and per task")
    for name in ("", "macro F1 (95 % over people)", "accuracy"):
        table.add_column(name, no_wrap=True)
    first, *parts = found.f1
    table.add_row(first, f"{found.f1[first]:.4f}", f"{found.accuracy.value:.4f}", style="bold", end_section=True)
    for number, part in enumerate(parts, start=1):
        accuracy = f"{found.score.parts[part][1]:.4f}"
        table.add_row(f"{part}, as decided", f"{found.f1[part]:.4f}", accuracy, end_section=number == len(parts))
    for name, (f1, accuracy_of) in found.tasks.items():
        table.add_row(Text(f"task {name}"), f"{f1:.4f}", f"{accuracy_of:.4f}")
    return table


def _views_table(found: Evaluation, wide: bool) -> Table:
    table = new_table("test-time augmentation, untuned")
    table.add_column("", overflow="fold")
    table.add_column("passes", justify="right", no_wrap=True)
    whole, gained = ("macro F1 (95 % over people)", "against the photo as it is") if wide else ("macro F1", "gain")
    for name in (whole, gained, ""):
        table.add_column(name, no_wrap=True)
    views = [v for v in found.views if not v.is_set]
    for number, v in enumerate([*views, *(v for v in found.views if v.is_set)], start=1):
        f1 = f"{v.f1:.4f}" if wide else f"{v.f1.value:.4f}"
        gain = (f"{v.gain:+.3f}", v.gain.significance) if number > 1 else ("", "")
        name = f"--tta {v.name}" if v.is_set else v.name
        table.add_row(Text(name), str(v.passes), f1, *gain, end_section=number == len(views))
    return table


def _settings_table(found: Evaluation) -> Table:
    table = new_table("ways to decide")
    table.add_column("", overflow="fold")
    for name in ("macro F1", "accuracy", "against the first", ""):
        table.add_column(name, no_wrap=True)
    for number, s in enumerate(found.settings):
        gain = (f"{s.gain:+.3f}", s.gain.significance) if number else ("", "")
        table.add_row(Text(s.name), f"{s.f1.value:.4f}", f"{s.accuracy:.4f}", *gain)
    return table


def headline(found: Evaluation, runs: Sequence[str]) -> list[str]:
    """The figure that counts, a line each."""
    whole = next(iter(found.f1.values()))
    return [
        f"macro F1 {whole:.4f}, accuracy {found.accuracy:.4f}",
        f"out-of-fold over {found.score.photos} photos of {found.people} people ({' + '.join(runs)}, {found.used})",
    ]


def answers_lines(found: AnswersScore, name: str, truth: str, first: str) -> list[str]:
    """What a submission is worth against answers, a line each; `first` is what its gain is against."""
    drawn = f"{found.people} people" if found.people else "photos as if each were of another person"
    lines = [
        f"macro F1 {found.f1:.4f}, accuracy {found.accuracy:.4f}",
        f"over {found.score.photos} photos ({name} against {truth}); 95 % intervals over {drawn}",
    ]
    if found.score.absent:
        present = f"{CLASSES - len(found.score.absent)} of {CLASSES}"
        lines.insert(1, f"macro F1 {found.f1_present:.4f} over classes with answers: {present}")
    if found.gain:
        lines.append(f"against {first}: macro F1 {found.gain:+.4f}, {found.gain.significance}")
    return lines


def steps_table(tuning: Tuning) -> Table:
    """What each step of tuning is worth on people that it was not fitted on."""
    title = "each step on top of those kept, on people it was not fitted on"
    table = new_table(title)
    for name in ("step", "macro F1", "gain (95 %)", "log loss", ""):
        table.add_column(name, no_wrap=True)
    for s in tuning.steps:
        kept = "kept" if s.kept else "dropped"
        cells = (s.name, f"{s.f1.value:.4f}", f"{s.gain:+.3f}", f"{s.loss.value:.3f}", kept)
        table.add_row(*cells, style=None if s.kept else "dim")
    return table
