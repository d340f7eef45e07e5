"""Likely label errors: labels that the models which never saw the person find less likely than another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from ensemble.decision.fitting import fit_temperature
from ensemble.decision.joint import marginals
from ensemble.metrics.scores import PARTS
from folds.corrections import FIX_COLUMNS
from folds.files import safe_csv
from folds.labels import AGE_CUTS, CLASSES, FIELDS, FloatArray, IntArray
from folds.people import Person, TrainData

MORE_COLUMNS = ("rank", "score", "self_confidence", "margin", "photos_agree")


@dataclass(frozen=True)
class FieldPredictions:
    """Predictions for one field of every photo, with its given label; NaN for a photo that is skipped. A row of a list
    has one photo."""

    given: IntArray  # (people, 7 or 1)
    log_p: FloatArray  # (people, 7 or 1, labels), calibrated
    temperature: float  # by which they were

    @property
    def odds(self) -> FloatArray:
        """float64, as `log_p`: log odds of each label against the given one, which has 0."""
        return np.asarray(self.log_p - np.take_along_axis(self.log_p, self.given[..., None], axis=2))

    @property
    def predicted(self) -> IntArray:
        """int64, as `given`."""
        return np.asarray(self.log_p.argmax(axis=2), dtype=np.int64)

    @property
    def confidence(self) -> FloatArray:
        """float64, as `given`: probability of the given label, its self-confidence (Northcutt et al. 2021)."""
        return np.asarray(np.exp(np.take_along_axis(self.log_p, self.given[..., None], axis=2))[..., 0])

    @property
    def margin(self) -> FloatArray:
        """float64, as `given`: probability of the given label less that of the likeliest other one (ibid.)."""
        others = np.exp(self.log_p)
        np.put_along_axis(others, self.given[..., None], -1, axis=2)
        return np.asarray(self.confidence - others.max(axis=2))


@dataclass(frozen=True)
class PhotoIssue:
    """One label that may be wrong: a row of suspects.csv."""

    photo: str  # file stem if the field is mask, else ""
    given: int
    suggested: int
    confidence: float  # of the given label; where it is on all photos, their mean
    margin: float


@dataclass(frozen=True)
class LabelIssue:
    """Labels that are right or wrong together: a person's gender or age, one photo's mask, or two that are swapped."""

    row: int  # of the predictions
    person: Person
    field: str
    doubts: tuple[PhotoIssue, ...]
    agree: int  # photos that find the suggested label likelier themselves
    of: int  # photos that it is about, without those that are skipped

    @property
    def score(self) -> float:
        """How improbable the given label is, 0..1: 1 minus its self-confidence, the mean over its photos.

        Half of that for one photo's mask that no other photo would take in exchange: were it wrong, the person would
        lack a photo of its state and have one too many of another, so most of these are the models' mistakes.
        """
        alone = self.field == "mask" and len(self.doubts) == 1
        return (1 - float(np.mean([d.confidence for d in self.doubts]))) * (0.5 if alone else 1)

    @property
    def photos(self) -> str:
        """The photos, "" if it is about all of them."""
        return ", ".join(d.photo for d in self.doubts)

    @property
    def change(self) -> str:
        """Like "male -> female"; of a swap "wear <-> incorrect"; an age with its years."""
        doubt = self.doubts[0]
        years = f"{self.person.age}, " if self.field == "age" and self.person.age >= 0 else ""
        arrow = "->" if len(self.doubts) == 1 else "<->"
        return f"{years}{FIELDS[self.field][doubt.given]} {arrow} {FIELDS[self.field][doubt.suggested]}"


@dataclass(frozen=True)
class Audit:
    """Everything that was found, most suspicious first."""

    data: TrainData
    people: IntArray  # (people,): index into data.people of each row of the predictions
    fields: dict[str, FieldPredictions]  # of the fields asked for
    suspects: tuple[LabelIssue, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Suspects of each field."""
        found = Counter(s.field for s in self.suspects)
        return {field: found[field] for field in self.fields}

    def reason(self, suspect: LabelIssue) -> str:
        """Why a suspect is one, for people."""
        first = suspect.doubts[0]
        name = FIELDS[suspect.field][first.suggested]
        if len(suspect.doubts) == 2:
            reason = f"{' and '.join(d.photo for d in suspect.doubts)} look swapped"
        elif suspect.field == "mask":
            reason = f"{first.photo or 'the photo'} looks like '{name}'"
        else:
            count = f"all {suspect.of}" if suspect.agree == suspect.of else f"{suspect.agree} of {suspect.of}"
            reason = f"{count} photos look {name}"
        if suspect.field == "age":
            reason += "; the band is in doubt, not the year"
        fixed = {(f.path, f.photo, f.field) for f in self.data.fixes}
        again = any((suspect.person.path, d.photo, suspect.field) in fixed for d in suspect.doubts)
        return f"a fix of this run, in doubt again: {reason}" if again else reason


def audit(
    data: TrainData, rows: IntArray, log_probabilities: FloatArray, fields: Sequence[str] = tuple(FIELDS)
) -> Audit:
    """Rank labels by how much the out-of-fold predictions contradict them.

    Self-confidence and margin are those of confident learning (Northcutt et al. 2021, "Confident learning: estimating
    uncertainty in dataset labels"). What a person's seven photos share is weighed over all seven: models err on
    single photos, wrong labels contradict all of them. Each folder is weighed by itself, also where two have one id.

    Args:
        rows: int64 (photos,), index in `data.files` of each photo that was predicted, ascending; all seven of a folder
            but for those that are skipped.
        log_probabilities: float64 (photos, 18), of those photos, by models that never saw the person.
        fields: some of gender, age, mask.
    """
    people = np.unique(data.photo_person[rows])
    whole = np.flatnonzero(np.isin(data.photo_person, people))
    known = np.full((len(whole), CLASSES), np.nan)
    known[np.searchsorted(whole, rows)] = log_probabilities
    predictions = {field: field_predictions(data, whole, known, field) for field in FIELDS if field in fields}
    persons = [data.people[i] for i in people]
    suspects = [
        s
        for f, v in predictions.items()
        for s in (mask_suspects(v, persons) if f == "mask" else person_suspects(v, persons, f))
    ]
    suspects.sort(key=lambda s: (-s.score, s.person.path, s.field, s.photos))
    return Audit(data, people, predictions, tuple(suspects))


def field_predictions(data: TrainData, rows: IntArray, log_probabilities: FloatArray, field: str) -> FieldPredictions:
    """The joint predictions' marginals for one field.

    They are calibrated because networks are surer than they should be, and of some fields more than of others: else
    the fields could not be ranked together.
    """
    which, people = PARTS.index(field), len(np.unique(data.photo_person[rows]))
    given, log_p = data.labels[which][rows], marginals(log_probabilities)[which]
    known = np.isfinite(log_p).all(axis=1)
    temperature = fit_temperature(log_p[known], given[known])
    log_p = log_softmax(log_p / temperature, axis=1).reshape(people, -1, len(FIELDS[field]))
    return FieldPredictions(given.reshape(people, -1), log_p, temperature)


def person_suspects(found: FieldPredictions, persons: Sequence[Person], field: str) -> list[LabelIssue]:
    """People whose seven photos together, by the mean of their log odds, prefer another gender or age band.

    They are ranked by the mean probability of the given label, not by those odds: one extreme photo moves a mean of
    logarithms more than six others.
    """
    means, known = np.nanmean(found.odds, axis=1), np.isfinite(found.confidence).sum(axis=1)
    best, odds = means.argmax(axis=1), means.max(axis=1)
    agree = (np.take_along_axis(found.odds, best[:, None, None], axis=2) > 0).sum(axis=(1, 2))
    confidence, margin = np.nanmean(found.confidence, axis=1), np.nanmean(found.margin, axis=1)
    issues = []
    for i in np.flatnonzero(odds > 0).tolist():
        issue = PhotoIssue("", int(found.given[i, 0]), int(best[i]), float(confidence[i]), float(margin[i]))
        issues.append(LabelIssue(i, persons[i], field, (issue,), int(agree[i]), int(known[i])))
    return issues


def mask_suspects(found: FieldPredictions, persons: Sequence[Person]) -> list[LabelIssue]:
    """Each person's best swap of two masks, if both photos' log odds favour it, and the single photos in no swap."""
    odds, people = found.odds, np.arange(len(found.given))
    shots = found.given.shape[1]
    square = (len(people), shots, shots)
    toward = np.take_along_axis(odds, np.broadcast_to(found.given[:, None], square), axis=2)  # i for the label of j
    back = toward.transpose(0, 2, 1)
    gain = np.where(np.minimum(toward, back) > 0, (toward + back) / 2, 0).reshape(len(people), -1)
    first, second = np.divmod(gain.argmax(axis=1), shots)
    swapped = gain.max(axis=1) > 0
    best = odds.argmax(axis=2)
    alone = odds.max(axis=2) > 0
    alone[people[swapped], first[swapped]] = alone[people[swapped], second[swapped]] = False

    confidence, margin = found.confidence, found.margin

    def suspect(i: int, *doubted: tuple[int, int]) -> LabelIssue:
        doubts = tuple(
            PhotoIssue(
                persons[i].shots[s], int(found.given[i, s]), int(n), float(confidence[i, s]), float(margin[i, s])
            )
            for s, n in doubted
        )
        return LabelIssue(i, persons[i], "mask", doubts, len(doubts), len(doubts))

    swaps = [
        suspect(i, (first[i], found.given[i, second[i]]), (second[i], found.given[i, first[i]]))
        for i in np.flatnonzero(swapped).tolist()
    ]
    return swaps + [suspect(i, (shot, best[i, shot])) for i, shot in np.argwhere(alone).tolist()]


def nearest_year(age: int, band: int) -> int:
    """The year of a band that is nearest to an age: of >=60 that is 60, of 30-59 it is 30 or 59, of <30 it is 29."""
    first, last = (0, *AGE_CUTS)[band], (*(cut - 1 for cut in AGE_CUTS), age)[band]
    return max(first, min(age, last))


def suspects_csv(found: Audit) -> str:
    """All suspects as a list of fixes (folds/corrections.py) with more columns; both rows of a swap share a rank."""
    rows = []
    for rank, s in enumerate(found.suspects, start=1):
        for d in s.doubts:
            old, new = (FIELDS[s.field][n] for n in (d.given, d.suggested))
            if s.field == "age" and s.person.age >= 0:
                old, new = str(s.person.age), str(nearest_year(s.person.age, d.suggested))
            numbers = (f"{v:.4f}" for v in (s.score, d.confidence, d.margin))
            rows.append((s.person.path, d.photo, s.field, old, new, found.reason(s), rank, *numbers, s.agree))
    return safe_csv((*FIX_COLUMNS, *MORE_COLUMNS), rows)


def photos_csv(found: Audit) -> str:
    """Every photo with what was given and what is predicted, the least believable of its labels deciding its place."""
    columns = [f"{field}{what}" for field in found.fields for what in ("", "_predicted", "_self_confidence", "_margin")]
    lowest = np.min([v.confidence for v in found.fields.values()], axis=0)
    arrays = [(FIELDS[f], v.given, v.predicted, v.confidence, v.margin) for f, v in found.fields.items()]
    rows = []
    for i, shot in (divmod(int(n), lowest.shape[1]) for n in np.argsort(lowest, axis=None, kind="stable")):
        if not np.isnan(lowest[i, shot]):
            person = found.data.people[found.people[i]]
            cells = [person.path, person.shots[shot]]
            for names, given, predicted, confidence, margin in arrays:
                cells += [names[given[i, shot]], names[predicted[i, shot]]]
                cells += [f"{confidence[i, shot]:.4f}", f"{margin[i, shot]:.4f}"]
            rows.append(cells)
    return safe_csv(("path", "photo", *columns), rows)
