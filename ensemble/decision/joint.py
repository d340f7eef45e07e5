"""The joint decision: from the logits of many models and runs to one of the 18 classes for each photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from ensemble.metrics.heads import divisors, head_log_probabilities
from ensemble.recipes.tasks import ONLY_GENDER, Head, OutputSpec
from ensemble.recipes.views import SETS, TtaSet
from folds.labels import AGES, CLASSES, GENDERS, MASKS, AnyFloatArray, FloatArray, IntArray, encode

FLIP = SETS["flip"]  # the default: the plain mean over views


def mean_logits(
    logits: AnyFloatArray, temperatures: AnyFloatArray | None = None, weights: Sequence[float] = ()
) -> npt.NDArray[np.float64]:
    """Mean over folds and views, divided by the temperatures.

    Args:
        logits: float (folds, views, photos, width); NaN where a model was not shown that view of a photo, which is then
            skipped.
        temperatures: float (width,), from `column_temperatures`; None is 1.
        weights: of the views; empty weighs all alike.

    Returns:
        float64 (photos, width), NaN where no model was shown a photo.
    """
    values = np.asarray(logits, dtype=np.float64)
    over_views = np.array(weights or [1.0] * values.shape[1])[:, None, None]
    with np.errstate(invalid="ignore"):  # NaN where nothing is known
        known = np.isfinite(values)
        mean = np.where(known, values * over_views, 0).sum(axis=1) / np.where(known, over_views, 0).sum(axis=1)
        known = np.isfinite(mean)
        mean = np.where(known, mean, 0).sum(axis=0) / known.sum(axis=0)
    return np.asarray(mean if temperatures is None else mean / temperatures)


def column_temperatures(temperatures: Sequence[float], output_spec: OutputSpec) -> npt.NDArray[np.float64]:
    """By what each logit is divided, float64 (width,), from a temperature of each head."""
    return np.concatenate([divisors(h, t) for h, t in zip(output_spec.heads, temperatures, strict=True)])


def merged_log_probabilities(views: AnyFloatArray, head: Head, tta: TtaSet) -> npt.NDArray[np.float64]:
    """Log probabilities of a head's labels, float64 (photos, labels), merged over views: their mean (`gmean`: the
    geometric mean of the probabilities) or their largest (`max`), each row normalised.

    ttach merges logits, whose roots are NaN below 0 and whose largest depends on a constant that no probability does.

    Args:
        views: float (views, photos, width), logits; a single view is taken as it is.
    """
    each = np.stack([head_log_probabilities(view, head) for view in views])
    if len(each) == 1:
        return np.asarray(each[0])
    merged = each.max(axis=0) if tta.merge == "max" else np.average(each, axis=0, weights=tta.weights or None)
    return np.asarray(log_softmax(merged, axis=1), dtype=np.float64)


def joint_log_probabilities(
    logits: Mapping[str, AnyFloatArray],
    output_specs: Mapping[str, OutputSpec],
    temperatures: Mapping[str, Sequence[float]] | None = None,
    tta: TtaSet = FLIP,
) -> npt.NDArray[np.float64]:
    """`joint_scores`, each row normalised: log probabilities, float64 (photos, 18)."""
    return np.asarray(log_softmax(joint_scores(logits, output_specs, temperatures, tta), axis=1), dtype=np.float64)


def joint_scores(
    logits: Mapping[str, AnyFloatArray],
    output_specs: Mapping[str, OutputSpec],
    temperatures: Mapping[str, Sequence[float]] | None = None,
    tta: TtaSet = FLIP,
    missing: float = -np.inf,
) -> npt.NDArray[np.float64]:
    """Score of each of the 18 classes: log p(mask) + log p(gender) + log p(age | gender), float64 (photos, 18).

    A part that several tasks predict is the mean of their log probabilities, normalised: else tasks that disagree
    about the ages of one gender would lower p(gender). `class18` tasks and the product of the parts, where a run has
    both, are averaged in the same way.

    Args:
        logits: task -> float (folds, views, photos, width), NaN where a model was not shown that view of a photo.
        output_specs: task -> what its model predicts; together they must determine all 18 classes.
        temperatures: task -> of each head; 1 for a task without.
        tta: how the views are merged.
        missing: log probability of a part where any of its tasks did not predict: -inf excludes those classes, 0 makes
            their scores upper bounds.

    Raises:
        ValueError: if a part of the class is predicted by no task.
    """
    sources: dict[tuple[str, int], list[npt.NDArray[np.float64]]] = {}
    for task, values in logits.items():
        output_spec, scale = output_specs[task], (temperatures or {}).get(task)
        by = column_temperatures(scale, output_spec) if scale else None
        views = [values] if tta.merge == "mean" else [view[:, None] for view in values.swapaxes(0, 1)]
        means = np.stack([mean_logits(view, by, tta.weights if tta.merge == "mean" else ()) for view in views])
        for head in output_spec.heads:
            part = merged_log_probabilities(means, head, tta)
            both = head.part == "age" and output_spec.predicts not in ONLY_GENDER
            for gender in (0, 1) if both else (ONLY_GENDER.get(output_spec.predicts, 0),):
                sources.setdefault((head.part, gender), []).append(part)
    parts = {name: log_softmax(np.mean(found, axis=0), axis=1) for name, found in sources.items()}
    parts = {name: np.where(np.isnan(part), missing, part) for name, part in parts.items()}
    whole = [parts[("class", 0)]] if ("class", 0) in parts else []
    factors = [("mask", 0), ("gender", 0), ("age", 0), ("age", 1)]
    if absent := dict.fromkeys(part for part, gender in factors if (part, gender) not in parts):
        if not whole:
            raise ValueError(f"no task predicts {', '.join(absent)}")
    else:
        mask, gender, *ages = (parts[f] for f in factors)
        age = np.stack(ages, axis=1)  # (photos, gender, age)
        joint = mask[:, :, None, None] + (gender[:, :, None] + age)[:, None]
        whole.append(joint.reshape(-1, CLASSES))
    return np.asarray(np.mean(whole, axis=0), dtype=np.float64)


def log_prior(class_photos: Sequence[int]) -> npt.NDArray[np.float64]:
    """Log probability of each class for a photo that no model has seen: its fraction of the photos, (18,), as float64
    (18,). A class of none keeps next to nothing, so that its logarithm is a number."""
    return np.asarray(log_softmax(np.log(np.maximum(class_photos, 1e-6))), dtype=np.float64)


def mean_of_runs(
    class_log_probs: AnyFloatArray, weights: AnyFloatArray | Sequence[float] | None = None
) -> npt.NDArray[np.float64]:
    """Weighted mean of log probabilities, float (runs, photos, 18), each row normalised: float64 (photos, 18). Weights
    are float (runs,), not negative; None weighs all alike."""
    return np.asarray(log_softmax(np.average(class_log_probs, axis=0, weights=weights), axis=1), dtype=np.float64)


def share_gender_and_age(
    log_probabilities: AnyFloatArray, person: IntArray, seen: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float64]:
    """log p(mask | photo) + the mean of log p(gender, age | photo) over the person's photos, float64 (photos, 18).

    The mean of logs is the product rule for combining classifiers (Kittler et al. 1998, "On Combining Classifiers"),
    tempered by the number of photos, as those of one person do not err independently. A person's only photo stays as
    it is, also where a model of all 18 classes does not take mask and person as independent.

    Args:
        log_probabilities: float (photos, 18), rows summing to 1 after exp.
        person: int64 (photos,), equal for photos of one person, from 0 up.
        seen: bool (photos,), False for photos that no model saw: they take gender and age from the person's others and
            give none, and stay as they are where there is no other. None: all were seen.
    """
    cube = np.asarray(log_probabilities, dtype=np.float64).reshape(-1, len(MASKS), len(GENDERS) * len(AGES))
    mask, traits = logsumexp(cube, axis=2), logsumexp(cube, axis=1)
    seen = np.ones(len(person), dtype=np.bool_) if seen is None else seen
    photos = np.bincount(person, seen)
    sums = np.stack([np.bincount(person, np.where(seen, column, 0)) for column in traits.T], axis=1)
    shared = (sums / np.maximum(photos, 1)[:, None])[person]
    together = log_softmax((mask[:, :, None] + shared[:, None]).reshape(-1, CLASSES), axis=1)
    alone = photos[person] == np.where(seen, 1, 0)
    return np.asarray(np.where(alone[:, None], log_probabilities, together), dtype=np.float64)


Rule = Literal["joint", "hard", "vote"]


@dataclass(frozen=True)
class Decision:
    """Probabilities and classes. Offsets move the class only: one may be decided on that is not the most probable,
    because macro F1 weighs all classes alike."""

    log_probabilities: FloatArray  # (photos, 18)
    classes: IntArray  # (photos,), 0..17


def decide(
    class_log_probs: FloatArray,
    weights: AnyFloatArray | Sequence[float] | None = None,
    offsets: Sequence[float] = (0.0,) * CLASSES,
    rule: Rule = "joint",
    votes: Sequence[IntArray] = (),
    person: IntArray | None = None,
    seen: npt.NDArray[np.bool_] | None = None,
) -> Decision:
    """Average the runs and decide.

    Args:
        class_log_probs: float64 (runs, photos, 18), each run's log probabilities.
        weights: float (runs,), not negative; None weighs all alike.
        offsets: (18,), of the classes' log probabilities.
        rule: joint, the best of the 18 classes; hard, part by part, without offsets; vote, each run one vote by its
            own joint decision, with the offsets if it is the only one.
        votes: further votes, each int64 (photos,); they need `vote`.
        person: int64 (photos,), equal for photos of one person, which are decided together by the joint rule; None
            decides each photo by itself.
        seen: bool (photos,), False for photos that no model saw: the runs have no vote on them if others have, and a
            person's other photos decide gender and age. None: all were seen.
    """
    log_p = mean_of_runs(class_log_probs, weights)
    if person is not None:
        log_p = share_gender_and_age(log_p, person, seen)
    moved = log_p + np.array(offsets)
    if rule == "vote":
        runs = [moved] if len(class_log_probs) == 1 else list(class_log_probs)
        classes = vote(np.stack([*map(most_probable, runs), *votes]), log_p)
        if votes and seen is not None:
            classes = np.where(seen, classes, vote(np.stack(votes), log_p))
        return Decision(log_p, classes)
    return Decision(log_p, most_probable(moved) if rule == "joint" else decide_hard(log_p))


def most_probable(log_probabilities: AnyFloatArray) -> IntArray:
    """The most probable class of each photo, int64 (photos,), of float (photos, 18); ties go to the lowest class."""
    return np.asarray(log_probabilities.argmax(axis=1), dtype=np.int64)


def marginals(log_probabilities: AnyFloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log probabilities of mask, gender and age, float64 (photos, 3), (photos, 2), (photos, 3), of the 18 classes'."""
    cube = np.asarray(log_probabilities, dtype=np.float64).reshape(-1, len(MASKS), len(GENDERS), len(AGES))
    return logsumexp(cube, axis=(2, 3)), logsumexp(cube, axis=(1, 3)), logsumexp(cube, axis=(1, 2))


def decide_hard(log_probabilities: AnyFloatArray) -> IntArray:
    """Mask, then gender, then the age band given that gender, each by itself, int64 (photos,), of float (photos, 18):
    the routing of separate models.

    It differs from `most_probable` where the gender is uncertain and the age bands of men and women are not alike.
    """
    mask, gender = (part.argmax(axis=1) for part in marginals(log_probabilities)[:2])
    p = np.exp(log_probabilities).reshape(-1, len(MASKS), len(GENDERS), len(AGES))
    return encode(mask, gender, p.sum(axis=1)[np.arange(len(p)), gender].argmax(axis=1))


def vote(votes: IntArray, log_probabilities: AnyFloatArray) -> IntArray:
    """The class with the most of the votes, int64 (voters, photos); ties go to the one with the highest log
    probability, float (photos, 18). Returns int64 (photos,)."""
    counts = np.stack([np.bincount(column, minlength=CLASSES) for column in votes.T])
    return most_probable(np.where(counts == counts.max(axis=1, keepdims=True), log_probabilities, -np.inf))
