"""Temperature scaling: probabilities that mean what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from ensemble.metrics.bootstrap import draw_people, interval
from ensemble.metrics.heads import bin_log_probabilities, divisors
from ensemble.recipes.tasks import Head
from folds.data.labels import AnyFloatArray, FloatArray, IntArray

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
