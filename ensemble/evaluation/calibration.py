"""Whether probabilities mean what they say: how sure a decision was against how often it was right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from ensemble.decision.decide import Decision
from ensemble.metrics.bootstrap import SCORED_PARTS
from folds.data.labels import AGES, CLASS_NAMES, GENDERS, MASKS, FloatArray, IntArray, decode

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
