"""Temperature scaling: probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from ensemble.metrics.heads import bin_log_probabilities, divisors
from ensemble.recipes.tasks import Head
from folds.data.labels import AnyFloatArray, IntArray

BOUNDS = (0.05, 20.0)


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
    merge = head.merge if head else range(logits.shape[1])
    counts = np.array(merge) == truth[:, None]  # (photos, bins)
    values = np.asarray(logits, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        if head is None:
            found = log_softmax(values / temperature, axis=1)
        else:
            found = bin_log_probabilities(values / divisors(head, temperature), head)
        return -float(logsumexp(found, axis=1, b=counts).mean())

    best = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(best.x))


def scaled(log_probabilities: AnyFloatArray, temperature: float) -> npt.NDArray[np.float64]:
    """Log probabilities at another temperature, each row normalised.

    Args:
        log_probabilities: float (photos, labels); logits do as well.

    Returns:
        float64 of that shape.
    """
    return np.asarray(log_softmax(np.asarray(log_probabilities, dtype=np.float64) / temperature, axis=1))
