"""Likely label errors: labels for which the out-of-fold predictions give another label a higher probability."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from ensemble.decision.fitting import fit_temperature
from ensemble.decision.joint import marginals
from ensemble.metrics.scores import PARTS
from folds.corrections import FIX_COLUMNS
from folds.files import safe_csv
from folds.labels import AGE_CUTS, FIELDS, FloatArray, IntArray
from folds.people import Person, TrainData

MORE_COLUMNS = ("rank", "score", "self_confidence", "margin", "photos_agree")


@dataclass(frozen=True)
class FieldPredictions:
    """Predictions for one field of photos, with their given labels."""

    given: IntArray  # (photos,)
    log_p: FloatArray  # (photos, labels), calibrated
    temperature: float  # of the calibration

    @functools.cached_property
    def odds(self) -> FloatArray:
        """float64 (photos, labels): log odds of each label against the given one, which has 0."""
        return np.asarray(self.log_p - np.take_along_axis(self.log_p, self.given[:, None], axis=1))

    @functools.cached_property
    def predicted(self) -> IntArray:
        """int64 (photos,): the most probable label."""
        return np.asarray(self.log_p.argmax(axis=1), dtype=np.int64)

    @functools.cached_property
    def confidence(self) -> FloatArray:
        """float64 (photos,): self-confidence, the probability of the given label (Northcutt et al. 2021)."""
        return np.asarray(np.exp(np.take_along_axis(self.log_p, self.given[:, None], axis=1))[:, 0])

    @functools.cached_property
    def margin(self) -> FloatArray:
        """float64 (photos,): probability of the given label minus that of the most probable other one."""
        others = np.exp(self.log_p)
        np.put_along_axis(others, self.given[:, None], -1, axis=1)
        return np.asarray(self.confidence - others.max(axis=1))


@dataclass(frozen=True)
class AuditedPhoto:
    """A photo that was predicted."""

    person: Person  # its row of the table
    shot: str  # which of the row's photos, "" of a list


@dataclass(frozen=True)
class PhotoIssue:
    """A photo whose label may be wrong."""

    place: int  # among the photos that were predicted
    photo: AuditedPhoto
    given: int
    suggested: int
    confidence: float  # of the given label
    margin: float


@dataclass(frozen=True)
class LabelIssue:
    """Labels that are right or wrong together: the gender or age of all photos that share it, one photo's mask, or two
    masks that are swapped."""

    field: str
    doubts: tuple[PhotoIssue, ...]  # all photos that it is about
    agree: int  # photos whose own prediction prefers the suggested label

    @property
    def score(self) -> float:
        """How improbable the given label is, 0..1: 1 minus its self-confidence, the mean over its photos.

        Half of that for one of seven masks that is not swapped with another: were it wrong, the person would lack a
        photo of its state and have one too many of another, so most of these are the models' mistakes.
        """
        alone = self.field == "mask" and len(self.doubts) == 1 and bool(self.doubts[0].photo.shot)
        return (1 - float(np.mean([d.confidence for d in self.doubts]))) * (0.5 if alone else 1)

    @property
    def labels(self) -> dict[tuple[str, str], list[PhotoIssue]]:
        """What a list of fixes names, path and shot -> the photos that have the label."""
        found: dict[tuple[str, str], list[PhotoIssue]] = {}
        for d in self.doubts:
            found.setdefault((d.photo.person.path, d.photo.shot if self.field == "mask" else ""), []).append(d)
        return found

    @property
    def who(self) -> str:
        """The row of the table, the person of several rows."""
        rows = {d.photo.person.path: d.photo.person.group for d in self.doubts}
        return next(iter(rows)) if len(rows) == 1 else next(iter(rows.values()))

    @property
    def shots(self) -> str:
        """Of a mask the shots, else ""."""
        return ", ".join(shot for _, shot in self.labels if shot)

    @property
    def change(self) -> str:
        """Like "male -> female"; of a swap "wear <-> incorrect"; an age with its years."""
        doubt, age = self.doubts[0], self.doubts[0].photo.person.age
        years = f"{age}, " if self.field == "age" and age >= 0 else ""
        arrow = "<->" if self.swapped else "->"
        return f"{years}{FIELDS[self.field][doubt.given]} {arrow} {FIELDS[self.field][doubt.suggested]}"

    @property
    def swapped(self) -> bool:
        return self.field == "mask" and len(self.doubts) == 2


@dataclass(frozen=True)
class Audit:
    """Everything that was found, most suspicious first."""

    data: TrainData
    rows: IntArray  # (photos,): index in `data.files` of each photo that was predicted
    photos: list[AuditedPhoto]
    fields: dict[str, FieldPredictions]  # of the fields asked for
    suspects: tuple[LabelIssue, ...]

    @property
    def people(self) -> int:
        return len({photo.person.group for photo in self.photos})

    @property
    def counts(self) -> dict[str, int]:
        """Suspects of each field."""
        found = Counter(s.field for s in self.suspects)
        return {field: found[field] for field in self.fields}

    def reason(self, suspect: LabelIssue) -> str:
        """Why a label is a suspect, in words."""
        first, of = suspect.doubts[0], len(suspect.doubts)
        name = FIELDS[suspect.field][first.suggested]
        if suspect.swapped:
            reason = f"{suspect.shots.replace(', ', ' and ')} look swapped"
        elif suspect.field == "mask":
            reason = f"{first.photo.shot or 'the photo'} looks like '{name}'"
        elif of == 1:
            reason = f"the photo looks {name}"
        else:
            reason = f"{f'all {of}' if suspect.agree == of else f'{suspect.agree} of {of}'} photos look {name}"
        if suspect.field == "age":
            reason += "; the band is in doubt, not the year"
        fixed = {(f.path, f.photo) for f in self.data.fixes if f.field == suspect.field}
        return f"a fix of this run, in doubt again: {reason}" if fixed & suspect.labels.keys() else reason


def audit(
    data: TrainData, rows: IntArray, log_probabilities: FloatArray, fields: Sequence[str] = tuple(FIELDS)
) -> Audit:
    """Rank labels by how much the out-of-fold predictions contradict them.

    Self-confidence and margin are those of confident learning (Northcutt et al. 2021, "Confident learning: estimating
    uncertainty in dataset labels"). What a person's photos share is weighed over all of them: models err on single
    photos, wrong labels contradict all of them. Each folder is weighed by itself, also where two have one id.

    Args:
        rows: int64 (photos,), index in `data.files` of each photo that was predicted.
        log_probabilities: float64 (photos, 18), of those photos, by models that never saw the person.
        fields: some of gender, age, mask.
    """
    shots = [shot for p in data.people for shot in p.shots]
    photos = [AuditedPhoto(data.people[data.photo_person[row]], shots[row]) for row in rows.tolist()]
    predictions = {
        field: field_predictions(data, rows, log_probabilities, field) for field in FIELDS if field in fields
    }
    suspects = [
        s
        for field, found in predictions.items()
        for s in (mask_suspects(found, photos) if field == "mask" else person_suspects(found, photos, field))
    ]
    suspects.sort(key=lambda s: (-s.score, s.doubts[0].photo.person.path, s.field, s.shots))
    return Audit(data, rows, photos, predictions, tuple(suspects))


def field_predictions(data: TrainData, rows: IntArray, log_probabilities: FloatArray, field: str) -> FieldPredictions:
    """The marginals of the joint predictions for one field, calibrated: networks are overconfident, in some fields more
    than in others, and all fields are ranked together."""
    which = PARTS.index(field)
    given, log_p = data.labels[which][rows], marginals(log_probabilities)[which]
    temperature = fit_temperature(log_p, given)
    return FieldPredictions(given, log_softmax(log_p / temperature, axis=1), temperature)


def _groups(keys: Sequence[str]) -> list[IntArray]:
    """The places of each key, ascending."""
    _, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.split(np.argsort(number, kind="stable"), np.cumsum(counts)[:-1])


def _issues(
    found: FieldPredictions, photos: Sequence[AuditedPhoto], suggested: Mapping[int, int]
) -> tuple[PhotoIssue, ...]:
    """Of the photos at these places, with these labels suggested."""
    given, confidence, margin = found.given, found.confidence, found.margin
    return tuple(
        PhotoIssue(i, photos[i], int(given[i]), label, float(confidence[i]), float(margin[i]))
        for i, label in suggested.items()
    )


def person_suspects(found: FieldPredictions, photos: Sequence[AuditedPhoto], field: str) -> list[LabelIssue]:
    """Genders or ages of which the photos that share them, by the mean of their log odds, prefer another: the photos of
    a row, or those of a list with the same person and label.

    They are ranked by the mean probability of the given label, not by those odds: one extreme photo moves a mean of
    logarithms more than six others.
    """
    odds, issues = found.odds, []
    keys = [p.person.path if p.shot else f"{p.person.group}\t{getattr(p.person, field)}" for p in photos]
    for places in _groups(keys):
        mean = odds[places].mean(axis=0)
        best = int(mean.argmax())
        if mean[best] > 0:
            doubts = _issues(found, photos, dict.fromkeys(places.tolist(), best))
            issues.append(LabelIssue(field, doubts, int((odds[places, best] > 0).sum())))
    return issues


def mask_suspects(found: FieldPredictions, photos: Sequence[AuditedPhoto]) -> list[LabelIssue]:
    """Each row's best swap of two masks, if both photos' log odds favour it, and the single photos in no swap."""
    odds, given = found.odds, found.given
    best = odds.argmax(axis=1)
    doubted = np.flatnonzero(odds.max(axis=1) > 0).tolist()
    issues = []
    for group in _groups([photos[i].person.path for i in doubted]) if doubted else []:
        places = [doubted[n] for n in group]
        gains = {(i, j): (odds[i, given[j]], odds[j, given[i]]) for i, j in itertools.combinations(places, 2)}
        swaps = [pair for pair, gain in gains.items() if min(gain) > 0]
        suggested = [{i: int(best[i])} for i in places]
        if swaps:
            i, j = max(swaps, key=lambda pair: sum(gains[pair]))
            suggested = [{i: int(given[j]), j: int(given[i])}, *(s for s in suggested if not s.keys() & {i, j})]
        issues += [LabelIssue("mask", _issues(found, photos, s), len(s)) for s in suggested]
    return issues


def nearest_year(age: int, band: int) -> int:
    """The year of a band that is nearest to an age: of >=60 that is 60, of 30-59 it is 30 or 59, of <30 it is 29."""
    first, last = (0, *AGE_CUTS)[band], (*(cut - 1 for cut in AGE_CUTS), age)[band]
    return max(first, min(age, last))


def suspects_csv(found: Audit) -> str:
    """All suspects as a list of fixes (folds/corrections.py) with more columns; rows of one suspect share a rank."""
    rows = []
    for rank, s in enumerate(found.suspects, start=1):
        for (path, shot), doubts in s.labels.items():
            first, age = doubts[0], doubts[0].photo.person.age
            old, new = (FIELDS[s.field][n] for n in (first.given, first.suggested))
            if s.field == "age" and age >= 0:
                old, new = str(age), str(nearest_year(age, first.suggested))
            means = (np.mean([d.confidence for d in doubts]), np.mean([d.margin for d in doubts]))
            numbers = (f"{v:.4f}" for v in (s.score, *means))
            rows.append((path, shot, s.field, old, new, found.reason(s), rank, *numbers, s.agree))
    return safe_csv((*FIX_COLUMNS, *MORE_COLUMNS), rows)


def photos_csv(found: Audit) -> str:
    """Every photo with its given and predicted labels, sorted by the lowest self-confidence of its labels."""
    columns = [f"{field}{what}" for field in found.fields for what in ("", "_predicted", "_self_confidence", "_margin")]
    lowest = np.min([v.confidence for v in found.fields.values()], axis=0)
    arrays = [(FIELDS[f], v.given, v.predicted, v.confidence, v.margin) for f, v in found.fields.items()]
    rows = []
    for i in np.argsort(lowest, kind="stable").tolist():
        cells = [found.photos[i].person.path, found.photos[i].shot]
        for names, given, predicted, confidence, margin in arrays:
            cells += [names[given[i]], names[predicted[i]], f"{confidence[i]:.4f}", f"{margin[i]:.4f}"]
        rows.append(cells)
    return safe_csv(("path", "photo", *columns), rows)
