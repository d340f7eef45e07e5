"""Photos that need fewer models than all.

Early exit: a class's score is log p(mask) + log p(gender) + log p(age | gender), and no log p(age | gender) exceeds 0.
So with it at 0 the score is an upper bound, and where the best class of a gender whose ages are known exceeds all
bounds of the other gender, the other's age models can't change the decision.

Within a budget (an anytime ensemble): a photo leaves once the passes that are left are unlikely to change its class. A
pass shows one view to the models of one fold. The mean of the scores after m of M passes is a sample's from a finite
population: it differs from the mean of all by a standard deviation in proportion to sqrt(1/m - 1/M) (Cochran 1977,
"Sampling Techniques", section 2.6). So a photo leaves when its margin, the best score less the second best, exceeds a
threshold times that. The threshold is chosen on photos that all passes were made for, which also give the number of
classes that it changes; no label is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.oof import Logits
from folds.errors import MaskensError
from folds.labels import AGES, GENDERS, MASKS, IntArray

SLACK = 1e-9  # by which a bound must be exceeded: more than rounding can do to a score
DECIDED = -1


def upper_bounds(
    ensembles: Sequence[Ensemble], logits: Sequence[Mapping[str, Logits]], fitted: DecisionParams
) -> npt.NDArray[np.float64]:
    """Upper bounds of the scores on which the joint decision rests, float64 (photos, 18); exact where all predicted.
    Logits are of each run task -> float32 (folds, views, photos, width), NaN where a photo was not shown."""
    scores = [e.scores(found, missing=0.0) for e, found in zip(ensembles, logits, strict=True)]
    return np.asarray(np.average(scores, axis=0, weights=fitted.weights) + np.array(fitted.offsets))


def gender_to_evaluate(scores: npt.NDArray[np.float64], evaluated: npt.NDArray[np.bool_]) -> IntArray:
    """The gender whose age models are to be evaluated next, int64 (photos,); DECIDED where none can change the class.
    Comes from `upper_bounds` and whether the age models of each gender predicted, bool (photos, 2)."""
    best = scores.reshape(-1, len(MASKS), len(GENDERS), len(AGES)).max(axis=(1, 3))  # (photos, gender)
    known = np.where(evaluated, best, -np.inf).max(axis=1)
    could = np.where(evaluated, -np.inf, best)
    needed = could.max(axis=1) >= known - SLACK
    return np.where(needed & ~evaluated.all(axis=1), could.argmax(axis=1), DECIDED).astype(np.int64)


@dataclass(frozen=True)
class Budget:
    """A limit of an inference: the fraction of its forward passes, or seconds for a photo."""

    fraction: float | None = None  # of the passes, above 0 and below 1
    seconds: float | None = None  # a photo, on average

    def __str__(self) -> str:
        return f"{self.fraction:g} of the passes" if self.fraction else f"{self.seconds:g} seconds a photo"

    @property
    def option(self) -> str:
        """As it is typed."""
        return f"--max-passes {self.fraction:g}" if self.fraction else f"--max-seconds-per-photo {self.seconds:g}"


def choose_budget(max_passes: str | float, max_seconds: float | None) -> Budget | None:
    """The budget that two options name; None makes all passes. Raises MaskensError: both are given, or a number that is
    no budget."""
    if max_seconds is not None and not 0 < max_seconds < float("inf"):
        raise MaskensError(f"--max-seconds-per-photo {max_seconds:g}: give a number above 0, like 0.2.")
    if max_passes == "all":
        return None if max_seconds is None else Budget(seconds=max_seconds)
    try:
        fraction = float(max_passes)
    except ValueError:
        fraction = float("nan")
    if not 0 < fraction < 1:
        raise MaskensError(f"--max-passes {max_passes}: give all, or a fraction of the forward passes like 0.5.")
    if max_seconds is not None:
        raise MaskensError("--max-passes and --max-seconds-per-photo exclude each other.")
    return Budget(fraction=fraction)


@dataclass(frozen=True)
class AnytimeRule:
    """When photos leave, and the effect on the photos that it was chosen on."""

    threshold: float
    changed: int  # of the photos: classes that differ from those after all passes
    photos: int

    @property
    def changed_at_most(self) -> float:
        """Upper end of the 95 % interval of the fraction of changed classes (Clopper and Pearson 1934)."""
        if self.changed == self.photos:
            return 1.0
        return float(betaincinv(self.changed + 1, self.photos - self.changed, 0.975))

    def __str__(self) -> str:
        changed = self.changed / self.photos
        return f"changes {changed:.1%} of the classes (at most {self.changed_at_most:.1%}), of {self.photos} photos"


def pass_order(folds: int, views: int) -> list[tuple[int, int]]:
    """(fold, view) of each pass. A view is shown to all folds before the next, as the models of two folds differ more
    than two views of one."""
    return [(fold, view) for view in range(views) for fold in range(folds)]


def scores_after_passes(ensemble: Ensemble, logits: Mapping[str, Logits]) -> npt.NDArray[np.float64]:
    """Scores of photos after each of all passes, float64 (passes, photos, 18), from task -> float32 (folds, views,
    photos, width)."""
    folds, views = next(iter(logits.values())).shape[:2]
    known = {task: np.full_like(values, np.nan) for task, values in logits.items()}
    found = []
    for fold, view in pass_order(folds, views):
        for task, values in logits.items():
            known[task][fold, view] = values[fold, view]
        found.append(ensemble.scores(known))
    return np.stack(found)


def margins(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The best score less the second best: float (..., 18) -> float64 (...)."""
    two = np.partition(scores, -2, axis=-1)
    return np.asarray(two[..., -1] - two[..., -2])


def leaves(margin: npt.NDArray[np.float64], done: int, passes: int, threshold: float) -> npt.NDArray[np.bool_]:
    """Whether photos with these margins leave after so many passes."""
    return np.asarray(margin > threshold * np.sqrt(1 / done - 1 / passes))


def passes_needed(margin: npt.NDArray[np.float64], threshold: float) -> IntArray:
    """After how many passes each photo leaves, int64 (photos,), from its margins after each, float (passes, photos)."""
    passes = len(margin)
    left = np.stack([leaves(margin[done - 1], done, passes, threshold) for done in range(1, passes)] + [margin[0] > -1])
    return np.asarray(left.argmax(axis=0) + 1, dtype=np.int64)


def choose_rule(scores: npt.NDArray[np.float64], fraction: float) -> AnytimeRule:
    """The rule with the highest threshold that makes no more than a fraction of the passes.

    Args:
        scores: float (passes, photos, 18), after each pass, of photos that all passes were made for.
        fraction: of the passes, at least that of the first.
    """
    margin, best = margins(scores), scores.argmax(axis=-1)
    passes, photos = margin.shape
    low, high = 0.0, float(margin.max()) * 2 * passes + 1
    for _ in range(60):  # bisection
        middle = (low + high) / 2
        low, high = (middle, high) if passes_needed(margin, middle).mean() <= fraction * passes else (low, middle)
    made = passes_needed(margin, low)
    changed = int((best[made - 1, np.arange(photos)] != best[-1]).sum())
    return AnytimeRule(low, changed, photos)
