"""Terminal tables and lines of all commands but `folds` and `explore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from folds.labels import CLASS_NAMES, CLASSES
from folds.ranges import in_short
from folds.terminal_tables import WideOrNarrow, fold_columns, fold_counts, new_table, table_of_classes

if TYPE_CHECKING:
    from ensemble.decision.submission import SubmissionCheck
    from ensemble.decision.tuning import Tuning
    from ensemble.evaluation.audit import Audit
    from ensemble.evaluation.compare import Comparison, OverSeeds
    from ensemble.evaluation.evaluate import Evaluation, SubmissionScore
    from ensemble.evaluation.verify import Verification
    from ensemble.jobs.soft_targets import PseudoLabels
    from ensemble.metrics.scores import Interval, Score
    from ensemble.prediction.export import Export
    from ensemble.recipes.schema import Recipe
    from ensemble.training.cost import Estimate


SHOWN = 16  # characters of a hash or of another value that matches
SUSPECTS = 15  # rows of their table


def verification_table(found: Verification) -> Table:
    """A row for each kind of thing that matches, and one for each that does not."""
    table = new_table(str(found.run.folder), "item", "expected", "found")
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
    """Predicted photos of each class, and what the training set's mix of classes would give."""
    table = table_of_classes("predicted classes", "predicted", "at training mix")
    for number, name in enumerate(CLASS_NAMES):
        table.add_row(str(number), name, str(check.histogram[number]), str(check.expected[number]))
    return table


def predictions_table(records: Sequence[dict[str, Any]]) -> Table:
    """Each photo's mask, gender and age with their probabilities; how many folds agree."""
    table = new_table("", "<photo", ">class", "<mask", "<gender", "<age", "<folds", ">differ")
    for r in records:
        parts = [f"{r[part]} {r[f'p {part} {r[part]}']:.0%}" for part in ("mask", "gender", "age")]
        cells = (str(r["class"]), *parts, f"{r['folds_agree']} of {r['folds']}", f"{r['disagreement']:.2f}")
        photo = r["photo"] if len(r["photo"]) <= SHOWN else f"…{r['photo'][1 - SHOWN :]}"
        table.add_row(Text(photo), *cells, style="yellow" if r["folds_agree"] <= r["folds"] / 2 else None)
    return table


def suspects_table(found: Audit) -> Table:
    """The highest-ranked likely label errors."""
    table = new_table("likely label errors", ">", "person", "label: given -> suggested", ">score", "photos")
    for rank, s in enumerate(found.suspects[:SUSPECTS], start=1):
        label = f"{s.shots or s.field}: {s.change}"
        table.add_row(str(rank), Text(s.who), Text(label), f"{s.score:.2f}", f"{s.agree} of {len(s.doubts)}")
    return table


def export_table(export: Export) -> Table:
    """Each task's ONNX file and its difference to torch."""
    figures = (">size MB", ">largest difference", ">classes that differ")
    table = new_table(
        f"onnxruntime compared with torch, {export.photos} photos", "task", "folds", "views", "input", *figures
    )
    for task in export.tasks:
        shown = (in_short(task.folds), ", ".join(task.views), "{}x{}".format(*task.input))
        table.add_row(task.task, *shown, f"{task.bytes / 1e6:.1f}", f"{task.difference:.1e}", str(task.differing))
    table.add_section()
    table.add_row("18 classes", "", "", "", "", "", str(export.differing), style="bold")
    return table


def class_scores_table(score: Score, intervals: Sequence[Interval], people: Sequence[int] = ()) -> WideOrNarrow:
    """Precision, recall and F1 of each of the 18 classes, with the interval of the F1 and its people where known."""

    def table(wide: bool) -> Table:
        counts = {"people": list(people)} if people else {}
        counts |= {"photos": score.support.tolist()} | ({"predicted": score.predicted.tolist()} if wide else {})
        names = ("precision", "recall") if wide else ("prec.", "recall")
        made = table_of_classes("F1 per class", *counts, *names, "F1", "95 %")
        for number, (name, ends) in enumerate(zip(CLASS_NAMES, intervals, strict=True)):
            made.add_row(
                str(number),
                name,
                *(str(numbers[number]) for numbers in counts.values()),
                *(f"{v:.3f}" for v in score.per_class[number]),
                f"{ends.low:.2f}-{ends.high:.2f}",
                style="yellow" if score.per_class[number, 2] < score.f1 / 2 else None,
            )
        return made

    return WideOrNarrow(table)


def parts_table(
    score: Score, whole: Interval, accuracy: Interval, parts: Mapping[str, Interval] | None = None
) -> Table:
    """Macro F1 and accuracy of the 18 classes and of mask, gender and age within them.

    Args:
        whole, accuracy: of the 18 classes.
        parts: macro F1 of mask, gender and age with intervals, where known.
    """
    table = new_table("macro F1 per part", "part", ">macro F1 (95 % CI)", ">accuracy")
    table.add_row("18 classes", f"{whole:.4f}", f"{accuracy.value:.4f}", style="bold")
    for name, (f1, accuracy_of) in score.parts.items():
        table.add_row(name, f"{parts[name] if parts else f1:.4f}", f"{accuracy_of:.4f}")
    return table


def evaluation_tables(found: Evaluation) -> list[Table | WideOrNarrow]:
    """Per class; per part and task; per fold; views; decision variants."""
    parts = parts_table(found.score, found.f1["18 classes"], found.accuracy, found.f1)
    parts.add_section()
    for name, (f1, accuracy) in found.tasks.items():
        parts.add_row(Text(f"task {name}"), f"{f1:.4f}", f"{accuracy:.4f}")
    folds = new_table("macro F1 per fold", ">fold", ">people", ">photos", ">macro F1", ">accuracy")
    for f in found.folds:
        folds.add_row(str(f.fold), str(f.people), str(f.photos), f"{f.f1:.4f}", f"{f.accuracy:.4f}")
    if len(found.folds) > 1:
        spread = (f"±{stdev(values):.4f}" for values in zip(*((f.f1, f.accuracy) for f in found.folds), strict=True))
        folds.add_section()
        folds.add_row("spread", "", "", *spread)
    views = new_table("test-time augmentation, untuned", "views", ">passes", ">macro F1", ">difference (95 % CI)", "")
    for number, v in enumerate(sorted(found.views, key=lambda view: view.is_set)):
        gain = (f"{v.gain:+.3f}", v.gain.significance) if number else ()
        views.add_row(Text(f"--tta {v.name}" if v.is_set else v.name), str(v.passes), f"{v.f1.value:.4f}", *gain)

    def variants(wide: bool) -> Table:
        accuracy = [">accuracy"] if wide else []
        table = new_table("decision variants", "variant", ">macro F1", *accuracy, ">difference (95 % CI)", "")
        for number, s in enumerate(found.settings):
            gain = (f"{s.gain:+.3f}", s.gain.significance) if number else ()
            table.add_row(Text(s.name), f"{s.f1.value:.4f}", *([f"{s.accuracy:.4f}"] if wide else []), *gain)
        return table

    classes = class_scores_table(found.score, found.class_f1, found.class_people.tolist())
    return [classes, parts, folds, views, WideOrNarrow(variants)]


def headline(found: Evaluation, runs: Sequence[str]) -> list[str]:
    """The score, a line each."""
    return [
        f"macro F1 {found.f1['18 classes']:.4f}, accuracy {found.accuracy:.4f}",
        f"out-of-fold over {found.score.photos} photos of {found.people} people ({' + '.join(runs)}, {found.used})",
    ]


def submission_lines(found: SubmissionScore, truth: str, first: str) -> list[str]:
    """The score of a submission against answers, a line each; its gain is against the submission `first`."""
    drawn = f"{found.people} people" if found.people else "photos as if each were of another person"
    lines = [
        f"macro F1 {found.f1:.4f}, accuracy {found.accuracy:.4f}",
        f"over {found.score.photos} photos ({found.path} against {truth}); 95 % intervals over {drawn}",
    ]
    if found.score.absent:
        present = f"{CLASSES - len(found.score.absent)} of {CLASSES}"
        lines.insert(1, f"macro F1 {found.f1_present:.4f} over classes with answers: {present}")
    if found.gain:
        lines.append(f"difference from {first}: macro F1 {found.gain:+.4f}, {found.gain.significance}")
    return lines


def steps_table(tuning: Tuning) -> Table:
    """Gain of each step of tuning on people that it was not fitted on."""
    title = "each step on top of those kept, on people it was not fitted on"
    table = new_table(title, "<step", ">macro F1", ">gain (95 % CI)", ">log loss", "")
    for s in tuning.steps:
        cells = (s.name, f"{s.f1.value:.4f}", f"{s.gain:+.3f}", f"{s.loss.value:.3f}", "kept" if s.kept else "dropped")
        table.add_row(*cells, style=None if s.kept else "dim")
    return table


def differences_table(comparison: Comparison) -> Table:
    """What differs between runs, a column a run."""
    table = new_table("what differs", "", *(run.name for run in comparison.scores))
    for key, values in comparison.differences:
        table.add_row(Text(key), *(Text(v) for v in values))
    return table


def scores_table(comparison: Comparison) -> Table:
    """Out-of-fold macro F1 of each run, or of each recipe over its seeds, and the difference to the first one."""

    def cell(of: OverSeeds, form: str, ends: bool) -> str:
        spread = f" ±{of.deviation:.3f}" if of.deviation is not None else ""
        return f"{of.mean.value:{form}}{spread}" + (f" ({of.mean.low:{form}} to {of.mean.high:{form}})" if ends else "")

    several = len(comparison.scores) > 1
    difference = (">difference from the first", "") if several else ()
    table = new_table("out-of-fold macro F1", "", ">macro F1", *difference)
    for number, scores in enumerate(comparison.scores):
        table.add_row(Text(scores.name), style="bold")
        for part, f1 in scores.f1.items():
            gain = scores.gain[part]
            against = (cell(gain, "+.3f", ends=True), gain.significance) if number else ()
            table.add_row(f"  {part}", cell(f1, ".3f", ends=not several or f1.deviation is None), *against)
        table.add_section()
    return table


def class_gain_table(comparison: Comparison) -> Table:
    """F1 of each class in each run; + or - where it differs from the first run's by more than noise.

    Of two runs, the difference with its interval too.
    """
    table = table_of_classes("F1 per class; + or -: the interval of the difference to the first run excludes 0")
    first, *others = comparison.scores
    for run in comparison.scores:
        table.add_column(Text(run.name), overflow="fold")
    if len(others) == 1:
        table.add_column("difference", justify="right", no_wrap=True)
    for number, name in enumerate(CLASS_NAMES):
        cells = [f"{first.class_f1[number].mean.value:.3f}"]
        for run in others:
            gain = run.class_gain[number].mean
            mark = " " if gain.within_noise else "+" if gain.value > 0 else "-"
            cells.append(f"{run.class_f1[number].mean.value:.3f} {mark}")
        if len(others) == 1:
            cells.append(f"{others[0].class_gain[number].mean:+.2f}")
        table.add_row(str(number), name, *cells)
    return table


def matrix_table(title: str, rows: Mapping[str, Sequence[int]]) -> Table:
    """Runs and jobs of each recipe of a sweep; jobs done, to train, and shared with another recipe."""
    table = new_table(title, "recipe", ">runs", ">jobs", ">done", ">to train", ">shared")
    for recipe, counts in rows.items():
        table.add_row(Text(recipe), *map(str, counts))
    return table


def comparison_line(comparison: Comparison, checkpoint: str, tta: str) -> str:
    """What was compared, and how to read it."""
    seeds, folds = (", ".join(map(str, numbers)) for numbers in (comparison.seeds, comparison.folds))
    trained = f", folds {folds}, seeds {seeds}" if seeds else ""
    lines = [f"{comparison.photos} photos of {comparison.people} people{trained}."]
    lines.append(f"{checkpoint.capitalize()} epochs, views: {tta}.")
    if len(comparison.seeds) > 1:
        lines.append("Mean ± standard deviation over seeds. Intervals (95 %) are over people and seeds.")
    else:
        lines.append("Intervals (95 %) are over people, for one seed: another seed moves scores too.")
    if len(comparison.scores) > 1:
        lines.append("Within noise: the interval of the difference holds 0. 1 of 20 differences looks real by chance.")
    return " ".join(lines)


def estimate_table(found: Estimate) -> Table:
    """The jobs left to do, a row a task, with what a short probe measured."""
    figures = ("folds", "epochs", "photos an epoch", "photos/s", "a job", "MB")
    table = new_table("jobs left to do", "<task", *(f">{name}" for name in figures))
    several = len({recipe for recipe, _ in found.costs}) > 1
    for (recipe, task), cost in found.costs.items():
        jobs = [j for j in found.jobs if (j.recipe, j.task) == (recipe, task)]
        table.add_row(
            f"{recipe}: {task}" if several else task,
            in_short(j.fold for j in jobs),
            ", ".join(dict.fromkeys(str(j.epochs) for j in jobs)),
            f"{sum(j.photos for j in jobs) / len(jobs):.0f}",
            f"{1 / cost.train:.0f}",
            time_text(sum(j.seconds for j in jobs) / len(jobs)),
            f"{cost.weights / 1e6:.0f}",
        )
    return table


def estimate_lines(found: Estimate) -> list[str]:
    """The totals, a line each."""
    decode = f", of which {time_text(found.decode)} for decoding photos" if found.decode else ""
    memory = f"memory about {found.memory / 1e9:.1f} GB"
    if found.room is not None:
        memory += f", {found.room / 1e9:.1f} GB are free"
        memory += ": jobs may be killed; lower --jobs or batch_size" if found.memory > found.room else ""
    return [
        f"{len(found.jobs)} jobs, {found.at_a_time} at a time: about {time_text(found.seconds)}{decode}",
        memory,
        f"disk: models {found.disk / 1e9:.2f} GB, photo cache {found.cache / 1e9:.2f} GB more; "
        f"{found.free / 1e9:.1f} GB are free",
        *found.notes,
    ]


def time_text(seconds: float) -> str:
    """Seconds, minutes or hours, in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def recipes_table(recipes: Sequence[Recipe]) -> Table:
    """What each recipe is for."""
    table = new_table("", "<recipe", "for", "tasks", "<photos")
    for recipe in recipes:
        sizes = dict.fromkeys("{}x{}".format(*t.input_size) for t in recipe.tasks.values())
        table.add_row(recipe.name, recipe.description, ", ".join(recipe.tasks), ", ".join(sizes))
    return table


def pseudo_table(found: PseudoLabels) -> WideOrNarrow:
    """Pseudo-labelled photos of each class that each fold is trained on."""
    from ensemble.jobs.soft_targets import NOT_TAKEN

    taken = np.array([np.bincount(of_fold[of_fold != NOT_TAKEN], minlength=CLASSES) for of_fold in found.classes])

    def table(wide: bool) -> Table:
        made = table_of_classes("pseudo-labelled photos to train on", *fold_columns(len(taken), wide))
        for number in np.flatnonzero(taken.any(axis=0)):
            made.add_row(str(number), CLASS_NAMES[number], *fold_counts(taken[:, number], wide))
        made.add_section()
        made.add_row("", "photos", *fold_counts(taken.sum(axis=1), wide))
        return made

    return WideOrNarrow(table)


def pseudo_line(found: PseudoLabels) -> str:
    """Where they come from."""
    return (
        f"{len(found.photos.files)} photos in all, labelled by {found.source} with a probability of {found.min_p:g} or "
        "more; the labels of a fold come from the models of that fold alone, and none is scored"
    )
