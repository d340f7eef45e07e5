"""What a report says beyond the evaluation: confusions, calibration, ages, the photos to look at, the run's facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from ensemble.decision.blend import OofEnsemble, RunOofLogits
from ensemble.evaluation.evaluate import Calibration, Evaluation, PartPredictions, calibration, part_predictions
from ensemble.jobs.oof import JobCurves, read_curves
from ensemble.jobs.soft_targets import describe_pseudo_labels, describe_soft_targets
from ensemble.metrics.scores import macro_f1
from ensemble.training.pictures import counts
from folds.labels import AGE_CUTS, AGES, CLASS_NAMES, GENDERS, FloatArray, IntArray, age_band
from folds.run_folder import library_versions

GROUP = 10  # people that adjacent ages must have between them to be shown by themselves
NEAR = 2  # years within which an age counts as near a cut
EACH = 2  # photos of one person among the worst: a person nobody gets right would fill the sheet


@dataclass(frozen=True)
class Confusion:
    """Photos of each true label (row) by decided label (column)."""

    name: str
    labels: tuple[str, ...]
    counts: IntArray  # (labels, labels)

    @property
    def shares(self) -> FloatArray:
        """float64 (labels, labels): of each row; 0 where a label has no photo."""
        return np.asarray(self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1))


@dataclass(frozen=True)
class AgeGroup:
    """Adjacent ages on one side of each cut, and how the age band of their photos was decided."""

    first: int
    last: int
    people: int
    photos: int
    right: float  # shares of the photos
    younger: float  # taken as a younger band
    older: float


@dataclass(frozen=True)
class AgeErrors:
    """The age band of one gender's photos."""

    gender: str
    groups: tuple[AgeGroup, ...]
    photos: int
    f1: float  # macro over the bands
    accuracy: float
    wrong: int
    wrong_near: int  # of those, people at most NEAR years from a cut
    near: int  # photos of such people


@dataclass(frozen=True)
class ShownPhoto:
    """A photo to look at."""

    row: int  # index in TrainData.files
    truth: str
    decided: str
    p_true: float
    p_decided: float
    entropy: float  # of the 18 probabilities, in bits
    person: str  # the folder
    photo: str  # the file's name


@dataclass(frozen=True)
class RunFacts:
    """One run: how it learned and where it comes from."""

    name: str
    curves: list[JobCurves]
    without: list[str]  # jobs that have no history
    facts: list[tuple[str, str]]
    recipe: str  # TOML


@dataclass(frozen=True)
class Report:
    """All that is on the page, photos not yet opened."""

    blend: OofEnsemble
    found: Evaluation
    confusions: list[Confusion]
    calibrations: list[Calibration]
    ages: list[AgeErrors]
    worst: list[ShownPhoto]
    uncertain: list[ShownPhoto]
    runs: list[RunFacts]

    @property
    def models(self) -> int:
        return len(self.blend.trained) * sum(len(member.recipe.tasks) for member in self.blend.runs)


def gather(blend: OofEnsemble, found: Evaluation, photos: int) -> Report:
    """Put a report together.

    Args:
        found: what `evaluate` made of the blend.
        photos: to show of the worst and of the most uncertain ones.
    """
    parts = part_predictions(blend.truth, found.decision)
    worst, uncertain = photos_to_show(blend, found, photos)
    return Report(
        blend=blend,
        found=found,
        confusions=[confusion(part) for part in parts],
        calibrations=[calibration(part) for part in parts],
        ages=age_errors(blend, found.decision.classes),
        worst=worst,
        uncertain=uncertain,
        runs=[run_facts(member) for member in blend.runs],
    )


def confusion(part: PartPredictions) -> Confusion:
    """The confusion matrix of a part."""
    return Confusion(part.name, part.labels, counts(part.truth, part.decided, len(part.labels)))


def age_errors(blend: OofEnsemble, decided: IntArray) -> list[AgeErrors]:
    """How the age band was decided, for each gender that has photos.

    Args:
        decided: int64 (photos,), 0..17.
    """
    years = blend.data.years[blend.rows]
    _, gender, truth = (part[blend.rows] for part in blend.data.labels)
    said = decided % len(AGES)
    edges = np.array(AGE_CUTS) - 0.5
    near = np.abs(years[:, None] - edges).min(axis=1) < NEAR
    found = []
    for number, name in enumerate(GENDERS):
        mine = gender == number
        if not mine.any():
            continue
        wrong = mine & (said != truth)
        found.append(
            AgeErrors(
                gender=name,
                groups=tuple(age_groups(years[mine], said[mine], blend.person[mine])),
                photos=int(mine.sum()),
                f1=macro_f1(truth[mine], said[mine], len(AGES)),
                accuracy=float((said == truth)[mine].mean()),
                wrong=int(wrong.sum()),
                wrong_near=int((wrong & near).sum()),
                near=int((mine & near).sum()),
            )
        )
    return found


def age_groups(years: IntArray, decided: IntArray, person: IntArray, least: int = GROUP) -> list[AgeGroup]:
    """Put adjacent ages together until they have `least` people, never across a cut.

    A band with fewer people is one group; what is left over at a band's upper end goes with the group below.

    Args:
        years: int64 (photos,), ages.
        decided: int64 (photos,), age bands.
        person: int64 (photos,).
    """
    bands, found = age_band(years), []

    def people(ages: Sequence[int]) -> int:
        return len(np.unique(person[np.isin(years, ages)]))

    for band in np.unique(bands):
        groups: list[list[int]] = [[]]
        for age in np.unique(years[bands == band]).tolist():
            if people(groups[-1]) >= least:
                groups.append([])
            groups[-1].append(age)
        if len(groups) > 1 and people(groups[-1]) < least:
            rest = groups.pop()
            groups[-1] += rest
        for ages in groups:
            said = decided[np.isin(years, ages)]
            right, younger, older = (float(s.mean()) for s in (said == band, said < band, said > band))
            found.append(AgeGroup(ages[0], ages[-1], people(ages), len(said), right, younger, older))
    return found


def photos_to_show(blend: OofEnsemble, found: Evaluation, most: int) -> tuple[list[ShownPhoto], list[ShownPhoto]]:
    """(the photos with the highest loss of their true class, those with the highest entropy), worst first."""
    log_p = found.decision.log_probabilities
    rows = np.arange(len(log_p))
    p = np.exp(log_p)
    entropy = -(p * log_p).sum(axis=1) / np.log(2)
    decided, files, people = found.decision.classes, blend.data.files, blend.data.people

    def shown(place: int) -> ShownPhoto:
        row, true, said = int(blend.rows[place]), int(blend.truth[place]), int(decided[place])
        return ShownPhoto(
            row,
            CLASS_NAMES[true],
            CLASS_NAMES[said],
            float(p[place, true]),
            float(p[place, said]),
            float(entropy[place]),
            people[blend.data.photo_person[row]].path,
            PurePosixPath(files[row]).name,
        )

    ranks = highest(-log_p[rows, blend.truth], blend.person, most), highest(entropy, blend.person, most)
    worst, uncertain = ([shown(place) for place in rank] for rank in ranks)
    return worst, uncertain


def highest(values: FloatArray, person: IntArray, most: int, each: int = EACH) -> list[int]:
    """Places of the highest values, highest first, at most `each` of one person.

    Args:
        values: float64 (photos,).
        person: int64 (photos,).
    """
    taken: Counter[int] = Counter()
    found: list[int] = []
    for place in np.argsort(-values, kind="stable").tolist():
        if len(found) == most:
            break
        if taken[person[place]] < each:
            taken[person[place]] += 1
            found.append(place)
    return found


def run_facts(member: RunOofLogits) -> RunFacts:
    """What run.json, the jobs and the recipe of a run say."""
    run = member.run
    curves, without = read_curves(run, member.recipe)
    now = library_versions()["maskens"]
    facts = [
        ("data", run.data),
        ("data fingerprint", run.fingerprint),
        ("label fixes", run.fixes),
        ("pseudo-labels", describe_pseudo_labels(run)),
        ("soft targets", describe_soft_targets(run)),
        ("folds", f"{run.k}, hash {run.folds_hash}"),
        ("seed", str(run.seed)),
        ("recipe", f"{member.recipe.name}, hash {member.recipe.hash}"),
        ("made", f"{run.created}, by maskens {run.versions.get('maskens', 'of unknown version')}"),
        ("trained on", _counted([_machine(job) for job in curves]) or "unknown"),
        ("trained with", _counted([_libraries(job) for job in curves]) or "unknown"),
        ("this page", f"by maskens {now}"),
    ]
    return RunFacts(member.name, curves, without, facts, member.recipe.text)


def _machine(job: JobCurves) -> str:
    record = job.status.record
    return f"{record['device']}, {record['threads']} threads" if {"device", "threads"} <= record.keys() else "unknown"


def _libraries(job: JobCurves) -> str:
    return ", ".join(f"{name} {version}" for name, version in job.status.record.get("versions", {}).items())


def _counted(values: Sequence[str]) -> str:
    """Each value once, with the number of jobs where they differ."""
    found = Counter(v for v in values if v)
    return "; ".join(found if len(found) == 1 else (f"{value} ({jobs} jobs)" for value, jobs in found.items()))
