"""Which photos show one person, by clusters of their embeddings, and how far that can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics.cluster import pair_confusion_matrix

from folds.data.labels import AnyFloatArray, IntArray

PRECISION = 0.95  # of pairs, that the threshold is fitted for
WORTH = 0.9  # precision of pairs of other people, below which photos are not grouped
LARGEST = 15_000  # photos: the distances of all their pairs are in memory twice, 1.8 GB then
BLOCK = 1024  # photos whose distances are worked out at a time
TRIED = 200  # thresholds


@dataclass(frozen=True)
class PairScore:
    """Of pairs of photos: how many that are put together are of one person, and how many of one person are."""

    precision: float  # 1 where nothing is put together
    recall: float


@dataclass(frozen=True)
class Grouping:
    """A threshold of the distance within a group, and what it is worth on people that it was not fitted on."""

    threshold: float
    score: PairScore
    people: int  # that it is scored on

    @property
    def worth_it(self) -> bool:
        return self.score.precision >= WORTH and self.score.recall > 0

    @property
    def words(self) -> str:
        found = (
            f"of pairs put together {self.score.precision:.0%} show one person, of pairs of one person "
            f"{self.score.recall:.0%} are put together (on {self.people} people not used to fit the threshold, with as "
            "many false pairs as are to be expected among so many photos)"
        )
        return found if self.worth_it else f"photos are not grouped, as that is worth too little: {found}"


def pair_score(person: IntArray, group: IntArray, scale: float = 1.0, unseen: int = 0) -> PairScore:
    """Precision and recall of the pairs of photos that are in one group.

    Args:
        person: int64 (photos,), who is on them.
        group: int64 (photos,), found.
        scale: how many times as many photos are to be grouped. Each photo then has that many times the strangers to
            be mistaken for, but no more photos of its own person, so false pairs count so many times.
        unseen: false pairs to add to those that there are: that few people show none may be chance.
    """
    (_, false), (missed, true) = (pair_confusion_matrix(person, group) / 2).tolist()  # it counts a pair both ways
    together = true + scale * (false + unseen)
    return PairScore(true / together if together else 1.0, true / (true + missed) if true + missed else 0.0)


def group_photos(embeddings: AnyFloatArray, threshold: float) -> IntArray:
    """Agglomerative clustering with average linkage of cosine distances, up to a threshold.

    Args:
        embeddings: float (photos, width), of length 1; at most LARGEST photos.

    Returns:
        int64 (photos,): the group of each photo, from 0 up.
    """
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    return _cut(_tree(embeddings), threshold)


def fit_grouping(embeddings: AnyFloatArray, person: IntArray, photos: int) -> Grouping:
    """The threshold of the highest recall at a precision of at least PRECISION, fitted on half of the people and
    scored on the others; in both, the precision is that among `photos` photos, with one false pair more than was seen.

    Args:
        embeddings: float (n, width), of length 1.
        person: int64 (n,), who is on them, 0..people-1 in random order; at least four people.
        photos: that are to be grouped.
    """

    def score(chosen: npt.NDArray[np.bool_], group: IntArray) -> PairScore:
        return pair_score(person[chosen], group, photos / int(chosen.sum()), unseen=1)

    half = (int(person.max()) + 1) // 2
    fits = person < half
    tree = _tree(embeddings[fits])
    heights = np.unique(tree[:, 2])
    between = (heights[1:] + heights[:-1]) / 2  # as far as can be from changing any group
    tried = between[np.unique(np.linspace(0, len(between) - 1, TRIED).astype(int))]
    best, best_recall = 0.0, -1.0
    for threshold in tried:
        found = score(fits, _cut(tree, threshold))
        if found.precision >= PRECISION and found.recall > best_recall:
            best, best_recall = float(threshold), found.recall
    others = ~fits
    return Grouping(best, score(others, group_photos(embeddings[others], best)), int(person.max()) + 1 - half)


def _tree(embeddings: AnyFloatArray) -> AnyFloatArray:
    count, start = len(embeddings), 0
    distances = np.empty(count * (count - 1) // 2)  # condensed, as scipy wants them
    for first in range(0, count, BLOCK):
        cosines = embeddings[first : first + BLOCK] @ embeddings.T
        for row, values in enumerate(cosines, start=first):
            end = start + count - row - 1
            distances[start:end] = np.maximum(1 - values[row + 1 :], 0)
            start = end
    return np.asarray(linkage(distances, "average"), dtype=np.float64)


def _cut(tree: AnyFloatArray, threshold: float) -> IntArray:
    return np.asarray(fcluster(tree, threshold, "distance"), dtype=np.int64) - 1
