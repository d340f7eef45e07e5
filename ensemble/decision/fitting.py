"""Fitting the decision on out-of-fold logits: temperatures, offsets, weights of runs, and what they gain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, get_args

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.model_selection import StratifiedKFold

from ensemble.decision.eval_logits import read_logits
from ensemble.decision.joint import Decision, most_probable
from ensemble.decision.oof_ensemble import OofEnsemble, RunOofLogits
from ensemble.decision.tuning import DecisionParams, StepName, Tuning, TuningStep, describe_temperatures
from ensemble.jobs.oof import select_views, trained_folds
from ensemble.metrics.heads import bin_log_probabilities, divisors
from ensemble.metrics.scores import Draws, draw_people, interval, macro_f1
from ensemble.recipes.tasks import ONLY_GENDER, Head, scored_mask, true_labels
from ensemble.recipes.views import TtaSet
from folds.errors import MaskensError
from folds.labels import CLASSES, AnyFloatArray, FloatArray, IntArray, decode

STEPS: tuple[StepName, ...] = get_args(StepName)
GREEDY_ROUNDS = 25  # weights come in steps of 1/25 at the finest
OFFSET_LIMIT = 2.0  # in nats: a class is weighed up to 7 times
OFFSET_ROUNDS = 5  # over all classes
BIAS_ROUNDS = 50  # of a fixed point, which is near after ten
TEMPERATURES = (0.5, 20.0)  # lowest, highest: photos that are all right would be scaled to certainty
TEMPERATURE_PARTS = 5  # of the cross-validation of a temperature
OUTER_PARTS = 5  # of the nested cross-validation
MEASURED_PHOTOS = 100  # from which the temperature of a mean is measured


def fit_offsets(log_probabilities: FloatArray, truth: IntArray) -> FloatArray:
    """Offsets for which argmax(log p + offset) has the highest macro F1 that the probabilities themselves expect, after
    each class is as frequent among them as among the labels.

    Expected counts (the plug-in rule of Narasimhan et al. 2015, "Consistent Multiclass Algorithms for Complex
    Performance Measures") do not fit the accidents of a dozen people in a rare class, as counts of labels do.
    Coordinate ascent, to where no single offset can better it.

    Args:
        log_probabilities: float64 (photos, 18).
        truth: int64 (photos,).

    Returns:
        float64 (18,), of mean 0.
    """
    bias = frequency_bias(log_probabilities, truth)
    calibrated = log_softmax(log_probabilities + bias, axis=1)
    expected = np.exp(calibrated)
    offsets, reached = np.zeros(CLASSES), -1.0
    for _ in range(OFFSET_ROUNDS):
        before = reached
        for label in range(CLASSES):
            limits = (-OFFSET_LIMIT - offsets[label], OFFSET_LIMIT - offsets[label])
            step, f1 = best_step(calibrated + offsets, expected, label, limits)
            if f1 > reached + 1e-9:
                offsets[label] += step
                reached = f1
        if reached <= before + 1e-9:
            break
    return np.asarray(offsets + bias - (offsets + bias).mean(), dtype=np.float64)


def frequency_bias(log_probabilities: FloatArray, truth: IntArray) -> FloatArray:
    """Bias of each class with which its mean probability is its frequency, float64 (18,), as the bias of a logistic
    regression would be fitted; one photo more of each keeps it finite. Takes what `fit_offsets` takes."""
    counts, bias = np.bincount(truth, minlength=CLASSES) + 1, np.zeros(CLASSES)
    for _ in range(BIAS_ROUNDS):
        mean = np.exp(log_softmax(log_probabilities + bias, axis=1)).sum(axis=0) + 1
        bias += np.log(counts / mean)
    return bias


def best_step(scores: FloatArray, expected: FloatArray, label: int, limits: tuple[float, float]) -> tuple[float, float]:
    """How far to raise (or lower) one class's score for the highest macro F1, all others as they are.

    A photo goes to the class as soon as the raise exceeds its margin, so sorted by margin the counts behind the F1 of
    all classes are running sums, and every raise that makes a difference is tried.

    Args:
        scores: float64 (photos, 18).
        expected: float64 (photos, 18), how often a photo is of each class: its probabilities, or 1 for its label.
        limits: of the raise, lowest and highest.

    Returns:
        (raise, macro F1): half-way between two photos' margins; of equals the one nearest to 0.
    """
    others = scores.copy()
    others[:, label] = -np.inf
    rival = others.argmax(axis=1)
    rows = np.arange(len(scores))
    margin = others[rows, rival] - scores[:, label]
    order = np.argsort(margin, kind="stable")
    margin, rival, expected = margin[order], rival[order], expected[order]
    of_rival = expected[rows, rival]
    leaving = np.zeros((2, len(rows) + 1, CLASSES))  # photos that each class loses to `label`, all and right ones
    leaving[0, rows + 1, rival], leaving[1, rows + 1, rival] = 1, of_rival
    predicted, right = leaving.sum(axis=1, keepdims=True) - leaving.cumsum(axis=1)
    predicted[1:, label] = rows + 1
    right[1:, label] = expected[:, label].cumsum()
    f1 = (2 * right / np.maximum(predicted + expected.sum(axis=0), 1e-12)).mean(axis=1)
    edges = np.concatenate([[-np.inf], margin, [np.inf]])
    low, high = np.maximum(edges[:-1], limits[0]), np.minimum(edges[1:], limits[1])
    f1[low >= high] = -1  # out of the limits, or between photos of equal margin, which go together
    raises = (low + high) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    place = best[np.abs(raises[best]).argmin()]
    return float(raises[place]), float(f1[place])


def fit_temperature(logits: AnyFloatArray, truth: IntArray, head: Head | None = None) -> float:
    """The temperature with the smallest log loss, within TEMPERATURES; 1 if there are no photos (Guo et al. 2017, "On
    Calibration of Modern Neural Networks"). scikit-learn's calibrator takes one column a label.

    Args:
        logits: float (photos, columns); log probabilities do as well.
        truth: int64 (photos,), the labels.
        head: what the columns mean; None for one logit a label.
    """
    if not len(truth):
        return 1.0
    values = np.asarray(logits, dtype=np.float64)
    return _lowest(lambda temperature: float(_losses(values, truth, head, temperature).mean()), TEMPERATURES)


def worth_scaling(logits: AnyFloatArray, truth: IntArray, head: Head, person: IntArray, stratum: IntArray) -> bool:
    """Whether a temperature lowers the log loss of people that it was not fitted on by more than noise. Logits are
    float (photos, columns of the head), truth and person int64 (photos,), the stratum within which people are drawn
    int64 (all people,)."""
    people, person = np.unique(person, return_inverse=True)
    part = np.empty(len(people), dtype=np.int64)
    part[np.argsort(stratum[people], kind="stable")] = np.arange(len(people)) % TEMPERATURE_PARTS
    gain = _losses(logits, truth, head, 1.0)
    for number in range(TEMPERATURE_PARTS):
        mine = part[person] == number
        gain[mine] -= _losses(logits[mine], truth[mine], head, fit_temperature(logits[~mine], truth[~mine], head))
    weights = draw_people(stratum[people])
    drawn = (weights @ np.bincount(person, gain)) / np.maximum(weights @ np.bincount(person), 1)
    return interval(drawn).low > 0


def temperature_of_mean(single: float, head: Head, logits: AnyFloatArray | None) -> float:
    """The temperature of the mean of several models' logits.

    The mean is less overconfident than each model (Heskes 1998, "Selecting Weighting Factors in Logarithmic Opinion
    Pools"), so the temperature of single models is too high for it. Its log loss depends on the labels by the mean
    logit of the true label alone, which is the same for the mean of the logits as for single models on average;
    calibrated single models estimate it, so that no labels are needed.

    Args:
        single: the temperature of single models; the result is at most that.
        logits: float (models, photos, columns of the head), of photos that no model was trained on. Where there are
            none, or the head is not softmax, the result is at most 1.
    """
    if logits is None or head.kind != "softmax" or single <= TEMPERATURES[0]:
        return min(single, 1.0)
    values = np.asarray(logits, dtype=np.float64)
    mean, of_truth = values.mean(axis=0), (values * softmax(values / single, axis=2)).sum(axis=2).mean()

    def loss(temperature: float) -> float:
        return float(logsumexp(mean / temperature, axis=1).mean() - of_truth / temperature)

    # the variance of the mean of n models is at least an n-th of theirs: less would be chance
    return _lowest(loss, (max(TEMPERATURES[0], single / len(values)), single))


def _losses(logits: AnyFloatArray, truth: IntArray, head: Head | None, temperature: float) -> FloatArray:
    """Log loss of each photo in nats: float64 (photos,)."""
    if head is None:
        found = log_softmax(logits / temperature, axis=1)
    else:
        found = bin_log_probabilities(logits / divisors(head, temperature), head)
    labels = np.array(head.bin_labels if head else range(logits.shape[1]))  # of each bin
    return -np.asarray(logsumexp(found, axis=1, b=labels == truth[:, None]), dtype=np.float64)


def _lowest(loss: Callable[[float], float], bounds: tuple[float, float]) -> float:
    found = minimize_scalar(
        lambda log_t: loss(np.exp(log_t)), bounds=np.log(bounds), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


def greedy_weights(class_log_probs: FloatArray, truth: IntArray) -> tuple[float, ...]:
    """Weights of the runs by greedy selection with replacement (Caruana et al. 2004, "Ensemble Selection from
    Libraries of Models").

    In each round the run is added with which the mean of all added so far has the highest macro F1; ties go to
    a run already selected. The best of all rounds counts, ties go to the earliest.

    Args:
        class_log_probs: float64 (runs, photos, 18).
        truth: int64 (photos,).

    Returns:
        (runs,), summing to 1.
    """
    counts = np.zeros(len(class_log_probs), dtype=np.int64)
    total = np.zeros(class_log_probs.shape[1:])
    best, best_f1 = counts, -1.0
    for _ in range(GREEDY_ROUNDS):
        f1 = [round(macro_f1(truth, most_probable(total + joint), CLASSES), 6) for joint in class_log_probs]
        chosen = max(range(len(class_log_probs)), key=lambda i: (f1[i], counts[i] > 0, -i))
        counts = counts + np.eye(len(class_log_probs), dtype=np.int64)[chosen]
        total = total + class_log_probs[chosen]
        if f1[chosen] > best_f1:
            best, best_f1 = counts, f1[chosen]
    return tuple(float(share) for share in best / best.sum())


def fit(oof: OofEnsemble, photos: IntArray, steps: Collection[StepName], force: bool = False) -> DecisionParams:
    """Fit the steps asked for, one on top of the other, on some of the ensemble's photos, int64 (n,). The views are
    those of flip where they are not chosen. Temperatures are kept of the heads whose log loss they lower by more than
    noise, with `force` of all."""
    fitted, truth = oof.plain("flip"), oof.truth[photos]
    if "views" in steps:
        tried = [oof.plain(name) for name in oof.sets]
        scores = [macro_f1(truth, oof.decide(t).classes[photos], CLASSES) for t in tried]
        fitted = tried[int(np.argmax(scores))]
    if "temperatures" in steps:
        found = [_temperatures(oof, member, photos, fitted.views, force) for member in oof.runs]
        fitted = fitted.with_runs([{"temperatures": its} for its in found])
    if "weights" in steps:
        weights = greedy_weights(oof.class_log_probs(fitted)[:, photos], truth)
        fitted = fitted.with_runs([{"weight": weight} for weight in weights])
    if "offsets" in steps:
        offsets = fit_offsets(oof.decide(fitted).log_probabilities[photos], truth)
        fitted = fitted.model_copy(update={"offsets": tuple(offsets.tolist())})
    return fitted


def _temperatures(
    oof: OofEnsemble, member: RunOofLogits, photos: IntArray, tta: TtaSet, force: bool
) -> dict[str, tuple[float, ...]]:
    """task -> of each head, fitted over all folds on the photos that the task is trained on; 1 where none is worth it.

    One for all folds: a fold without errors would be scaled to certainty and outvote the others in their mean.
    """
    found = {}
    for task, output_spec in member.output_specs.items():
        rows = photos[scored_mask(output_spec, oof.data)[oof.rows][photos]]
        truth, logits = true_labels(output_spec, oof.data)[oof.rows][rows], member.mean_logits(task, tta)[rows]
        heads = [(logits[:, head.columns], truth[:, n], head) for n, head in enumerate(output_spec.heads)]
        found[task] = tuple(
            fit_temperature(*head) if force or worth_scaling(*head, oof.person[rows], oof.stratum) else 1.0
            for head in heads
        )
    return found


def with_mean_temperatures(oof: OofEnsemble, fitted: DecisionParams) -> DecisionParams:
    """The same with temperatures for the mean of all folds' logits, which new photos are decided by.

    They are measured on the photos that `infer` predicted with these models; see `temperature_of_mean`.
    """
    values = []
    for member, tuned in zip(oof.runs, fitted.runs, strict=True):
        means, measured = dict(tuned.temperatures), True
        if means and len(trained_folds(member.run)[0]) > 1:
            seen = member.run.pseudo_record.exists()  # by models that were trained on photos to predict
            predicted = {} if seen else _predicted(member, fitted.views)
            for task, single in tuned.temperatures.items():
                logits, heads = predicted.get(task), zip(single, member.output_specs[task].heads, strict=True)
                means[task] = tuple(
                    temperature_of_mean(t, head, None if logits is None else logits[:, :, head.columns])
                    for t, head in heads
                )
                measured &= seen or logits is not None or max(single) <= 1
        values.append({"mean_temperatures": means, "mean_measured": measured})
    return fitted.with_runs(values)


def _predicted(member: RunOofLogits, tta: TtaSet) -> dict[str, FloatArray]:
    """task -> float (folds, photos, width), the mean over views, of the photos that `infer` showed to all models there
    are now; of a task for one gender those decided to be of it. Without tasks of too few photos."""
    try:
        read = read_logits(member.run.eval_file)
        if read.record["oof_hashes"] != [member.untuned.oof_hash]:
            return {}
        gender = decode(read.classes)[1]
        found: dict[str, FloatArray] = {}
        for task, output_spec in member.output_specs.items():
            views = select_views(read.of_folds(task).swapaxes(0, 1), read.record["views"], tta.views)
            logits = np.average(views, axis=0, weights=tta.weights or None).astype(np.float64)
            rows = np.isfinite(logits).all(axis=(0, 2)) & (gender == ONLY_GENDER.get(output_spec.predicts, gender))
            if len(logits) and rows.sum() >= MEASURED_PHOTOS:
                found[task] = logits[:, rows]
        return found
    except Exception:  # not predicted, with other views, of several runs, or damaged
        return {}


def nested(oof: OofEnsemble, steps: Collection[StepName], force: bool = False) -> Decision:
    """The decision on each photo by a tuning that was fitted on other people, split into parts here. Raises
    MaskensError: fewer than two people of a gender and age band."""
    parts = min(OUTER_PARTS, int(np.bincount(oof.stratum)[np.unique(oof.stratum)].min()))
    if parts < 2:
        raise MaskensError("too few people to tune: each gender and age band needs two at least, trained out-of-fold.")
    log_p, classes = np.empty((len(oof.rows), CLASSES)), np.empty(len(oof.rows), dtype=np.int64)
    splits = StratifiedKFold(parts, shuffle=True, random_state=oof.runs[0].run.seed)
    for others, held_out in splits.split(oof.stratum, oof.stratum):
        fitted = fit(oof, np.flatnonzero(np.isin(oof.person, others)), steps, force)
        mine = np.isin(oof.person, held_out)
        decision = oof.decide(fitted)
        log_p[mine], classes[mine] = decision.log_probabilities[mine], decision.classes[mine]
    return Decision(log_p, classes)


class _Scored(NamedTuple):
    """A tuning and what it is worth."""

    fitted: DecisionParams
    decision: Decision  # on people that it was not fitted on
    f1: FloatArray  # macro F1 of each draw of people, everybody first
    log_loss: FloatArray


def tune(
    oof: OofEnsemble,
    steps: Sequence[StepName],
    force: bool = False,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tuning, Decision]:
    """Fit step after step; keep one by what it is worth on people that it was not fitted on, compared with what was
    kept before.

    Temperatures must lower the log loss by more than noise, without lowering the macro F1 by more than noise; views and
    weights must raise the macro F1 by more than noise, as they are the best of several. Offsets must raise it: macro F1
    is known to gain by them, however small the sample that shows it.

    Args:
        force: keep them all.

    Returns:
        (tuning, nested): nested is the decision of the kept steps on people they were not fitted on.

    Raises:
        MaskensError: as `nested`.
    """
    draws, photos = Draws(oof.truth, oof.person, oof.stratum), np.arange(len(oof.rows))

    def scored(fitted: DecisionParams, decision: Decision) -> _Scored:
        log_loss = draws.mean(-decision.log_probabilities[photos, oof.truth])
        return _Scored(fitted, decision, draws.macro_f1(decision.classes), log_loss)

    plain = kept = scored(oof.plain("flip"), oof.decide(oof.plain("flip")))
    names: tuple[StepName, ...] = ()
    tried: list[TuningStep] = []
    for number, name in enumerate(steps, start=1):
        wanted = (*names, name)
        new = scored(fit(oof, photos, wanted, force), nested(oof, wanted, force))
        gain, loss_gain = interval(new.f1 - kept.f1), interval(kept.log_loss - new.log_loss)
        worth = gain.value > 0 if name == "offsets" else gain.low > 0
        if name == "temperatures":
            worth = loss_gain.low > 0 and gain.high >= 0
        if worth or force:
            names, kept = wanted, new
        tried.append(
            TuningStep(
                name=name,
                kept=kept is new,
                what=_describe(new.fitted, name),
                f1=interval(new.f1),
                gain=gain,
                loss=interval(new.log_loss),
                loss_gain=loss_gain,
            )
        )
        on_step(number, len(steps))
    tuning = Tuning(
        fitted=with_mean_temperatures(oof, kept.fitted),
        steps=tuple(tried),
        untuned=interval(plain.f1),
        tuned=interval(kept.f1),
        gain=interval(kept.f1 - plain.f1),
    )
    return tuning, kept.decision


def _describe(fitted: DecisionParams, name: StepName) -> str:
    if name == "views":
        return fitted.tta
    if name == "weights":
        return ", ".join(f"{r.run} {r.weight:.2f}" for r in fitted.runs)
    if name == "temperatures":
        return describe_temperatures(run.temperatures for run in fitted.runs)
    return f"{min(fitted.offsets):+.2f} to {max(fitted.offsets):+.2f}"
