"""Fitting the decision on out-of-fold logits, and finding out what that is worth on other people."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from sklearn.model_selection import StratifiedKFold

from ensemble.decision.blend import Blend, greedy_weights
from ensemble.decision.decide import Decision
from ensemble.decision.offsets import fit_offsets
from ensemble.decision.temperature import fit_temperature
from ensemble.decision.tuning import Fitted, Step, StepName, Tuning
from ensemble.metrics.bootstrap import Interval, draw_people, drawn_f1, interval, person_confusions
from ensemble.metrics.scores import macro_f1
from ensemble.recipes.tasks import learns_from, true_labels
from ensemble.recipes.tta_sets import TtaSet
from ensemble.recipes.tta_views import Tta
from folds.data.labels import CLASSES, FloatArray, IntArray
from folds.errors import MaskensError

OUTER_SPLITS = 5  # of the nested cross-validation
STEPS: tuple[StepName, ...] = get_args(StepName)


def fit(blend: Blend, photos: IntArray, steps: Collection[StepName], tta: Tta = "flip") -> Fitted:
    """Fit the steps asked for, one on top of the other.

    Args:
        photos: int64 (n,), on which photos of the blend.
        tta: the views where they are not chosen.
    """
    fitted, truth = blend.plain(tta), blend.truth[photos]
    if "views" in steps:
        tried = [blend.plain(tta) for tta in blend.sets]
        scores = [macro_f1(truth, blend.decide(t).classes[photos], CLASSES) for t in tried]
        fitted = tried[int(np.argmax(scores))]
    if "view-weights" in steps:
        fitted = fitted.model_copy(update={"view_weights": _view_weights(blend, fitted, photos)})
    if "temperatures" in steps:
        runs = [
            tuned.model_copy(update={"temperatures": _temperatures(blend, number, photos, fitted.tta_set)})
            for number, tuned in enumerate(fitted.runs)
        ]
        fitted = fitted.model_copy(update={"runs": tuple(runs)})
    if "weights" in steps:
        weights = greedy_weights(blend.joints(fitted)[:, photos], truth)
        runs = [r.model_copy(update={"weight": w}) for r, w in zip(fitted.runs, weights, strict=True)]
        fitted = fitted.model_copy(update={"runs": tuple(runs)})
    if "offsets" in steps:
        people, person = np.unique(blend.person[photos], return_inverse=True)
        offsets = fit_offsets(blend.decide(fitted).log_probabilities[photos], truth, person, blend.stratum[people])
        fitted = fitted.model_copy(update={"offsets": tuple(offsets.tolist())})
    return fitted


def _view_weights(blend: Blend, plain: Fitted, photos: IntArray) -> tuple[float, ...]:
    """A weight for each view by greedy selection, as runs are weighed; none where there is nothing to weigh."""
    views = plain.tta_set.views
    if len(views) == 1 or plain.tta_set.merge == "max":
        return ()
    alone = [plain.model_copy(update={"view_weights": tuple(row)}) for row in np.eye(len(views)).tolist()]
    joints = np.stack([blend.decide(view).log_probabilities[photos] for view in alone])
    return greedy_weights(joints, blend.truth[photos])


def _temperatures(blend: Blend, number: int, photos: IntArray, tta: TtaSet) -> dict[str, tuple[tuple[float, ...], ...]]:
    """task -> (folds, heads), each fitted on the photos that the task learns from.

    A fold without such photos, whose models may be used all the same, gets the geometric mean of the others.
    """
    member, found = blend.runs[number], {}
    for task, target in member.targets.items():
        mine = learns_from(target.predicts, blend.data)[blend.rows][photos]
        truth = true_labels(target, blend.data)[blend.rows][photos]
        logits = member.mean_logits(task, tta)[photos]
        folds = [mine & (blend.fold[photos] == fold) for fold in range(member.run.k)]
        fitted = np.array(
            [
                [fit_temperature(logits[r][:, h.columns], truth[r, i], h.merge) for i, h in enumerate(target.heads)]
                for r in folds
            ]
        )
        known = np.array([rows.any() for rows in folds])
        fitted[~known] = np.exp(np.log(fitted[known]).mean(axis=0)) if known.any() else 1
        found[task] = tuple(map(tuple, fitted.tolist()))
    return found


def nested(blend: Blend, steps: Collection[StepName], tta: Tta = "flip") -> tuple[Decision, int]:
    """What a tuning that was fitted on other people says of each photo.

    The people are split into parts anew, across the folds of the run: a fold's temperature can only be fitted on
    that fold's own photos.

    Returns:
        (decision, number of parts).

    Raises:
        MaskensError: fewer than two people of a gender and age band.
    """
    parts = min(OUTER_SPLITS, int(np.bincount(blend.stratum)[np.unique(blend.stratum)].min()))
    if parts < 2:
        raise MaskensError("too few people to tune: each gender and age band needs two at least, trained out-of-fold.")
    log_p, classes = np.empty((len(blend.rows), CLASSES)), np.empty(len(blend.rows), dtype=np.int64)
    splits = StratifiedKFold(parts, shuffle=True, random_state=blend.runs[0].run.seed)
    for others, held_out in splits.split(blend.stratum, blend.stratum):
        fitted = fit(blend, np.flatnonzero(np.isin(blend.person, others)), steps, tta)
        mine = np.isin(blend.person, held_out)
        decision = blend.decide(fitted)
        log_p[mine], classes[mine] = decision.log_probabilities[mine], decision.classes[mine]
    return Decision(log_p, classes), parts


def tune(
    blend: Blend,
    steps: Sequence[StepName],
    force: bool = False,
    tta: Tta = "flip",
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[Tuning, Decision]:
    """Fit step after step; keep one only if it is worth more than noise on people that it was not fitted on.

    Temperatures must lower the log loss, without lowering the macro F1 by more than noise, and all else must raise the
    macro F1, against what was kept before and, in the end, against no tuning at all.

    Args:
        force: keep them all.
        on_step: called with (steps done, steps in all).

    Returns:
        (tuning, nested): nested is what the kept steps say of people they were not fitted on.

    Raises:
        MaskensError: as `nested`.
    """
    score, everybody = _scorer(blend), np.arange(len(blend.rows))
    plain = blend.decide(blend.plain(tta))
    kept: tuple[StepName, ...] = ()
    known = {kept: _Tried(blend.plain(tta), plain, *score(plain))}
    tried_steps, parts = list[Step](), OUTER_SPLITS
    for number, name in enumerate(steps, start=1):
        before, names = known[kept], (*kept, name)
        found, parts = nested(blend, names, tta)
        known[names] = tried = _Tried(fit(blend, everybody, names, tta), found, *score(found))
        gain, loss_gain = interval(tried.f1 - before.f1), interval(before.loss - tried.loss)
        worth = loss_gain.low > 0 and gain.high >= 0 if name == "temperatures" else gain.low > 0
        tried_steps.append(
            Step(
                name=name,
                kept=worth or force,
                what=_words(tried.fitted, name),
                f1=interval(tried.f1),
                gain=gain,
                loss=interval(tried.loss),
                loss_gain=loss_gain,
            )
        )
        kept = names if tried_steps[-1].kept else kept
        if on_step:
            on_step(number, len(steps))

    def total() -> Interval:
        return interval(known[kept].f1 - known[()].f1)

    dropped = None
    if not force and set(kept) - {"temperatures"} and total().low <= 0:
        dropped, kept = total(), tuple(s for s in kept[:1] if s == "temperatures")
    if not force and kept == ("temperatures",) and total().high < 0:
        dropped, kept = dropped or total(), ()
    last = known[kept]
    return Tuning(
        fitted=last.fitted,
        steps=tuple(s.model_copy(update={"kept": s.name in kept}) for s in tried_steps),
        untuned=interval(known[()].f1),
        tuned=interval(last.f1),
        gain=total(),
        dropped=dropped,
        photos=len(blend.rows),
        people=len(blend.stratum),
        parts=parts,
    ), last.decision


@dataclass(frozen=True)
class _Tried:
    """Some steps of tuning, and what they are worth on each draw of people."""

    fitted: Fitted  # on everybody
    decision: Decision  # of people it was not fitted on
    f1: FloatArray
    loss: FloatArray


def _scorer(blend: Blend) -> Callable[[Decision], tuple[FloatArray, FloatArray]]:
    """A function to (macro F1, mean log loss) on each draw of people, everybody first."""
    weights = draw_people(blend.stratum)
    photos = weights @ np.bincount(blend.person).astype(np.float32)

    def score(found: Decision) -> tuple[FloatArray, FloatArray]:
        confusions = person_confusions(blend.truth, found.classes, blend.person)
        losses = -found.log_probabilities[np.arange(len(blend.rows)), blend.truth]
        loss = weights @ np.bincount(blend.person, losses).astype(np.float32) / photos
        return drawn_f1(weights, confusions, np.arange(CLASSES)).mean(axis=1), loss.astype(np.float64)

    return score


def _words(fitted: Fitted, name: StepName) -> str:
    if name == "views":
        return fitted.tta
    if name == "view-weights":
        tta = fitted.tta_set
        weighed = zip(tta.views, tta.weights, strict=True) if fitted.view_weights else ()
        return ", ".join(f"{view} {weight:.2f}" for view, weight in weighed) or "nothing to weigh"
    if name == "weights":
        return ", ".join(f"{r.run} {r.weight:.2f}" for r in fitted.runs)
    if name == "temperatures":
        found = [t for r in fitted.runs for folds in r.temperatures.values() for heads in folds for t in heads]
        return f"{min(found):.2f} to {max(found):.2f}"
    return f"{min(fitted.offsets):+.2f} to {max(fitted.offsets):+.2f}"
