"""Batches of photos for training, mixed with one another, and for prediction; independent of the number of workers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from timm.data import Mixup
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torch.utils.data import Sampler as TorchSampler

from ensemble.data.cache import DecodedPhotos, PhotoBatch
from ensemble.data.drawn_masks import DrawMasks, TargetArray
from ensemble.jobs.spec import JobSpec, training_rows
from ensemble.recipes.schema import Mix, Sampler
from folds.errors import MaskensError
from folds.labels import SHOTS, IntArray, age_band, decode
from folds.people import SKIP_ADVICE, TrainData
from folds.photos import Pixels

if TYPE_CHECKING:
    from ensemble.data.augment import Augment  # imports albumentations, which prediction does without

NO_MORE: tuple[IntArray, IntArray] = np.empty(0, np.int64), np.empty(0, np.int64)

Key = tuple[int, int, int]  # (epoch, index, times it came before); workers outlive an epoch, so it travels along


@dataclass(frozen=True)
class EpochPhotos:
    """Draws the photos of an epoch. All arrays are int64 (photos,), one entry for each training photo."""

    rows: IntArray  # index of the photo in the data
    person: IntArray  # equal for photos of one person
    group: IntArray  # what balanced sampling evens out: the class, the state of the mask or the age bin
    recipe: Sampler
    extra: npt.NDArray[np.bool_] | None = None  # (photos,), True for extra photos; None: there are none

    @property
    def pool(self) -> int:
        """How many photos an epoch chooses from; an extra photo counts as `extra` of the recipe."""
        extra = np.zeros(len(self.rows), dtype=np.bool_) if self.extra is None else self.extra
        return self._drawn(~extra) + round(self.recipe.extra * self._drawn(extra))

    def _drawn(self, some: npt.NDArray[np.bool_]) -> int:
        """How many of these are left with at most `photos_per_person` of each person."""
        if self.recipe.photos_per_person == len(SHOTS):  # all, of people with two folders too
            return int(some.sum())
        counts = np.unique(self.person[some], return_counts=True)[1]
        return int(np.minimum(counts, self.recipe.photos_per_person).sum())

    def __len__(self) -> int:
        return max(2, round(self.recipe.fraction * self.pool))

    def draw(self, rng: np.random.Generator) -> IntArray:
        """int64 (len(self),): rows, in the order in which they are trained on.

        Balanced, photos are drawn with replacement, each with a weight of (photos of its group)^-strength;
        else without, and each photo once before any comes again.
        """
        order = rng.permutation(len(self.rows))
        if self._drawn(np.ones(len(order), dtype=np.bool_)) < len(order):
            order = order[np.argsort(self.person[order], kind="stable")]
            people = self.person[order]
            starts = np.flatnonzero(np.r_[True, people[1:] != people[:-1]])
            rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
            order = rng.permutation(order[rank < self.recipe.photos_per_person])
        weights = np.ones(len(order))
        if self.extra is not None and self.recipe.extra != 1:
            if self.recipe.balance == "none":
                order = self._weigh_extra(order, rng)
            else:
                weights[self.extra[order]] = self.recipe.extra
        if self.recipe.balance == "none":
            rounds = [order] + [rng.permutation(order) for _ in range((len(self) - 1) // len(order))]
            return np.asarray(self.rows[np.concatenate(rounds)[: len(self)]])
        _, group, counts = np.unique(self.group[order], return_inverse=True, return_counts=True)
        weights *= counts[group].astype(np.float64) ** -self.recipe.strength
        return np.asarray(self.rows[rng.choice(order, size=len(self), p=weights / weights.sum())])

    def _weigh_extra(self, order: IntArray, rng: np.random.Generator) -> IntArray:
        """The photos with each extra one as often as the recipe says, drawn anew where that is no whole number."""
        assert self.extra is not None
        more = order[self.extra[order]]
        count = round(self.recipe.extra * len(more))
        rounds = [more] + [rng.permutation(more) for _ in range(count // max(1, len(more)))]
        return rng.permutation(np.concatenate([order[~self.extra[order]], np.concatenate(rounds)[:count]]))


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
    if recipe.balance == "class":
        group, theirs = data.classes, classes
    elif recipe.balance == "mask":
        group, theirs = data.labels[0], decode(classes)[0]
    else:
        group, theirs = age_band(data.years, cuts), decode(classes)[2]
    extra = np.concatenate([~data.scored[rows], np.zeros(len(beside), dtype=np.bool_)])
    others = len(data.people) + int(beside.max(initial=-1)) + 1  # a person's extra photos are drawn for themselves
    person = ids[data.photo_person][rows] + others * extra[: len(rows)]
    return EpochPhotos(
        np.concatenate([rows, len(data.files) + beside]),
        np.concatenate([person, len(data.people) + beside]),
        np.concatenate([group[rows], theirs]),
        recipe,
        extra if extra.any() else None,
    )


class EpochBatches(TorchSampler[list[Key]]):
    """Batches of one epoch in an order drawn from (seed, epoch).

    The next pass skips the first `skip` of them, which an interrupted epoch has had.

    With `drop_last` a last batch that is not full is dropped, unless it is the only one; without, only a single photo
    is, which batch norm can't train on. `even` is for mixing in pairs.
    """

    def __init__(
        self, photos: EpochPhotos, batch_size: int, seed: Sequence[int], even: bool = False, drop_last: bool = True
    ) -> None:
        most = len(photos) - len(photos) % 2 if even else len(photos)
        self.photos, self.batch_size, self.seed = photos, min(batch_size, most), tuple(seed)
        rest = most % self.batch_size
        self.photos_per_epoch = most - rest if drop_last or rest == 1 else most
        self.epoch = 0
        self.skip = 0

    def __len__(self) -> int:
        return -(-self.photos_per_epoch // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.photos.draw(np.random.default_rng([*self.seed, self.epoch])).tolist()[: self.photos_per_epoch]
        turns: Counter[int] = Counter()
        first, self.skip = self.skip * self.batch_size, 0
        for start in range(0, len(order), self.batch_size):
            batch = []
            for index in order[start : start + self.batch_size]:
                batch.append((self.epoch, index, turns[index]))
                turns[index] += 1
            if start >= first:
                yield batch


def job_batches(spec: JobSpec, data: TrainData, folds: IntArray, seed: Sequence[int] = (0,)) -> EpochBatches:
    """The batches of a job's epochs; `folds` is int64 (people,)."""
    recipe = spec.task_recipe
    more = spec.pseudo.of(spec.fold, recipe) if spec.pseudo else NO_MORE
    photos = epoch_photos(recipe.sampler, recipe.ages.cuts, data, training_rows(spec, data, folds), more)
    return EpochBatches(photos, recipe.batch_size, seed, even=recipe.mix.active, drop_last=recipe.drop_last)


TrainingPhotos = DecodedPhotos | ConcatDataset[tuple[Pixels, ...]]


@dataclass(frozen=True)
class TrainPhotos(Dataset[tuple[Tensor, Tensor]]):
    """Key -> augmented photo uint8 (h, w, 3) and its labels int64 (heads,), or its soft target float32 (18,)."""

    photos: TrainingPhotos
    labels: TargetArray
    augment: Augment
    seed: Sequence[int]
    masks: DrawMasks | None

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index, turn = key
        draw = (*self.seed, epoch, index, turn)
        photo, labels = self.photos[index][0], self.labels[index]
        if self.masks is not None:
            photo, labels = self.masks(photo, labels, index, draw)
        photo = self.augment(photo, draw)
        return torch.from_numpy(np.ascontiguousarray(photo)), torch.from_numpy(labels)


def train_loader(
    photos: TrainingPhotos,
    labels: TargetArray,
    batches: EpochBatches,
    augment: Augment,
    seed: Sequence[int],
    workers: int,
    pin: bool = False,
    masks: DrawMasks | None = None,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A source of epochs: set `batches.epoch`, then iterate over (photos uint8 (batch, h, w, 3), labels as given).

    Args:
        labels: int64 (photos, heads), or soft targets float32 (photos, 18).
        masks: draws masks before `augment`, and changes the labels with them.
    """
    return DataLoader(
        TrainPhotos(photos, labels, augment, seed, masks),
        batch_sampler=batches,
        persistent_workers=workers > 0,
        **_loading(workers, pin),
    )


@dataclass(frozen=True)
class PlainPhotos(Dataset[PhotoBatch]):
    """index -> the photo as it is, as an entry of a batch."""

    photos: DecodedPhotos

    def __getitem__(self, index: int) -> PhotoBatch:
        sizes, face = self.photos.load(index)
        return PhotoBatch(tuple(torch.from_numpy(p) for p in sizes), torch.tensor(face))


def plain_batches(
    photos: DecodedPhotos, indices: Sequence[int], batch_size: int, workers: int, pin: bool = False
) -> Iterator[PhotoBatch]:
    """The photos at `indices`, in that order. Raises MaskensError: a photo that can't be read.

    Args:
        workers: loader processes; none are started where photos come from the cache, as reading it is no work.
        pin: use memory from which a GPU copies faster.
    """
    workers = workers if photos.cached is None else 0
    loader: DataLoader[PhotoBatch] = DataLoader(
        PlainPhotos(photos), batch_size=batch_size, sampler=indices, **_loading(workers, pin)
    )
    try:
        yield from loader
    except MaskensError as error:  # from a worker it comes wrapped in that worker's traceback
        advice = f". {SKIP_ADVICE}" if photos.cached is None else ""
        raise MaskensError(str(error).rsplit("MaskensError: ", 1)[-1].strip() + advice) from None


def _loading(workers: int, pin: bool) -> dict[str, Any]:
    return {
        "num_workers": workers,
        # joblib's loky process breaks the spawn and forkserver methods; Linux's fork works inside it
        "multiprocessing_context": "fork" if workers and sys.platform == "linux" else None,
        "worker_init_fn": _one_opencv_thread,  # torch limits only its own threads in a worker
        "generator": torch.Generator(),  # else each loader takes a number from the stream that dropout draws from
        "pin_memory": pin,
    }


def _one_opencv_thread(worker: int) -> None:
    cv2.setNumThreads(0)


def mix_batch(recipe: Mix, x: Tensor, targets: Tensor, key: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), both timm's, or CutMix by halves of a face.

    Photo i is mixed with photo n-1-i. `half_face` takes the left or the right half of the partner's photo,
    so that the cut runs along the nose of a centred face.

    Args:
        x: float (batch, 3, height, width) with an even batch; may be changed in place.
        targets: float (batch, width), for each head a distribution.
        key: non-negative integers that the randomness depends on, e.g. (seed, epoch, batch).
    """
    if not recipe.active:
        return x, targets
    rng = np.random.default_rng(list(key))
    if recipe.half_face:
        if rng.random() >= recipe.prob:
            return x, targets
        width = x.shape[3]
        half = width // 2
        columns = slice(0, half) if rng.random() < 0.5 else slice(width - half, width)
        mixed = x.clone()
        mixed[..., columns] = x.flip(0)[..., columns]
        share = half / width
        return mixed, targets * (1 - share) + targets.flip(0) * share
    before = np.random.get_state()
    np.random.seed(int(rng.integers(2**32)))  # timm draws from the global stream
    mixup = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.prob, label_smoothing=0.0, num_classes=len(x))
    # one class a photo, so that timm's soft targets are the mixing weights
    mixed, shares = mixup(x, torch.arange(len(x), device=x.device))
    np.random.set_state(before)
    return mixed, shares.to(targets.dtype) @ targets
