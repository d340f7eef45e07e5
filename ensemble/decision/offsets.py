"""Offsets of the classes: how much each log probability is raised or lowered so that macro F1 is highest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ensemble.metrics.bootstrap import draw_people
from folds.data.labels import CLASSES, FloatArray, IntArray

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
