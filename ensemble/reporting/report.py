"""The page of `maskens report`: one HTML file that needs no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from ensemble.decision.joint import Decision
from ensemble.decision.oof_ensemble import OofEnsemble, RunOofLogits
from ensemble.evaluation.evaluate import Calibration, Evaluation, PartPredictions, calibration, part_predictions
from ensemble.jobs.oof import CURVES, Checkpoint, JobCurves, read_curves
from ensemble.jobs.soft_targets import describe_pseudo_labels, describe_soft_targets
from ensemble.metrics.scores import SCORED_PARTS, confusion, macro_f1
from folds.files import sha256, sha256_of_arrays, write_text
from folds.labels import AGE_CUTS, AGES, CLASS_NAMES, GENDERS, FloatArray, IntArray
from folds.pages.charts import COLOURS, Bar, Line, Panel
from folds.pages.contact_sheet import Cell, photo_caption, thumbnails
from folds.pages.html import has_meta, render
from folds.photos import Progress
from folds.run_folder import library_versions

GENERATOR = "maskens report"
YEARS = 5  # of a bar of the age chart
NEAR = 2  # years within which an age counts as near a cut
EACH = 2  # most photos of one person among the worst: one whose label is wrong would fill the sheet
WELL_CALIBRATED = 0.02  # gap of mean confidence and accuracy from which they are called over- or underconfident
RIGHT, YOUNGER, OLDER = 0, 4, 1  # colours of the age chart


@dataclass(frozen=True)
class Confusion:
    """Photos of each true label (row) by predicted label (column)."""

    name: str
    labels: tuple[str, ...]
    counts: IntArray  # (labels, labels)

    @property
    def fractions(self) -> FloatArray:
        """float64 (labels, labels): of each row; 0 where a label has no photo."""
        return np.asarray(self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1))


@dataclass(frozen=True)
class AgeErrors:
    """The age band of one gender's photos."""

    gender: str
    bins: dict[int, tuple[float, float, float]]  # first of YEARS years of age -> fractions right, too young, too old
    photos: int
    f1: float  # macro over the bands
    accuracy: float
    wrong: int
    wrong_near: int  # of those, people at most NEAR years from a cut
    near: int  # photos of such people


def confusions(parts: Sequence[PartPredictions]) -> list[Confusion]:
    """The confusion matrix of each part."""
    return [Confusion(p.name, p.labels, confusion(p.truth, p.decided, len(p.labels))) for p in parts]


def age_errors(oof: OofEnsemble, predicted: IntArray) -> list[AgeErrors]:
    """Errors of the age band of predicted classes, int64 (photos,), for each gender that has photos."""
    years = oof.data.years[oof.rows]
    _, genders, truth = (part[oof.rows] for part in oof.data.labels)
    off = predicted % len(AGES) - truth
    near = np.abs(years[:, None] - (np.array(AGE_CUTS) - 0.5)).min(axis=1) < NEAR
    first = years // YEARS * YEARS  # no bin crosses a cut
    found = []
    for number in np.unique(genders):
        mine = genders == number
        each = {int(n): off[mine & (first == n)] for n in np.unique(first[mine])}
        bins = {n: (float((o == 0).mean()), float((o < 0).mean()), float((o > 0).mean())) for n, o in each.items()}
        f1 = macro_f1(truth[mine], (truth + off)[mine], len(AGES))
        wrong = mine & (off != 0)
        figures = (int(n.sum()) for n in (wrong, wrong & near, mine & near))
        found.append(AgeErrors(GENDERS[number], bins, int(mine.sum()), f1, float((off == 0)[mine].mean()), *figures))
    return found


def highest(values: FloatArray, person: IntArray, most: int, each: int = EACH) -> list[int]:
    """Places of the highest of float64 (photos,), highest first, at most `each` of one person, int64 (photos,)."""
    taken: Counter[int] = Counter()
    found: list[int] = []
    for place in np.argsort(-values, kind="stable").tolist():
        taken[person[place]] += 1
        if taken[person[place]] <= each and len(found) < most:
            found.append(place)
    return found


def run_facts(member: RunOofLogits, jobs: Sequence[JobCurves]) -> dict[str, str]:
    """What run.json, the jobs and the recipe record of a run's data, settings and environment."""
    run, records = member.run, [job.status.record for job in jobs]
    devices = (f"{r['device']}, {r['threads']} threads" for r in records if {"device", "threads"} <= r.keys())
    versions = (", ".join(f"{n} {v}" for n, v in r["versions"].items()) for r in records if r.get("versions"))
    return {
        "data": run.data,
        "data fingerprint": run.fingerprint,
        "label fixes": run.fixes,
        "pseudo-labels": describe_pseudo_labels(run),
        "soft targets": describe_soft_targets(run),
        "folds": f"{run.k}, hash {run.folds_hash}",
        "seed": str(run.seed),
        "recipe": f"{member.recipe.name}, hash {member.recipe.hash}",
        "run created": f"{run.created}, by maskens {run.versions.get('maskens', 'of unknown version')}",
        "device": _counted(devices),
        "versions": _counted(versions),
        "report written": f"by maskens {library_versions()['maskens']}",
    }


def _counted(values: Iterable[str]) -> str:
    """Each value once, with its number of jobs where they differ."""
    found = Counter(values)
    one = len(found) == 1
    return "; ".join(value if one else f"{value} ({jobs} jobs)" for value, jobs in found.items()) or "unknown"


def write_report(
    path: Path, oof: OofEnsemble, found: Evaluation, photos: int, workers: int, on_progress: Progress | None = None
) -> None:
    """Write the page.

    Args:
        found: its scores, by `evaluate`.
        photos: to show of the highest loss, and as many of the highest entropy.
        workers: threads that open photos; -1 all cores.

    Raises:
        MaskensError: if the system refuses to write.
    """
    parts, log_p = part_predictions(oof.truth, found.decision), found.decision.log_probabilities
    losses = -log_p[np.arange(len(log_p)), oof.truth]
    worst, uncertain = (highest(values, oof.person, photos) for values in (losses, entropies(found.decision)))
    cells = photo_cells(oof, found.decision, worst + uncertain, workers, on_progress)
    jobs, without = zip(*(read_curves(member.run) for member in oof.runs), strict=True)
    matrices, calibrations = confusions(parts), [calibration(part) for part in parts]
    ages = age_errors(oof, found.decision.classes)
    html = render(
        "report.html",
        generator=GENERATOR,
        decision=_decision_hash(found),
        title=f"Evaluation of {' + '.join(member.name for member in oof.runs)}",
        oof=oof,
        found=found,
        models=len(oof.trained) * sum(len(member.recipe.tasks) for member in oof.runs),
        parts=SCORED_PARTS,
        class_names=CLASS_NAMES,
        findings=findings(found, matrices[0], calibrations[0], ages),
        matrices=matrices[1:] + matrices[:1],
        calibrations=calibrations,
        reliability=[reliability_panel(part) for part in calibrations],
        ages=ages,
        age_panels=[age_panel(errors) for errors in ages],
        age_legend={"right": RIGHT, "too young": YOUNGER, "too old": OLDER},
        jobs=jobs,
        without=without,
        curve_findings=[curves_finding(of) for of in jobs],
        curves=[curve_panels(of) for of in jobs],
        fold_legend=[fold_colours(of) for of in jobs],
        facts=[run_facts(*of) for of in zip(oof.runs, jobs, strict=True)],
        worst=cells[: len(worst)],
        uncertain=cells[len(worst) :],
        cuts=AGE_CUTS,
        each=EACH,
        near=NEAR,
        years=YEARS,
    )
    write_text(path, html)


def shows(page: Path, found: Evaluation) -> bool:
    """Whether there is a page of `write_report` that shows the same decision on the same photos."""
    return has_meta(page, "decision", _decision_hash(found))


def _decision_hash(found: Evaluation) -> str:
    decision = found.decision
    arrays = {"log_probabilities": decision.log_probabilities, "classes": decision.classes}
    return sha256(found.used + sha256_of_arrays(arrays))


def reliability_panel(part: Calibration) -> Panel:
    """Accuracy against confidence; the bars at the foot are the fractions of the photos."""
    heights = part.photos / part.photos.sum()
    bars = [Bar(c - 0.02, c + 0.02, 0, h, None) for c, h in zip(part.confidence, heights, strict=True)]
    points = list(zip(part.confidence, part.accuracy, strict=True))
    lines = [Line([(0, 0), (1, 1)], None), Line(points, 0, dots=points)]
    return Panel(f"{part.name}, ECE {part.ece:.3f}", "confidence", (0, 1), (0, 1), bars=bars, lines=lines)


def age_panel(errors: AgeErrors) -> Panel:
    """Fractions of photos whose age band is predicted right, too young and too old, by age."""
    bars = []
    for first, heights in errors.bins.items():
        foot = 0.0
        for colour, height in zip((RIGHT, YOUNGER, OLDER), heights, strict=True):
            bars.append(Bar(first - 0.4, first + YEARS - 0.6, foot, foot + height, colour))
            foot += height
    ends = min(errors.bins) - 1, max(errors.bins) + YEARS
    cuts = [cut - 0.5 for cut in AGE_CUTS if ends[0] < cut < ends[1]]
    return Panel(f"{errors.gender}, fraction of photos", "age in years", ends, (0, 1), (1, 0), bars, cuts=cuts)


def fold_colours(jobs: Sequence[JobCurves]) -> dict[str, int]:
    """fold -> colour of its lines."""
    return {f"fold {fold}": n % COLOURS for n, fold in enumerate(sorted({job.fold for job in jobs}))}


def curve_panels(jobs: Sequence[JobCurves]) -> list[Panel]:
    """Training loss, validation loss and macro F1 by epoch of each task: a line a fold, a dot at its best epoch."""
    names = {"loss": "training loss", "val_loss": "validation loss", "f1": "validation macro F1"}
    colours, panels = fold_colours(jobs), []
    for task in dict.fromkeys(job.task for job in jobs):
        mine = [job for job in jobs if job.task == task]
        for column in CURVES:
            lines, high = [], 0.0
            for job in mine:
                points = [(n, y) for n, y in enumerate(job.curves[column], start=1) if np.isfinite(y)]
                best = [point for point in points if point[0] == job.best]
                high = max([high, *(y for _, y in points)])
                lines.append(Line(points, colours[f"fold {job.fold}"], best))
            x = 0.5, max(job.epochs for job in mine) + 0.5
            panels.append(Panel(f"{task}: {names[column]}", "epoch", x, (0, 1.05 * high or 1), (1, 0), lines=lines))
    return panels


def findings(found: Evaluation, matrix: Confusion, whole: Calibration, ages: Sequence[AgeErrors]) -> dict[str, str]:
    """What each section shows, in a sentence; `matrix` and `whole` are of the 18 classes."""
    plain, *others = found.settings
    others_epochs = {*get_args(Checkpoint)} - {plain.name.partition(",")[0]}  # of which the best ones flatter
    others = [s for s in others if s.name.partition(",")[0] not in others_epochs]
    moved = {
        kind: ", ".join(f"{s.name} ({s.gain.value:+.4f})" for s in others if s.gain.significance == kind)
        for kind in ("better", "worse")
    }
    variants = "; ".join(f"{kind} than {plain.name}: {names}" for kind, names in moved.items() if names)
    weakest = min(SCORED_PARTS[1:], key=lambda part: found.f1[part].value)
    folds = [fold.f1 for fold in found.folds]
    present = np.flatnonzero(found.score.support)
    lowest = min(present.tolist(), key=lambda c: found.class_f1[c].value)
    wrong, near = (sum(getattr(a, name) for a in ages) for name in ("wrong", "wrong_near"))
    errors = matrix.counts * (1 - np.eye(len(matrix.labels), dtype=np.int64))
    true, taken = np.unravel_index(int(errors.argmax()), errors.shape)
    sure, right = (float(np.average(values, weights=whole.photos)) for values in (whole.confidence, whole.accuracy))
    calibrated = abs(sure - right) < WELL_CALIBRATED
    return {
        "settings": f"{variants[0].upper()}{variants[1:]}."
        if variants
        else f"No variant differs from {plain.name} by more than noise.",
        "parts": f"The weakest part is {weakest}, macro F1 {found.f1[weakest].value:.4f}. "
        f"Over folds, macro F1 of the 18 classes ranges from {min(folds):.4f} to {max(folds):.4f}.",
        "classes": f"Lowest F1: class {lowest} ({CLASS_NAMES[lowest]}), {found.class_f1[lowest].value:.3f}, "
        f"on {found.class_people[lowest]} people.",
        "confusion": f"The most common error: {matrix.labels[true]} predicted as {matrix.labels[taken]}, "
        f"{errors[true, taken]} of {matrix.counts[true].sum()} photos."
        if errors.any()
        else "No photo is predicted wrong.",
        "calibration": f"The {whole.name} are "
        + ("well calibrated on average" if calibrated else "overconfident" if sure > right else "underconfident")
        + f": mean confidence {sure:.3f}, accuracy {right:.3f}.",
        "ages": f"{wrong} of {sum(a.photos for a in ages)} photos get the wrong age band; "
        f"{near} of them are of people within {NEAR} years of a cut.",
    }


def curves_finding(jobs: Sequence[JobCurves]) -> str:
    """In how many jobs the last epoch is the best one."""
    last = sum(job.best == job.epochs for job in jobs)
    advice = ": more epochs may help" if 2 * last > len(jobs) else ""
    return f"The best epoch is the last one in {last} of {len(jobs)} jobs{advice}."


def entropies(decision: Decision) -> FloatArray:
    """float64 (photos,): of the 18 probabilities, in bits."""
    log_p = decision.log_probabilities
    return np.asarray(-(np.exp(log_p) * log_p).sum(axis=1) / np.log(2))


def photo_cells(
    oof: OofEnsemble, decision: Decision, places: Sequence[int], workers: int, on_progress: Progress | None = None
) -> list[Cell]:
    """Thumbnails with the true and the predicted class and their probabilities; no picture if it can't be read."""
    files, entropy = [oof.data.files[oof.rows[place]] for place in places], entropies(decision)
    pictures = thumbnails([oof.data.photos.path(file) for file in files], workers, on_progress)
    cells = []
    for place, file, picture in zip(places, files, pictures, strict=True):
        true, predicted = int(oof.truth[place]), int(decision.classes[place])
        p, name = np.exp(decision.log_probabilities[place]), photo_caption(file).replace("\n", "")
        lines = [
            f"true {CLASS_NAMES[true]}",
            "predicted right" if predicted == true else f"predicted {CLASS_NAMES[predicted]}",
            f"p(true) {p[true]:.3g}",
            f"p(predicted) {p[predicted]:.3g}",
            f"entropy {entropy[place]:.2f} bits",
            name,
        ]
        cells.append(Cell(picture, "\n".join(lines), name))
    return cells
