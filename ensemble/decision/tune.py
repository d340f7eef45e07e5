"""Fitting the decision on out-of-fold logits, and finding out what that is worth on other people."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from sklearn.model_selection import StratifiedKFold

from ensemble.decision.blend import Blend, RunOof, greedy_weights
from ensemble.decision.decide import Decision
from ensemble.decision.offsets import fit_offsets
from ensemble.decision.temperature import fit_temperature, temperature_of_mean, worth_scaling
from ensemble.decision.tuning import Fitted, Step, StepName, Tuning, temperature_words
from ensemble.jobs.oof import select_views, trained_folds
from ensemble.jobs.pseudo_labels import LABELS as PSEUDO_LABELS
from ensemble.metrics.bootstrap import Interval, draw_people, drawn_f1, interval, person_confusions
from ensemble.metrics.scores import macro_f1
from ensemble.recipes.tasks import ONLY_GENDER, Target, learns_from, true_labels
from ensemble.recipes.tta_sets import TtaSet
from ensemble.recipes.tta_views import Tta
from folds.data.labels import CLASSES, FloatArray, IntArray, decode
from folds.errors import MaskensError

OUTER_SPLITS = 5  # of the nested cross-validation
PREDICTED = 100  # photos from which the temperature of a mean is measured
STEPS: tuple[StepName, ...] = get_args(StepName)


def fit(blend: Blend, photos: IntArray, steps: Collection[StepName], tta: Tta = "flip", force: bool = False) -> Fitted:
    """Fit the steps asked for, one on top of the other.

    Args:
        photos: int64 (n,), on which photos of the blend.
        tta: the views where they are not chosen.
        force: keep the temperature of each head; else only of those whose log loss it lowers by more than noise.
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
            tuned.model_copy(update={"temperatures": _temperatures(blend, number, photos, fitted.tta_set, force)})
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


def _temperatures(
    blend: Blend, number: int, photos: IntArray, tta: TtaSet, force: bool
) -> dict[str, tuple[float, ...]]:
    """task -> of each head, fitted over all folds on the photos that the task learns from; 1 where it is not worth it.

    One for all folds: a fold without errors would be scaled to certainty and outvote the others in their mean.
    """
    member, found = blend.runs[number], {}
    for task, target in member.targets.items():
        mine = learns_from(target.predicts, blend.data)[blend.rows][photos]
        rows = photos[mine]
        truth, logits = true_labels(target, blend.data)[blend.rows][rows], member.mean_logits(task, tta)[rows]
        heads = [(logits[:, head.columns], truth[:, n], head) for n, head in enumerate(target.heads)]
        found[task] = tuple(
            fit_temperature(*head) if force or worth_scaling(*head, blend.person[rows], blend.stratum) else 1.0
            for head in heads
        )
    return found


def with_mean_temperatures(blend: Blend, fitted: Fitted) -> Fitted:
    """The same with temperatures for the mean of all folds' logits, which new photos are decided by.

    They are measured on the photos that `infer` predicted with these models; see `temperature_of_mean`.
    """
    runs = []
    for member, tuned in zip(blend.runs, fitted.runs, strict=True):
        means, measured = tuned.temperatures, True
        if means and len(trained_folds(member.run, member.recipe)[0]) > 1:
            seen = (member.run.folder / PSEUDO_LABELS).exists()  # by models that were trained on photos to predict
            predicted = {} if seen else _predicted(member, fitted.tta_set)
            means = {task: _of_mean(found, member.targets[task], predicted.get(task)) for task, found in means.items()}
            measured = seen or all(task in predicted or max(found) <= 1 for task, found in tuned.temperatures.items())
        runs.append(tuned.model_copy(update={"mean_temperatures": means, "mean_measured": measured}))
    return fitted.model_copy(update={"runs": tuple(runs)})


def _of_mean(single: Sequence[float], target: Target, logits: FloatArray | None) -> tuple[float, ...]:
    heads = zip(single, target.heads, strict=True)
    return tuple(temperature_of_mean(t, h, None if logits is None else logits[:, :, h.columns]) for t, h in heads)


def _predicted(member: RunOof, tta: TtaSet) -> dict[str, FloatArray]:
    """task -> float (folds, photos, width), the mean over views, of the photos that `infer` showed to all models there
    are now; of a task for one gender those decided to be of it. Without tasks of too few photos."""
    try:
        with np.load(member.run.folder / "eval.npz", allow_pickle=False) as file:
            record = json.loads(str(file["record"]))
            if record["oof_hashes"] != [member.untuned.oof_hash]:
                return {}
            gender = decode(file["classes"])[1]
            found: dict[str, FloatArray] = {}
            for task, target in member.targets.items():
                views = select_views(file[f"logits/{task}"].swapaxes(0, 1), record["views"], tta.views)
                logits = np.average(views, axis=0, weights=tta.weights or None).astype(np.float64)
                rows = np.isfinite(logits).all(axis=(0, 2)) & (gender == ONLY_GENDER.get(target.predicts, gender))
                if rows.sum() >= PREDICTED:
                    found[task] = logits[:, rows]
            return found
    except Exception:  # not predicted, with other views, of several runs, or damaged in whatever way
        return {}


def nested(blend: Blend, steps: Collection[StepName], tta: Tta = "flip", force: bool = False) -> tuple[Decision, int]:
    """What a tuning that was fitted on other people says of each photo, the people split into parts anew.

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
        fitted = fit(blend, np.flatnonzero(np.isin(blend.person, others)), steps, tta, force)
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
        found, parts = nested(blend, names, tta, force)
        known[names] = tried = _Tried(fit(blend, everybody, names, tta, force), found, *score(found))
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
        fitted=with_mean_temperatures(blend, last.fitted),
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
        return temperature_words([run.temperatures for run in fitted.runs])
    return f"{min(fitted.offsets):+.2f} to {max(fitted.offsets):+.2f}"
