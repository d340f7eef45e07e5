"""What each head's logits mean: log probabilities and decisions of its labels.

A head of ages may be of three kinds. All give log probabilities of its bins, of which those of the bands are made.

softmax: a logit a bin.

ordinal: a logit a cut, of P(age >= cut_k | age >= cut_{k-1}); a bin's probability is their product, so that the
probability of having reached a cut never rises from one cut to the next. That is CORN (Shi et al. 2021, "Deep Neural
Networks for Rank-Consistent Ordinal Regression Based On Conditional Probabilities").

regression: two outputs, (middle - CENTRE) / UNIT and ln(scale / UNIT), of a logistic distribution of the age in years;
a bin's probability is the distribution's mass between its cuts, as in Salimans et al. 2017, "PixelCNN++", which is
exact also far from the middle.

`ensemble.models.heads` is the same in torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit, log_softmax, logsumexp

from ensemble.recipes.tasks import WIDTHS, Head
from folds.labels import AnyFloatArray, IntArray

CENTRE, UNIT = 40.0, 20.0  # years
LOG_SCALES = (-5.0, 5.0)  # between which ln(scale / UNIT) is kept: 0.13 to 3,000 years


def bin_log_probabilities(logits: AnyFloatArray, head: Head) -> npt.NDArray[np.float64]:
    """Log probability of each bin of a head, whatever its kind: float (photos, logits of the head) -> float64 (photos,
    bins), rows summing to 1 after exp."""
    values = np.asarray(logits, dtype=np.float64)
    if head.kind == "softmax":
        return np.asarray(log_softmax(values, axis=1))
    none = np.zeros((len(values), 1))
    if head.kind == "ordinal":
        reached = np.hstack([none, np.cumsum(log_expit(values), axis=1)])
        return np.asarray(reached + np.hstack([log_expit(-values), none]))
    scale = UNIT * np.exp(np.clip(values[:, 1:], *LOG_SCALES))
    odds = (CENTRE + UNIT * values[:, :1] - np.array(head.cuts)) / scale  # log odds of having reached each cut
    # exact also far from the middle: sigmoid(a) - sigmoid(b) is sigmoid(a) * sigmoid(-b) * (1 - exp(b - a))
    inner = np.log(-np.expm1(-np.diff(head.cuts) / scale))
    return np.asarray(
        np.hstack([none, log_expit(odds)]) + np.hstack([log_expit(-odds), none]) + np.hstack([none, inner, none])
    )


def head_log_probabilities(logits: AnyFloatArray, head: Head) -> npt.NDArray[np.float64]:
    """Log probability of each label of a head: float (photos, width of the task) -> float64 (photos, labels), 3, 2, 3
    or 18 of them. Where ages were trained in finer bins, their probabilities add up."""
    part = bin_log_probabilities(np.asarray(logits)[:, head.columns], head)
    of_bin = np.array(head.bin_labels)
    if len(of_bin) == WIDTHS[head.part]:
        return part
    return np.stack([logsumexp(part[:, of_bin == label], axis=1) for label in range(WIDTHS[head.part])], axis=1)


def head_decisions(logits: AnyFloatArray, heads: Sequence[Head]) -> list[IntArray]:
    """The most probable label of each head of one task, each int64 (photos,)."""
    return [head_log_probabilities(logits, h).argmax(axis=1).astype(np.int64) for h in heads]


def divisors(head: Head, temperature: float) -> npt.NDArray[np.float64]:
    """The divisor of each logit of a head at a temperature: float64 (logits of the head,).

    A regression head's temperature divides the log scale alone: above 1 it widens the distribution of any scale below
    UNIT, below 1 it narrows it, and the middle stays.
    """
    return np.array([1.0, temperature]) if head.kind == "regression" else np.full(head.width, temperature)


def bin_logits(logits: AnyFloatArray, heads: Sequence[Head]) -> npt.NDArray[np.float64]:
    """The logits of a task whose heads are all softmax over their bins, with the same probabilities: float (photos,
    width) -> float64 (photos, bins of all heads). Softmax heads' logits stay as they are."""
    parts = [np.asarray(logits, dtype=np.float64)[:, h.columns] for h in heads]
    return np.hstack(
        [p if h.kind == "softmax" else bin_log_probabilities(p, h) for p, h in zip(parts, heads, strict=True)]
    )
