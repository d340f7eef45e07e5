"""Fitting the decision on out-of-fold logits: temperatures, offsets, weights of runs, and what they gain."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.model_selection import StratifiedKFold

from ensemble.decision.blend import OofEnsemble, RunOofLogits, greedy_weights
from ensemble.decision.decide import Decision
from ensemble.decision.tuning import DecisionParams, Step, StepName, Tuning, temperature_words
from ensemble.jobs.oof import select_views, trained_folds
from ensemble.metrics.heads import bin_log_probabilities, divisors
from ensemble.metrics.scores import Draws, Interval, draw_people, interval, macro_f1
from ensemble.recipes.tasks import ONLY_GENDER, Head, OutputSpec, training_mask, true_labels
from ensemble.recipes.views import Tta, TtaSet
from folds.errors import MaskensError
from folds.labels import CLASSES, AnyFloatArray, FloatArray, IntArray, decode

LIMIT = 2.0  # of an offset, in nats: a class is weighed up to 7 times
PASSES = 5
DRAWS = 10


def fit_offsets(log_probabilities: FloatArray, truth: IntArray, person: IntArray, stratum: IntArray) -> FloatArray:
    """Offsets for which argmax(log p + offset) has a high macro F1 on people drawn anew.

    Macro F1 is maximised exactly in one class's offset after another. With a dozen people in a rare class that
    fits their accidents too, so the offsets are the mean over several draws of people (bagging, Breiman 1996).

    Args:
        log_probabilities: float64 (photos, 18).
        truth: int64 (photos,), 0..17.
        person: int64 (photos,), 0..people-1.
        stratum: int64 (people,), within which people are drawn.

    Returns:
        float64 (18,), of mean 0.
    """
    draws = draw_people(stratum, DRAWS)[1:, person]
    found = np.mean([coordinate_ascent(log_probabilities, truth, weights) for weights in draws], axis=0)
    return np.asarray(found - found.mean(), dtype=np.float64)


def coordinate_ascent(log_probabilities: FloatArray, truth: IntArray, weights: npt.NDArray[np.floating]) -> FloatArray:
    """Coordinate ascent of macro F1 from no offsets, to where no single offset can better it.

    Args:
        log_probabilities: float64 (photos, 18).
        truth: int64 (photos,).
        weights: float (photos,), how often each photo counts.

    Returns:
        float64 (18,), each within LIMIT.
    """
    seen = weights > 0
    log_p, truth, weights = log_probabilities[seen], truth[seen], weights[seen].astype(np.float64)
    offsets = np.zeros(CLASSES)
    reached = -1.0
    for _ in range(PASSES):
        before = reached
        for label in range(CLASSES):
            limits = (-LIMIT - offsets[label], LIMIT - offsets[label])
            step, f1 = best_step(log_p + offsets, truth, weights, label, limits)
            if f1 > reached + 1e-9:
                offsets[label] += step
                reached = f1
        if reached <= before + 1e-9:
            break
    return offsets


def best_step(
    scores: FloatArray,
    truth: IntArray,
    weights: npt.NDArray[np.floating],
    label: int,
    limits: tuple[float, float] = (-LIMIT, LIMIT),
) -> tuple[float, float]:
    """How far to raise (or lower) one class's score for the highest macro F1, all others as they are.

    A photo goes to the class as soon as the raise exceeds its margin, so sorted by margin the counts behind the F1 of
    all classes are running sums, and every raise that makes a difference is tried.

    Args:
        scores: float64 (photos, 18).
        truth: int64 (photos,).
        weights: float (photos,).
        limits: of the raise, lowest and highest.

    Returns:
        (raise, macro F1): half-way between two photos' margins; of equals the one nearest to 0.
    """
    others = scores.copy()
    others[:, label] = -np.inf
    rival = others.argmax(axis=1)
    margin = others[np.arange(len(scores)), rival] - scores[:, label]
    order = np.argsort(margin, kind="stable")
    margin, rival, truth, weights = margin[order], rival[order], truth[order], weights[order]
    support = np.bincount(truth, weights, CLASSES)
    rows = np.arange(len(truth))
    leaving = np.zeros((len(truth) + 1, CLASSES))  # weight that each class loses to `label`, photo by photo
    leaving[rows + 1, rival] = weights
    predicted = np.bincount(rival, weights, CLASSES) - leaving.cumsum(axis=0)
    leaving[rows + 1, rival] *= rival == truth
    right = np.bincount(rival, weights * (rival == truth), CLASSES) - leaving.cumsum(axis=0)
    predicted[1:, label] = weights.cumsum()
    right[1:, label] = (weights * (truth == label)).cumsum()
    f1 = (2 * right / np.maximum(predicted + support, 1e-12)).mean(axis=1)
    edges = np.concatenate([[-np.inf], margin, [np.inf]])
    low, high = np.maximum(edges[:-1], limits[0]), np.minimum(edges[1:], limits[1])
    f1[low >= high] = -1  # out of the limits, or between photos of equal margin, which go together
    raises = (low + high) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    place = best[np.abs(raises[best]).argmin()]
    return float(raises[place]), float(f1[place])


BOUNDS = (0.5, 20.0)  # the floor: photos that are all right would be scaled to certainty
PARTS = 5  # of the cross-validation of a temperature


def fit_temperature(logits: AnyFloatArray, truth: IntArray, head: Head | None = None) -> float:
    """The number by which logits are to be divided for the smallest log loss (Guo et al. 2017, "On Calibration of
    Modern Neural Networks"); which of a head's logits that are, `divisors` says.

    scikit-learn's own calibrator knows no columns that count for one label together.

    Args:
        logits: float (photos, columns); log probabilities do as well.
        truth: int64 (photos,), the labels.
        head: what the columns mean; None for one logit a label.

    Returns:
        Within BOUNDS; 1 if there are no photos.
    """
    if not len(truth):
        return 1.0
    values = np.asarray(logits, dtype=np.float64)
    return _lowest(lambda temperature: float(_losses(values, truth, head, temperature).mean()), BOUNDS)


def worth_scaling(logits: AnyFloatArray, truth: IntArray, head: Head, person: IntArray, stratum: IntArray) -> bool:
    """Whether a temperature lowers the log loss of people that it was not fitted on by more than noise.

    Args:
        logits: float (photos, columns of the head).
        truth: int64 (photos,), the labels.
        person: int64 (photos,).
        stratum: int64 (all people,), within which people are drawn.
    """
    people, person = np.unique(person, return_inverse=True)
    part = np.empty(len(people), dtype=np.int64)
    part[np.argsort(stratum[people], kind="stable")] = np.arange(len(people)) % PARTS
    gain = _losses(logits, truth, head, 1.0)
    for number in range(PARTS):
        mine = part[person] == number
        gain[mine] -= _losses(logits[mine], truth[mine], head, fit_temperature(logits[~mine], truth[~mine], head))
    weights = draw_people(stratum[people])
    drawn = (weights @ np.bincount(person, gain)) / np.maximum(weights @ np.bincount(person), 1)
    return interval(drawn).low > 0


def temperature_of_mean(single: float, head: Head, logits: AnyFloatArray | None) -> float:
    """The temperature of the mean of several models' logits.

    The mean is less overconfident than each model (Heskes 1998, "Selecting Weighting Factors in Logarithmic Opinion
    Pools": its log loss is theirs less their disagreement), so the temperature of single models is too high for it. Of
    the labels its log loss holds the mean logit of the true label only, which is the same for the mean of the logits
    as for single models on average; calibrated single models tell it, so that no labels are needed.

    Args:
        single: the temperature of single models.
        logits: float (models, photos, columns of the head), of photos that no model was trained on; None if there are
            none.

    Returns:
        At most `single`. Where it can't be measured (no logits, or a head that is not softmax) at most 1: the mean
        needs no higher temperature than single models, but whether it needs one above 1 is not known.
    """
    if logits is None or head.kind != "softmax" or single <= BOUNDS[0]:
        return min(single, 1.0)
    values = np.asarray(logits, dtype=np.float64)
    mean, of_truth = values.mean(axis=0), (values * softmax(values / single, axis=2)).sum(axis=2).mean()

    def loss(temperature: float) -> float:
        return float(logsumexp(mean / temperature, axis=1).mean() - of_truth / temperature)

    # the variance of the mean of n models is at least an n-th of theirs: less would be chance
    return _lowest(loss, (max(BOUNDS[0], single / len(values)), single))


def _losses(logits: AnyFloatArray, truth: IntArray, head: Head | None, temperature: float) -> FloatArray:
    """Log loss of each photo in nats: float64 (photos,)."""
    if head is None:
        found = log_softmax(logits / temperature, axis=1)
    else:
        found = bin_log_probabilities(logits / divisors(head, temperature), head)
    merge = head.merge if head else range(logits.shape[1])
    return -np.asarray(logsumexp(found, axis=1, b=np.array(merge) == truth[:, None]), dtype=np.float64)


def _lowest(loss: Callable[[float], float], bounds: tuple[float, float]) -> float:
    options = {"xatol": 1e-4}
    found = minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=np.log(bounds), method="bounded", options=options)
    return float(np.exp(found.x))


def scaled(log_probabilities: AnyFloatArray, temperature: float) -> npt.NDArray[np.float64]:
    """Log probabilities at another temperature, each row normalised.

    Args:
        log_probabilities: float (photos, labels); logits do as well.

    Returns:
        float64 of that shape.
    """
    return np.asarray(log_softmax(np.asarray(log_probabilities, dtype=np.float64) / temperature, axis=1))


OUTER_SPLITS = 5  # of the nested cross-validation
PREDICTED = 100  # photos from which the temperature of a mean is measured
STEPS: tuple[StepName, ...] = get_args(StepName)


def fit(
    blend: OofEnsemble, photos: IntArray, steps: Collection[StepName], tta: Tta = "flip", force: bool = False
) -> DecisionParams:
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
        weights = greedy_weights(blend.class_log_probs(fitted)[:, photos], truth)
        runs = [r.model_copy(update={"weight": w}) for r, w in zip(fitted.runs, weights, strict=True)]
        fitted = fitted.model_copy(update={"runs": tuple(runs)})
    if "offsets" in steps:
        people, person = np.unique(blend.person[photos], return_inverse=True)
        offsets = fit_offsets(blend.decide(fitted).log_probabilities[photos], truth, person, blend.stratum[people])
        fitted = fitted.model_copy(update={"offsets": tuple(offsets.tolist())})
    return fitted


def _view_weights(blend: OofEnsemble, plain: DecisionParams, photos: IntArray) -> tuple[float, ...]:
    """A weight for each view by greedy selection, as runs are weighed; none where there is nothing to weigh."""
    views = plain.tta_set.views
    if len(views) == 1 or plain.tta_set.merge == "max":
        return ()
    alone = [plain.model_copy(update={"view_weights": tuple(row)}) for row in np.eye(len(views)).tolist()]
    class_log_probs = np.stack([blend.decide(view).log_probabilities[photos] for view in alone])
    return greedy_weights(class_log_probs, blend.truth[photos])


def _temperatures(
    blend: OofEnsemble, number: int, photos: IntArray, tta: TtaSet, force: bool
) -> dict[str, tuple[float, ...]]:
    """task -> of each head, fitted over all folds on the photos that the task learns from; 1 where it is not worth it.

    One for all folds: a fold without errors would be scaled to certainty and outvote the others in their mean.
    """
    member, found = blend.runs[number], {}
    for task, target in member.targets.items():
        mine = training_mask(target.predicts, blend.data)[blend.rows][photos]
        rows = photos[mine]
        truth, logits = true_labels(target, blend.data)[blend.rows][rows], member.mean_logits(task, tta)[rows]
        heads = [(logits[:, head.columns], truth[:, n], head) for n, head in enumerate(target.heads)]
        found[task] = tuple(
            fit_temperature(*head) if force or worth_scaling(*head, blend.person[rows], blend.stratum) else 1.0
            for head in heads
        )
    return found


def with_mean_temperatures(blend: OofEnsemble, fitted: DecisionParams) -> DecisionParams:
    """The same with temperatures for the mean of all folds' logits, which new photos are decided by.

    They are measured on the photos that `infer` predicted with these models; see `temperature_of_mean`.
    """
    runs = []
    for member, tuned in zip(blend.runs, fitted.runs, strict=True):
        means, measured = tuned.temperatures, True
        if means and len(trained_folds(member.run, member.recipe)[0]) > 1:
            seen = member.run.pseudo_record.exists()  # by models that were trained on photos to predict
            predicted = {} if seen else _predicted(member, fitted.tta_set)
            means = {task: _of_mean(found, member.targets[task], predicted.get(task)) for task, found in means.items()}
            measured = seen or all(task in predicted or max(found) <= 1 for task, found in tuned.temperatures.items())
        runs.append(tuned.model_copy(update={"mean_temperatures": means, "mean_measured": measured}))
    return fitted.model_copy(update={"runs": tuple(runs)})


def _of_mean(single: Sequence[float], target: OutputSpec, logits: FloatArray | None) -> tuple[float, ...]:
    heads = zip(single, target.heads, strict=True)
    return tuple(temperature_of_mean(t, h, None if logits is None else logits[:, :, h.columns]) for t, h in heads)


def _predicted(member: RunOofLogits, tta: TtaSet) -> dict[str, FloatArray]:
    """task -> float (folds, photos, width), the mean over views, of the photos that `infer` showed to all models there
    are now; of a task for one gender those decided to be of it. Without tasks of too few photos."""
    try:
        with np.load(member.run.eval_file, allow_pickle=False) as file:
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


def nested(
    blend: OofEnsemble, steps: Collection[StepName], tta: Tta = "flip", force: bool = False
) -> tuple[Decision, int]:
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
    blend: OofEnsemble,
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

    fitted: DecisionParams  # on everybody
    decision: Decision  # of people it was not fitted on
    f1: FloatArray
    loss: FloatArray


def _scorer(blend: OofEnsemble) -> Callable[[Decision], tuple[FloatArray, FloatArray]]:
    """A function to (macro F1, mean log loss) on each draw of people, everybody first."""
    draws, photos = Draws(blend.truth, blend.person, blend.stratum), np.arange(len(blend.rows))

    def score(found: Decision) -> tuple[FloatArray, FloatArray]:
        return draws.macro_f1(found.classes), draws.mean(-found.log_probabilities[photos, blend.truth])

    return score


def _words(fitted: DecisionParams, name: StepName) -> str:
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
