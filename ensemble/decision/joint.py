"""From the logits of many models to one class: mean over folds and views, then one joint decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from ensemble.metrics.heads import divisors, head_log_probabilities
from ensemble.recipes.tasks import ONLY_GENDER, Head, OutputSpec
from ensemble.recipes.views import SETS, TtaSet
from folds.labels import CLASSES, AnyFloatArray

FLIP = SETS["flip"]  # what is merged where nothing else is said: the mean, of views that all weigh alike


def mean_logits(
    logits: AnyFloatArray, temperatures: AnyFloatArray | None = None, weights: Sequence[float] = ()
) -> npt.NDArray[np.float64]:
    """Mean over folds and views, divided by the temperatures.

    Args:
        logits: float (folds, views, photos, width); NaN where a model was not shown that view of a photo, which is then
            left out.
        temperatures: float (width,), from `column_temperatures`; None is 1.
        weights: of the views; empty weighs all alike.

    Returns:
        float64 (photos, width), NaN where no model was shown a photo.
    """
    values = np.asarray(logits, dtype=np.float64)
    if np.isnan(values).any():
        mean = _mean_of_known(values, weights)
    else:
        mean = (np.average(values, axis=1, weights=weights) if weights else values.mean(axis=1)).mean(axis=0)
    return mean if temperatures is None else mean / temperatures


def _mean_of_known(values: npt.NDArray[np.float64], weights: Sequence[float]) -> npt.NDArray[np.float64]:
    over_views = np.array(weights or [1.0] * values.shape[1])[None, :, None, None]
    mean = _known_average(values, np.broadcast_to(over_views, values.shape), axis=1)
    return _known_average(mean, np.ones_like(mean), axis=0)


def _known_average(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], axis: int
) -> npt.NDArray[np.float64]:
    known = np.isfinite(values)
    total = np.where(known, weights, 0).sum(axis=axis)
    with np.errstate(invalid="ignore"):  # NaN where nothing is known
        return np.asarray(np.where(known, values * weights, 0).sum(axis=axis) / total)


def merged_log_probabilities(logits: AnyFloatArray, head: Head, tta: TtaSet) -> npt.NDArray[np.float64]:
    """Log probabilities of a head's labels, merged over views: their mean (`gmean`: the geometric mean of the
    probabilities) or their largest (`max`), each row normalised.

    ttach merges logits, whose roots are NaN below 0 and whose largest depends on a constant that no probability does.

    Args:
        logits: float (views, photos, width of the task); or (photos, width), whose views are merged already.

    Returns:
        float64 (photos, labels).
    """
    if logits.ndim == 2:
        return head_log_probabilities(logits, head)
    each = np.stack([head_log_probabilities(view, head) for view in logits])
    merged = each.max(axis=0) if tta.merge == "max" else np.average(each, axis=0, weights=tta.weights or None)
    return np.asarray(log_softmax(merged, axis=1), dtype=np.float64)


def column_temperatures(temperatures: Sequence[float], target: OutputSpec) -> npt.NDArray[np.float64]:
    """By what each logit is divided, float64 (width,), from a temperature of each head."""
    return np.concatenate([divisors(h, t) for h, t in zip(target.heads, temperatures, strict=True)])


def joint_log_probabilities(
    logits: Mapping[str, AnyFloatArray], targets: Mapping[str, OutputSpec], tta: TtaSet = FLIP
) -> npt.NDArray[np.float64]:
    """Log probability of each of the 18 classes: log p(mask) + log p(gender) + log p(age | gender).

    A part that several tasks predict is the mean of their log probabilities, normalised: else tasks that disagree
    about the ages of one gender would lower p(gender). `class18` tasks and the product of the parts, where a run has
    both, are averaged in the same way. Each row is normalised.

    Args:
        logits: task -> float (photos, width of the task), or (views, photos, width) to be merged head by head.
        targets: task -> what it predicts; together they must determine all 18 classes.
        tta: how the views are merged.

    Returns:
        float64 (photos, 18), rows summing to 1 after exp.

    Raises:
        ValueError: if a part of the class is predicted by no task.
    """
    return np.asarray(log_softmax(joint_scores(logits, targets, tta=tta), axis=1), dtype=np.float64)


def joint_scores(
    logits: Mapping[str, AnyFloatArray], targets: Mapping[str, OutputSpec], missing: float = -np.inf, tta: TtaSet = FLIP
) -> npt.NDArray[np.float64]:
    """`joint_log_probabilities` before each row is normalised.

    Args:
        logits: NaN where a photo was not shown to the task's models.
        missing: log probability of a part where any of its tasks did not predict: -inf excludes those classes, 0 makes
            their scores upper bounds.
        tta: how the views are merged, if there are any left.

    Returns:
        float64 (photos, 18).
    """
    sources: dict[tuple[str, int], list[npt.NDArray[np.float64]]] = {}
    for task, values in logits.items():
        kind = targets[task].predicts
        for head in targets[task].heads:
            part = merged_log_probabilities(values, head, tta)
            if head.part == "age":
                genders = [ONLY_GENDER[kind]] if kind in ONLY_GENDER else [0, 1]
                for gender in genders:
                    sources.setdefault(("age", gender), []).append(part)
            else:
                sources.setdefault((head.part, 0), []).append(part)
    parts = {name: log_softmax(np.mean(found, axis=0), axis=1) for name, found in sources.items()}
    parts = {name: np.where(np.isnan(part), missing, part) for name, part in parts.items()}
    whole = [parts[("class", 0)]] if ("class", 0) in parts else []
    factors = [("mask", 0), ("gender", 0), ("age", 0), ("age", 1)]
    if all(f in parts for f in factors):
        mask, gender, male_age, female_age = (parts[f] for f in factors)
        age = np.stack([male_age, female_age], axis=1)  # (photos, gender, age)
        joint = mask[:, :, None, None] + (gender[:, :, None] + age)[:, None]
        whole.append(joint.reshape(-1, CLASSES))
    if not whole:
        absent = [f[0] for f in factors if f not in parts]
        raise ValueError(f"no task predicts {', '.join(dict.fromkeys(absent))}")
    return np.asarray(np.mean(whole, axis=0), dtype=np.float64)


def log_prior(class_photos: Sequence[int]) -> npt.NDArray[np.float64]:
    """Log probability of each class where no model says anything: its share of the photos.

    Args:
        class_photos: (18,); a class of none keeps next to nothing, so that its logarithm is a number.

    Returns:
        float64 (18,).
    """
    return np.asarray(log_softmax(np.log(np.maximum(class_photos, 1e-6))), dtype=np.float64)


def blend(
    class_log_probs: AnyFloatArray, weights: AnyFloatArray | Sequence[float] | None = None
) -> npt.NDArray[np.float64]:
    """Weighted mean of several runs' log probabilities, each row normalised.

    Args:
        class_log_probs: float (runs, photos, 18), log probabilities.
        weights: float (runs,), not negative; None weighs all alike.

    Returns:
        float64 (photos, 18), log probabilities.
    """
    return np.asarray(log_softmax(np.average(class_log_probs, axis=0, weights=weights), axis=1), dtype=np.float64)
