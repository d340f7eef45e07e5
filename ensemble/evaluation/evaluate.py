"""What the ensemble is worth: its decision on out-of-fold logits, with intervals, and its calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.special import logsumexp

from ensemble.decision.blend import OofEnsemble, at_checkpoint
from ensemble.decision.decide import Decision, decide_hard, most_probable, share_gender_and_age, vote
from ensemble.decision.submission import align, read_answers, read_people
from ensemble.decision.tuning import ActiveTuning, DecisionParams, Tuning, read_nested
from ensemble.jobs.oof import Checkpoint
from ensemble.metrics.scores import (
    SCORED_PARTS,
    Draws,
    Interval,
    Score,
    interval,
    score,
    score_record,
    task_scores,
)
from ensemble.recipes.tasks import training_mask, true_labels
from ensemble.recipes.views import IDENTITY, Tta, TtaSet, as_set
from folds.errors import MaskensError
from folds.files import save_npz
from folds.labels import AGES, CLASS_NAMES, CLASSES, GENDERS, MASKS, FloatArray, IntArray, decode

BINS = 10


@dataclass(frozen=True)
class PartPredictions:
    """One of SCORED_PARTS by itself: the 18 classes, or the mask, gender or age within them."""

    name: str
    labels: tuple[str, ...]
    truth: IntArray  # (photos,)
    decided: IntArray  # (photos,)
    log_p: FloatArray  # (photos, labels)


def part_predictions(truth: IntArray, decision: Decision) -> tuple[PartPredictions, ...]:
    """The truth, the decision and the (marginal) log probabilities of each of SCORED_PARTS.

    Args:
        truth: int64 (photos,), 0..17.
    """
    joint = decision.log_probabilities
    cube = joint.reshape(-1, len(MASKS), len(GENDERS), len(AGES))
    log_p = (joint, *(logsumexp(cube, axis=others) for others in ((2, 3), (1, 3), (1, 2))))
    labels = (CLASS_NAMES, MASKS, GENDERS, AGES)
    truths, decisions = (truth, *decode(truth)), (decision.classes, *decode(decision.classes))
    return tuple(PartPredictions(*part) for part in zip(SCORED_PARTS, labels, truths, decisions, log_p, strict=True))


@dataclass(frozen=True)
class Calibration:
    """The bins of a reliability diagram; those without photos are left out."""

    name: str
    confidence: FloatArray  # (bins,), mean of the bin
    accuracy: FloatArray  # (bins,)
    photos: IntArray  # (bins,)
    ece: float
    log_loss: float  # in nats


def calibration(part: PartPredictions, bins: int = BINS) -> Calibration:
    """Confidence of the decided label against accuracy, in bins of equal width, and the expected calibration error:
    the gap between the two, weighted by photos (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    The confidence is the probability of the label that was decided on, which is not always the most probable one.
    """
    rows = np.arange(len(part.truth))
    confidence = np.exp(part.log_p[rows, part.decided])
    right = part.decided == part.truth
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    photos = np.bincount(number, minlength=bins)
    some = photos > 0
    sure = np.bincount(number, confidence, bins)[some] / photos[some]
    accuracy = np.bincount(number, right, bins)[some] / photos[some]
    ece = float(np.average(np.abs(accuracy - sure), weights=photos[some]))
    log_loss = float(-part.log_p[rows, part.truth].mean())
    return Calibration(part.name, sure, accuracy, photos[some].astype(np.int64), ece, log_loss)


FEW_PEOPLE = 10  # of a class; below that the percentile interval over people covers less than it claims


@dataclass(frozen=True)
class DecisionVariant:
    """A way to decide; the first of several is that of a plain, untuned ensemble."""

    name: str
    f1: Interval
    accuracy: float
    gain: Interval  # in macro F1, against the first


@dataclass(frozen=True)
class ViewScore:
    """One view by itself, or a set of them merged."""

    name: str
    is_set: bool
    passes: int  # forward passes of each model a photo
    f1: Interval
    gain: Interval  # in macro F1, against the photo as it is


@dataclass(frozen=True)
class FoldScore:
    """One fold by itself."""

    fold: int
    people: int
    photos: int
    f1: float  # macro over the 18 classes
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """The score of an ensemble, as it will be used, on the people of its trained folds."""

    used: str  # how it decides, in words
    decision: Decision
    score: Score
    f1: dict[str, Interval]  # macro F1 of each of SCORED_PARTS
    accuracy: Interval
    class_f1: list[Interval]
    tasks: dict[str, tuple[float, float]]  # task -> (macro F1, accuracy) on the photos it learns from
    folds: list[FoldScore]
    settings: list[DecisionVariant]
    views: list[ViewScore]  # untuned
    people: int
    class_people: IntArray  # (18,): people with a photo of each class
    tuning: Tuning | None
    notes: tuple[str, ...]


def evaluate(blend: OofEnsemble, applied: ActiveTuning) -> Evaluation:
    """Score a run, or several as one ensemble, once over all photos.

    Where a tuning is applied, each photo is decided by one that was fitted on other people.

    Raises:
        MaskensError: a tuning whose log probabilities are missing.
    """
    tta, untuned = applied.fitted.tta, blend.plain(applied.fitted.tta, applied.fitted.views)
    plain = blend.decide(untuned)
    decision = plain
    if applied.tuning and applied.path:
        decision = read_nested(applied.path, [blend.data.files[i] for i in blend.rows])
    draws = Draws(blend.truth, blend.person, blend.stratum)
    decided = decision.classes
    parts, first = draws.parts(decided), draws.macro_f1(plain.classes)
    class_people = np.array([len(np.unique(blend.person[blend.truth == c])) for c in range(CLASSES)])
    alternatives, whole = _alternatives(blend, untuned, plain), score(blend.truth, decided)
    if applied.tuning:
        alternatives["tuned"] = decided
    return Evaluation(
        used=f"{blend.checkpoint} epochs, {tta}, {applied.words}",
        decision=decision,
        score=whole,
        f1={part: interval(found.mean(axis=1)) for part, found in parts.items()},
        accuracy=interval(draws.mean(decided == blend.truth)),
        class_f1=[interval(parts[SCORED_PARTS[0]][:, c]) for c in range(CLASSES)],
        tasks=_task_scores(blend, applied.fitted.tta_set),
        folds=_fold_scores(blend, decided),
        settings=[_setting(draws, name, classes, first) for name, classes in alternatives.items()],
        views=_view_scores(blend, draws),
        people=len(blend.stratum),
        class_people=class_people,
        tuning=applied.tuning,
        notes=(*blend.notes, *filter(None, [whole.absent_words]), *_few_people(class_people)),
    )


def _few_people(class_people: IntArray) -> list[str]:
    few = [f"{c} ({n})" for c, n in enumerate(class_people.tolist()) if 0 < n < FEW_PEOPLE]
    if not few:
        return []
    noun = "class" if len(few) == 1 else "classes"
    words = f"fewer than {FEW_PEOPLE} people in {noun} {', '.join(few)}: their F1 and intervals are unreliable"
    return [f"{words}, and each counts as much in macro F1 as any other class"]


def _setting(draws: Draws, name: str, decided: IntArray, first: FloatArray) -> DecisionVariant:
    f1 = draws.macro_f1(decided)
    return DecisionVariant(name, interval(f1), float((decided == draws.truth).mean()), interval(f1 - first))


def _views_in_words(tta: Tta) -> str:
    return "no TTA" if tta == "none" else tta


def _view_scores(blend: OofEnsemble, draws: Draws) -> list[ViewScore]:
    """Each view that out-of-fold logits are kept in, and each set that they suffice for."""
    every, single = TtaSet(views=tuple(blend.views)), np.eye(len(blend.views)).tolist()
    fits = {name: blend.plain(name, every.weighed(tuple(row))) for name, row in zip(blend.views, single, strict=True)}
    fits |= {name: blend.plain(name) for name in blend.sets if name != "none"}
    f1 = {name: draws.macro_f1(blend.decide(fitted).classes) for name, fitted in fits.items()}
    return [
        ViewScore(n, n in blend.sets, len(fits[n].tta_set.views), interval(f1[n]), interval(f1[n] - f1[IDENTITY]))
        for n in fits
    ]


def _alternatives(blend: OofEnsemble, untuned: DecisionParams, plain: Decision) -> dict[str, IntArray]:
    """Name -> decision of everything that needs no fitting, the plain ensemble first."""
    found = {f"{blend.checkpoint}, {_views_in_words(untuned.tta)}": plain.classes}
    both = {c: blend if c == blend.checkpoint else at_checkpoint(blend, c) for c in get_args(Checkpoint)}
    for checkpoint, its in both.items():
        for views in its.sets:
            found.setdefault(f"{checkpoint}, {_views_in_words(views)}", its.decide(its.plain(views)).classes)
    found["part by part"] = decide_hard(plain.log_probabilities)
    found["a person's photos together"] = most_probable(share_gender_and_age(plain.log_probabilities, blend.person))
    if len(blend.runs) > 1:
        alone = [most_probable(joint) for joint in blend.class_log_probs(untuned)]
        found |= {f"{member.name} alone": classes for member, classes in zip(blend.runs, alone, strict=True)}
        found["hard vote"] = vote(np.stack(alone), plain.log_probabilities)
    return found


def _task_scores(blend: OofEnsemble, tta: TtaSet) -> dict[str, tuple[float, float]]:
    found = {}
    for member in blend.runs:
        for name, target in member.targets.items():
            mine = training_mask(target.predicts, blend.data)[blend.rows]
            truth = true_labels(target, blend.data)[blend.rows]
            logits = member.mean_logits(name, tta).astype(np.float32)
            key = name if len(blend.runs) == 1 else f"{member.name}: {name}"
            found[key] = task_scores(target, logits[mine], truth[mine])
    return found


def _fold_scores(blend: OofEnsemble, decided: IntArray) -> list[FoldScore]:
    found = []
    for fold in blend.trained:
        mine = blend.fold == fold
        own = score(blend.truth[mine], decided[mine])
        found.append(FoldScore(fold, len(np.unique(blend.person[mine])), own.photos, own.f1, own.accuracy))
    return found


def save_oof(blend: OofEnsemble, evaluation: Evaluation, tta: Tta | TtaSet) -> None:
    """Replace oof.npz of a run: its pooled logits, mean over the views, and the log probabilities as used."""
    (member,) = blend.runs
    arrays: dict[str, object] = {f"logits/{t}": member.mean_logits(t, tta).astype(np.float32) for t in member.logits}
    record = {"views": as_set(tta).views, "checkpoint": blend.checkpoint, "used": evaluation.used}
    record |= {"recipe_hash": member.recipe.hash, "folds_hash": member.run.folds_hash}
    files = [blend.data.files[i] for i in blend.rows]
    arrays |= {"files": files, "fold": blend.fold, "log_probabilities": evaluation.decision.log_probabilities}
    arrays["classes"] = evaluation.decision.classes
    save_npz(member.run.oof_file, arrays | {"record": json.dumps(record)})


def evaluation_record(found: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values for JSON; intervals as {value, low, high}."""
    return {
        "used": found.used,
        "people": found.people,
        "class_people": found.class_people.tolist(),
        "macro_f1": asdict(found.f1[SCORED_PARTS[0]]),
        "accuracy_interval": asdict(found.accuracy),
        "parts_macro_f1": {part: asdict(f1) for part, f1 in found.f1.items()},
        "class_f1": [asdict(f1) for f1 in found.class_f1],
        "score": score_record(found.score),
        "tasks": {name: {"macro_f1": f1, "accuracy": a} for name, (f1, a) in found.tasks.items()},
        "folds": [asdict(fold) for fold in found.folds],
        "settings": [asdict(setting) for setting in found.settings],
        "views": [asdict(view) for view in found.views],
        "tuning": found.tuning.model_dump(mode="json", exclude={"fitted"}) if found.tuning else None,
        "notes": list(found.notes),
    }


@dataclass(frozen=True)
class SubmissionScore:
    """A submission scored against answers."""

    path: Path
    score: Score
    f1: Interval  # macro over the 18 classes
    f1_present: Interval  # macro over the classes with answers
    accuracy: Interval
    class_f1: list[Interval]
    gain: Interval | None  # in macro F1, against the first of several; None of the first
    people: int | None  # that were drawn for the intervals; None: photos were


def score_submissions(
    answers: Path, submissions: Sequence[Path], person_column: str | None = None
) -> tuple[SubmissionScore, ...]:
    """Score submissions against answers (ImageID,ans), all on the same draws of people, or of photos.

    Args:
        person_column: of the answers, who is on a photo; None draws photos within their class, as if each were of
            another person.

    Raises:
        MaskensError: a file that can't be used, or other photos in one than in the other.
    """
    ids, first = read_answers(submissions[0])
    truth = align(answers, ids)
    if answers.name == "info.csv" and len(truth) > 1 and (truth == truth[0]).all():
        raise MaskensError(
            f"--truth {answers}: every answer is class {truth[0]}, as in an info.csv that holds placeholders. "
            "Name the file that has the answers; if these are, rename it."
        )
    predicted = [first, *(align(path, ids) for path in submissions[1:])]
    unit, band = np.arange(len(truth)), truth
    if person_column:
        unit = read_people(answers, person_column, ids)
        _, gender, age = decode(truth)
        band = gender * len(AGES) + age
    stratum = np.zeros(int(unit.max()) + 1, dtype=np.int64)
    stratum[unit] = band
    draws = Draws(truth, unit, stratum)
    found: list[SubmissionScore] = []
    before = np.empty(0)
    for path, classes in zip(submissions, predicted, strict=True):
        f1 = draws.class_f1(classes)
        whole, own = f1.mean(axis=1), score(truth, classes)
        before = before if found else whole
        found.append(
            SubmissionScore(
                path=path,
                score=own,
                f1=interval(whole),
                f1_present=interval(f1[:, own.support > 0].mean(axis=1)),
                accuracy=interval(draws.mean(classes == truth)),
                class_f1=[interval(f1[:, c]) for c in range(CLASSES)],
                gain=interval(whole - before) if found else None,
                people=len(stratum) if person_column else None,
            )
        )
    return tuple(found)


def submission_record(found: SubmissionScore) -> dict[str, Any]:
    """A score against answers as plain values for JSON; intervals as {value, low, high}."""
    intervals = {"macro_f1": found.f1, "macro_f1_present": found.f1_present, "accuracy": found.accuracy}
    record = score_record(found.score) | {"intervals": {name: asdict(i) for name, i in intervals.items()}}
    record |= {"class_f1": [asdict(i) for i in found.class_f1], "people": found.people}
    return record | ({"gain": asdict(found.gain)} if found.gain else {})
