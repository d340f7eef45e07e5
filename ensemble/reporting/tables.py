"""Terminal tables of scores, comparisons, submissions, predictions, exports and checks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import stdev
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ensemble.decision.submission import SubmissionCheck
from ensemble.metrics.scores import Score
from folds.labels import CLASS_NAMES, CLASSES
from folds.pages.tables import WideOrNarrow, new_table, table_of_classes

if TYPE_CHECKING:
    from ensemble.decision.tuning import Tuning
    from ensemble.evaluation.audit import Audit
    from ensemble.evaluation.compare import Comparison, Section
    from ensemble.evaluation.evaluate import Evaluation, SubmissionScore
    from ensemble.evaluation.verify import Verification
    from ensemble.metrics.scores import Interval
    from ensemble.prediction.export import Export


SHOWN = 16  # characters of a hash or of another value that matches


def verification_table(found: Verification) -> Table:
    """What matches, a row for each kind of thing, and what does not, a row for each."""
    table = new_table(str(found.run.folder))
    for name in ("item", "expected", "found"):
        table.add_column(name, overflow="fold")
    for kind in dict.fromkeys(check.kind for check in found.checks):
        of_kind = [check for check in found.checks if check.kind == kind]
        good = [check for check in of_kind if check.ok]
        if len(good) == 1:
            table.add_row(Text(good[0].item), Text(_short(good[0].expected)), "ok")
        elif good:
            table.add_row(Text(f"{kind}: {len(good)} of {len(of_kind)}"), "as recorded", "ok")
        for check in of_kind:
            if not check.ok:
                values = (check.expected, check.found)
                expected, got = map(_short, values) if check.expected[:SHOWN] != check.found[:SHOWN] else values
                table.add_row(Text(check.item), Text(expected), Text(got), style="bold red")
    return table


def _short(text: str) -> str:
    return text if len(text) <= SHOWN or " " in text else f"{text[:SHOWN]}..."


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


def submission_lines(found: SubmissionScore, truth: str, first: str) -> list[str]:
    """What a submission is worth against answers, a line each; `first` is what its gain is against."""
    drawn = f"{found.people} people" if found.people else "photos as if each were of another person"
    lines = [
        f"macro F1 {found.f1:.4f}, accuracy {found.accuracy:.4f}",
        f"over {found.score.photos} photos ({found.path} against {truth}); 95 % intervals over {drawn}",
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
