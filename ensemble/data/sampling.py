"""Which photos an epoch shows, and in what order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.recipes.schema import Sampler
from folds.data.labels import SHOTS, IntArray, age_band, decode
from folds.data.people import TrainData

NO_MORE: tuple[IntArray, IntArray] = np.empty(0, np.int64), np.empty(0, np.int64)


@dataclass(frozen=True)
class EpochPhotos:
    """Draws the photos of an epoch. All arrays are int64 (photos,), one entry for each photo to learn from."""

    rows: IntArray  # index of the photo in the data
    person: IntArray  # equal for photos of one person
    group: IntArray  # what balanced sampling evens out: the class or the age bin
    recipe: Sampler

    @property
    def pool(self) -> int:
        """How many photos an epoch chooses from."""
        if self.recipe.photos_per_person == len(SHOTS):  # all, of people with two folders too
            return len(self.rows)
        counts = np.unique(self.person, return_counts=True)[1]
        return int(np.minimum(counts, self.recipe.photos_per_person).sum())

    def __len__(self) -> int:
        return max(2, round(self.recipe.fraction * self.pool))

    def draw(self, rng: np.random.Generator) -> IntArray:
        """int64 (len(self),): rows, in the order in which they are shown.

        Balanced, photos are drawn with replacement, each with a weight of (photos of its group)^-strength;
        else without, and all of them before any comes again.
        """
        order = rng.permutation(len(self.rows))
        if self.pool < len(order):
            order = order[np.argsort(self.person[order], kind="stable")]
            people = self.person[order]
            starts = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
            rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
            order = rng.permutation(order[rank < self.recipe.photos_per_person])
        if self.recipe.balance == "none":
            rounds = [order] + [rng.permutation(order) for _ in range((len(self) - 1) // len(order))]
            return np.asarray(self.rows[np.concatenate(rounds)[: len(self)]])
        _, group, counts = np.unique(self.group[order], return_inverse=True, return_counts=True)
        weights = counts[group].astype(np.float64) ** -self.recipe.strength
        return np.asarray(self.rows[rng.choice(order, size=len(self), p=weights / weights.sum())])


def epoch_photos(
    recipe: Sampler,
    cuts: tuple[int, ...],
    data: TrainData,
    rows: IntArray,
    more: tuple[IntArray, IntArray] = NO_MORE,
) -> EpochPhotos:
    """The photos at `rows` as a recipe's sampler draws them.

    Args:
        cuts: age cuts in whole years whose bins `balance = "age"` evens out.
        more: (rows, classes 0..17) of photos beside the data, each int64 (n,): counted on from the data's, and each a
            person of its own.
    """
    ids = np.unique([p.group for p in data.people], return_inverse=True)[1]
    beside, classes = more
    by_class = recipe.balance == "class"
    group = data.classes if by_class else age_band(data.years, cuts)
    return EpochPhotos(
        np.concatenate([rows, len(data.files) + beside]),
        np.concatenate([ids[data.photo_person][rows], len(data.people) + beside]),
        np.concatenate([group[rows], classes if by_class else decode(classes)[2]]),
        recipe,
    )
