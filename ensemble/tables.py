"""The terminal's view of scores and submissions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ensemble.score import Score
from ensemble.submission import SubmissionCheck
from folds.labels import CLASS_NAMES

if TYPE_CHECKING:
    from ensemble.audit import Audit
    from ensemble.bootstrap import Interval
    from ensemble.compare import Comparison, Section
    from ensemble.estimate import Estimate
    from ensemble.evaluate import Evaluation
    from ensemble.export import Export
    from ensemble.recipe import Recipe
    from ensemble.tuning import Tuning


def class_table(score: Score, intervals: Sequence[Interval] = ()) -> Table:
    """Precision, recall and F1 of each of the 18 classes, with the interval of the F1 where it is known."""
    table = Table(title="per class", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column("class", no_wrap=True)
    for name in ("photos", "predicted", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    if intervals:
        table.add_column("95 %", no_wrap=True)
    for number, name in enumerate(CLASS_NAMES):
        counts = (str(score.support[number]), str(score.predicted[number]))
        weak = score.per_class[number, 2] < score.f1 / 2
        table.add_row(
            str(number),
            name,
            *counts,
            *(f"{v:.3f}" for v in score.per_class[number]),
            *(f"{i.low:.2f}-{i.high:.2f}" for i in intervals[number : number + 1]),
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


def evaluation_tables(found: Evaluation) -> list[Table]:
    """Per class; as a whole, per part and task; per fold; and what each way to decide gives."""
    folds = Table(title="per fold", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("fold", "people", "photos", "macro F1", "accuracy"):
        folds.add_column(name, justify="right")
    for f in found.folds:
        folds.add_row(str(f.fold), str(f.people), str(f.photos), f"{f.f1:.4f}", f"{f.accuracy:.4f}")
    if len(found.folds) > 1:
        f1, accuracy = [f.f1 for f in found.folds], [f.accuracy for f in found.folds]
        folds.add_section()
        folds.add_row("spread", "", "", f"+-{stdev(f1):.4f}", f"+-{stdev(accuracy):.4f}")
    return [class_table(found.score, found.class_f1), _whole_table(found), folds, _settings_table(found)]


def _whole_table(found: Evaluation) -> Table:
    table = Table(title="as a whole and per task", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
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


def _settings_table(found: Evaluation) -> Table:
    table = Table(title="ways to decide", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for name in ("macro F1", "accuracy", "against the first", ""):
        table.add_column(name, no_wrap=True)
    for number, s in enumerate(found.settings):
        gain = (f"{s.gain:+.3f}", s.gain.verdict) if number else ("", "")
        table.add_row(Text(s.name), f"{s.f1.value:.4f}", f"{s.accuracy:.4f}", *gain)
    return table


def headline(found: Evaluation, runs: Sequence[str]) -> list[str]:
    """The figure that counts, a line each."""
    whole = next(iter(found.f1.values()))
    return [
        f"macro F1 {whole:.4f}, accuracy {found.accuracy:.4f}",
        f"out-of-fold over {found.score.photos} photos of {found.people} people ({' + '.join(runs)}, {found.used})",
    ]


def steps_table(tuning: Tuning) -> Table:
    """What each step of tuning is worth on people that it was not fitted on."""
    title = "each step on top of those kept, on people it was not fitted on"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("step", "macro F1", "gain (95 %)", "log loss", ""):
        table.add_column(name, no_wrap=True)
    for s in tuning.steps:
        kept = "kept" if s.kept else "dropped"
        cells = (s.name, f"{s.f1.value:.4f}", f"{s.gain:+.3f}", f"{s.loss.value:.3f}", kept)
        table.add_row(*cells, style=None if s.kept else "dim")
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


def estimate_table(found: Estimate) -> Table:
    """The jobs left to do, a row a task, with what a short probe says of each."""
    table = Table(title="jobs left to do", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    for name in ("folds", "epochs", "photos an epoch", "photos/s", "a job", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for task, cost in found.costs.items():
        jobs = [j for j in found.jobs if j.task == task]
        mean = sum(j.seconds for j in jobs) / len(jobs)
        epochs = ", ".join(dict.fromkeys(str(j.epochs) for j in jobs))
        photos = f"{sum(j.photos for j in jobs) / len(jobs):.0f}"
        folds = ",".join(str(j.fold) for j in jobs)
        cells = (folds, epochs, photos, f"{1 / cost.train:.0f}", time_words(mean), f"{cost.weights / 1e6:.0f}")
        table.add_row(task, *cells)
    return table


def estimate_lines(found: Estimate, jobs: int) -> list[str]:
    """The totals, a line each."""
    return [
        f"{len(found.jobs)} jobs, {jobs} at a time: about {time_words(found.seconds)}"
        + (f", of which {time_words(found.decode)} for decoding photos" if found.decode else ""),
        f"memory about {found.memory / 1e9:.1f} GB",
        f"disk: models {found.disk / 1e9:.2f} GB, photo cache {found.cache / 1e9:.2f} GB more; "
        f"{found.free / 1e9:.1f} GB are free",
    ]


def time_words(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
            told = ("", "") if number == 0 else (f"{gain:+.3f}", gain.verdict)
            table.add_row(f"  {part}", f"{f1:.3f}", *told, end_section=part == list(run.f1)[-1])
    return table


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
            cells.append(f"{others[0].class_gain[number]:+.2f}")
        table.add_row(str(number), name, *cells)
    return table


def verdicts_table(records: Sequence[dict[str, Any]]) -> Table:
    """What the ensemble says of each photo, each part with its probability; and how many folds agree."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
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
    table = Table(title="likely label errors", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
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
