"""Scores of an ensemble: its decision on out-of-fold logits, with intervals, and its calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from ensemble.decision.joint import Decision, decide_hard, marginals, most_probable, share_gender_and_age, vote
from ensemble.decision.oof_ensemble import OofEnsemble
from ensemble.decision.submission import align, read_answers, read_people
from ensemble.decision.tuning import ActiveTuning, DecisionParams, Tuning, read_nested
from ensemble.jobs.oof import Checkpoint
from ensemble.metrics.scores import SCORED_PARTS, Draws, Interval, Score, interval, score, task_scores
from ensemble.recipes.tasks import scored_mask, true_labels
from ensemble.recipes.views import IDENTITY, Tta, TtaSet
from folds.errors import MaskensError
from folds.files import save_npz
from folds.labels import AGES, CLASS_NAMES, CLASSES, GENDERS, MASKS, FloatArray, IntArray, decode

RELIABILITY_BINS = 10


@dataclass(frozen=True)
class PartPredictions:
    """One of SCORED_PARTS by itself: the 18 classes, or the mask, gender or age within them."""

    name: str
    labels: tuple[str, ...]
    truth: IntArray  # (photos,)
    decided: IntArray  # (photos,)
    log_p: FloatArray  # (photos, labels)


def part_predictions(truth: IntArray, decision: Decision) -> tuple[PartPredictions, ...]:
    """The truth, the decision and the (marginal) log probabilities of each of SCORED_PARTS, from the true classes,
    int64 (photos,)."""
    labels, log_p = (CLASS_NAMES, MASKS, GENDERS, AGES), decision.log_probabilities
    truths, decisions = (truth, *decode(truth)), (decision.classes, *decode(decision.classes))
    parts = zip(SCORED_PARTS, labels, truths, decisions, (log_p, *marginals(log_p)), strict=True)
    return tuple(PartPredictions(*part) for part in parts)


@dataclass(frozen=True)
class Calibration:
    """The bins of a reliability diagram that have photos."""

    name: str
    confidence: FloatArray  # (bins,), mean of the bin
    accuracy: FloatArray  # (bins,)
    photos: IntArray  # (bins,)
    ece: float
    log_loss: float  # in nats


def calibration(part: PartPredictions) -> Calibration:
    """Confidence of the decided label against accuracy, in bins of equal width, and the expected calibration error:
    the gap between the two, weighted by photos (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    The confidence is the probability of the label that was decided on, which is not always the most probable one.
    """
    rows, bins = np.arange(len(part.truth)), RELIABILITY_BINS
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


@dataclass(frozen=True)
class DecisionVariant:
    """A way to decide; the first of several is that of a plain, untuned ensemble."""

    name: str
    f1: Interval
    accuracy: float
    gain: Interval  # in macro F1, compared with the first


@dataclass(frozen=True)
class ViewScore:
    """One view by itself, or a set of them merged."""

    name: str
    is_set: bool
    passes: int  # forward passes of each model a photo
    f1: Interval
    gain: Interval  # in macro F1, compared with the photo as it is


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

    used: str  # how it decides, for people
    decision: Decision
    score: Score
    f1: dict[str, Interval]  # macro F1 of each of SCORED_PARTS
    accuracy: Interval
    class_f1: list[Interval]
    tasks: dict[str, tuple[float, float]]  # task -> (macro F1, accuracy) on the photos it is scored on
    folds: list[FoldScore]
    settings: list[DecisionVariant]
    views: list[ViewScore]  # untuned
    people: int
    class_people: IntArray  # (18,): people with a photo of each class
    tuning: Tuning | None
    notes: tuple[str, ...]


def evaluate(oof: OofEnsemble, applied: ActiveTuning) -> Evaluation:
    """Score a run, or several as one ensemble, once over all photos.

    Where a tuning is applied, each photo is decided by one that was fitted on other people. Raises MaskensError: a
    tuning whose log probabilities are missing."""
    untuned = oof.plain(applied.fitted.tta, applied.fitted.views)
    decision = plain = oof.decide(untuned)
    settings = _settings(oof, untuned, plain)
    if applied.tuning and applied.path:
        decision = read_nested(applied.path, [oof.data.files[i] for i in oof.rows])
        settings["tuned"] = decision.classes
    draws, decided = Draws(oof.truth, oof.person, oof.stratum), decision.classes
    parts, first = draws.parts(decided), draws.macro_f1(plain.classes)
    f1 = {name: draws.macro_f1(classes) for name, classes in settings.items()}
    whole, folds = score(oof.truth, decided), []
    for fold in oof.trained:
        mine = oof.fold == fold
        own = score(oof.truth[mine], decided[mine])
        folds.append(FoldScore(fold, len(np.unique(oof.person[mine])), own.photos, own.f1, own.accuracy))
    return Evaluation(
        used=f"{oof.checkpoint} epochs, {applied.fitted.tta}, {applied.description}",
        decision=decision,
        score=whole,
        f1={part: interval(found.mean(axis=1)) for part, found in parts.items()},
        accuracy=interval(draws.mean(decided == oof.truth)),
        class_f1=[interval(parts[SCORED_PARTS[0]][:, c]) for c in range(CLASSES)],
        tasks=_task_scores(oof, applied.fitted.views),
        folds=folds,
        settings=[
            DecisionVariant(name, interval(f1[name]), float((its == oof.truth).mean()), interval(f1[name] - first))
            for name, its in settings.items()
        ],
        views=_view_scores(oof, draws),
        people=len(oof.stratum),
        class_people=oof.class_people,
        tuning=applied.tuning,
        notes=(*oof.notes, *whole.absent_notes),
    )


def _settings(oof: OofEnsemble, untuned: DecisionParams, plain: Decision) -> dict[str, IntArray]:
    """Name -> decision of everything that needs no fitting, the plain ensemble first."""

    def name(checkpoint: Checkpoint, tta: Tta) -> str:
        return f"{checkpoint}, {'no TTA' if tta == 'none' else tta}"

    found = {name(oof.checkpoint, untuned.tta): plain.classes}
    for checkpoint in oof.checkpoints:
        its = oof if checkpoint == oof.checkpoint else oof.at(checkpoint)
        for tta in its.sets:
            found.setdefault(name(checkpoint, tta), its.decide(its.plain(tta)).classes)
    found["part by part"] = decide_hard(plain.log_probabilities)
    found["a person's photos together"] = most_probable(share_gender_and_age(plain.log_probabilities, oof.person))
    if len(oof.runs) > 1:
        alone = [most_probable(joint) for joint in oof.class_log_probs(untuned)]
        found |= {f"{member.name} alone": classes for member, classes in zip(oof.runs, alone, strict=True)}
        found["hard vote"] = vote(np.stack(alone), plain.log_probabilities)
    return found


def _view_scores(oof: OofEnsemble, draws: Draws) -> list[ViewScore]:
    """Each view that out-of-fold logits are kept in, and each set that they suffice for."""
    every = TtaSet(views=tuple(oof.views))
    fits = {view: oof.plain(view, every.model_copy(update={"views": (view,)})) for view in oof.views}
    fits |= {name: oof.plain(name) for name in oof.sets if name != "none"}
    f1 = {name: draws.macro_f1(oof.decide(fitted).classes) for name, fitted in fits.items()}
    return [
        ViewScore(n, n in oof.sets, len(fits[n].views.views), interval(f1[n]), interval(f1[n] - f1[IDENTITY]))
        for n in fits
    ]


def _task_scores(oof: OofEnsemble, tta: TtaSet) -> dict[str, tuple[float, float]]:
    found = {}
    for member in oof.runs:
        for name, output_spec in member.output_specs.items():
            mine = scored_mask(output_spec, oof.data)[oof.rows]
            truth = true_labels(output_spec, oof.data)[oof.rows]
            logits = member.mean_logits(name, tta).astype(np.float32)
            key = name if len(oof.runs) == 1 else f"{member.name}: {name}"
            found[key] = task_scores(output_spec, logits[mine], truth[mine])
    return found


def save_oof(oof: OofEnsemble, evaluation: Evaluation, tta: TtaSet) -> None:
    """Replace oof.npz of a run: its pooled logits, mean over the views, and the log probabilities as used."""
    (member,) = oof.runs
    record = {"views": tta.views, "checkpoint": oof.checkpoint, "used": evaluation.used}
    record |= {"recipe_hash": member.recipe.hash, "folds_hash": member.run.folds_hash}
    arrays: dict[str, object] = {f"logits/{t}": member.mean_logits(t, tta).astype(np.float32) for t in member.logits}
    arrays |= {"files": [oof.data.files[i] for i in oof.rows], "fold": oof.fold, "record": json.dumps(record)}
    decision = evaluation.decision
    arrays |= {"log_probabilities": decision.log_probabilities, "classes": decision.classes}
    save_npz(member.run.oof_file, arrays)


def plain_values(found: Evaluation | Sequence[SubmissionScore]) -> Any:
    """Scores for JSON: dataclasses as their fields, intervals as {value, low, high}, arrays as lists."""
    return to_jsonable_python(found, exclude={"decision"}, fallback=lambda array: array.tolist())


@dataclass(frozen=True)
class SubmissionScore:
    """A submission scored against answers."""

    path: Path
    score: Score
    f1: Interval  # macro over the 18 classes
    f1_present: Interval  # macro over the classes with answers
    accuracy: Interval
    class_f1: list[Interval]
    gain: Interval | None  # in macro F1, compared with the first of several; None of the first
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
    ids, truth = read_answers(answers)
    if answers.name == "info.csv" and len(truth) > 1 and (truth == truth[0]).all():
        raise MaskensError(
            f"--truth {answers}: every answer is class {truth[0]}, as in an info.csv that holds placeholders. "
            "Name the file that has the answers; if these are, rename it."
        )
    unit, band = np.arange(len(truth)), truth
    if person_column:
        unit = read_people(answers, person_column)
        _, gender, age = decode(truth)
        band = gender * len(AGES) + age
    stratum = np.zeros(int(unit.max()) + 1, dtype=np.int64)
    stratum[unit] = band
    draws = Draws(truth, unit, stratum)
    found: list[SubmissionScore] = []
    drawn: list[FloatArray] = []
    for path in submissions:
        classes = align(path, ids)
        f1, own = draws.class_f1(classes), score(truth, classes)
        drawn.append(f1)
        found.append(
            SubmissionScore(
                path=path,
                score=own,
                f1=interval(f1.mean(axis=1)),
                f1_present=interval(f1[:, own.support > 0].mean(axis=1)),
                accuracy=interval(draws.mean(classes == truth)),
                class_f1=[interval(f1[:, c]) for c in range(CLASSES)],
                gain=interval((f1 - drawn[0]).mean(axis=1)) if found else None,
                people=len(stratum) if person_column else None,
            )
        )
    return tuple(found)
