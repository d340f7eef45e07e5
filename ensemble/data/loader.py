"""Batches of photos for training and for prediction, the same whatever the number of workers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ensemble.data.augment import Augment
from ensemble.data.cache import DecodedPhotos
from ensemble.data.masks import DrawMasks, Taught
from ensemble.data.sampling import NO_MORE, EpochPhotos, epoch_photos
from ensemble.recipes.schema import TaskRecipe
from folds.data.decode import Pixels
from folds.data.labels import IntArray
from folds.data.people import TrainData
from folds.data.skipped import ADVICE
from folds.errors import MaskensError

Key = tuple[int, int, int]  # (epoch, index, times it came before); workers outlive an epoch, so it travels along


class TrainingPhotos(Protocol):
    """`DecodedPhotos`, or several one after the other."""

    def __getitem__(self, index: int) -> tuple[Pixels, ...]: ...


class EpochBatches(Sampler[list[Key]]):
    """Batches of one epoch in an order drawn from (seed, epoch).

    The next pass leaves out the first `skip` of them, which an interrupted epoch has had.

    With `drop_last` a last batch that is not full is left out, unless it is the only one; without, it stays but for a
    single photo, from which batch norm can't learn. `even` is for mixing in pairs.
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
        order = self.photos.draw(np.random.default_rng([*self.seed, self.epoch])).tolist()
        turns: Counter[int] = Counter()
        first, self.skip = self.skip * self.batch_size, 0
        for start in range(0, self.photos_per_epoch, self.batch_size):
            batch = []
            for index in order[start : min(start + self.batch_size, self.photos_per_epoch)]:
                batch.append((self.epoch, index, turns[index]))
                turns[index] += 1
            if start >= first:
                yield batch


def epoch_batches(
    recipe: TaskRecipe,
    data: TrainData,
    rows: IntArray,
    seed: Sequence[int],
    more: tuple[IntArray, IntArray] = NO_MORE,
) -> EpochBatches:
    """The batches of a task's epochs.

    Args:
        rows: int64 (n,), the photos to learn from.
        more: as of `epoch_photos`.
    """
    photos = epoch_photos(recipe.sampler, recipe.ages.cuts, data, rows, more)
    return EpochBatches(photos, recipe.batch_size, seed, even=recipe.mix.active, drop_last=recipe.drop_last)


class TrainPhotos(Dataset[tuple[Tensor, Tensor]]):
    """Key -> augmented photo uint8 (h, w, 3) and its labels int64 (heads,), or its soft target float32 (18,)."""

    def __init__(
        self,
        photos: TrainingPhotos,
        labels: Taught,
        augment: Augment,
        seed: Sequence[int],
        masks: DrawMasks | None = None,
    ) -> None:
        self.photos, self.labels, self.augment, self.seed, self.masks = photos, labels, augment, tuple(seed), masks

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index, turn = key
        draw = (*self.seed, epoch, index, turn)
        photo, labels = self.photos[index][0], self.labels[index]
        if self.masks is not None:
            photo, labels = self.masks(photo, labels, index, draw)
        photo = self.augment(photo, draw)
        return torch.from_numpy(np.ascontiguousarray(photo)), torch.from_numpy(labels)


class PhotoBatch(NamedTuple):
    """Photos as they are."""

    photos: tuple[Tensor, ...]  # for each geometry uint8 (batch, h, w, 3)
    faces: Tensor  # bool (batch,): False where a face was to be cut out and none was found


class PlainPhotos(Dataset[PhotoBatch]):
    """index -> the photo as it is, as an entry of a batch."""

    def __init__(self, photos: DecodedPhotos) -> None:
        self.photos = photos

    def __getitem__(self, index: int) -> PhotoBatch:
        sizes, face = self.photos.load(index)
        return PhotoBatch(tuple(torch.from_numpy(p) for p in sizes), torch.tensor(face))


def train_loader(
    photos: TrainingPhotos,
    labels: Taught,
    batches: EpochBatches,
    augment: Augment,
    seed: Sequence[int],
    workers: int,
    pin: bool = False,
    masks: DrawMasks | None = None,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A source of epochs: set `batches.epoch`, then iterate.

    Args:
        labels: int64 (photos, heads), or soft targets float32 (photos, 18).
        masks: draws masks before `augment`, and says so in the labels.

    Yields:
        (photos uint8 (batch, h, w, 3), labels (batch, heads) or (batch, 18)).
    """
    return DataLoader(
        TrainPhotos(photos, labels, augment, seed, masks),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=_context(workers),
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # else each loader takes a number from the stream that dropout draws from
        pin_memory=pin,
    )


def plain_batches(
    photos: DecodedPhotos, indices: Sequence[int], batch_size: int, workers: int, pin: bool = False
) -> Iterator[PhotoBatch]:
    """The photos at `indices`, in that order.

    Args:
        workers: loader processes; none are started where photos come from the cache, as reading it is no work.
        pin: put batches into memory from which a GPU copies faster.

    Raises:
        MaskensError: a photo that can't be read.
    """
    workers = workers if photos.cached is None else 0
    loader: DataLoader[PhotoBatch] = DataLoader(
        PlainPhotos(photos),
        batch_size=batch_size,
        sampler=indices,
        num_workers=workers,
        multiprocessing_context=_context(workers),
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # else each loader takes a number from the stream that dropout draws from
        pin_memory=pin,
    )
    try:
        yield from loader
    except MaskensError as error:  # from a worker it comes wrapped in that worker's traceback
        advice = f". {ADVICE}" if photos.cached is None else ""
        raise MaskensError(str(error).rsplit("MaskensError: ", 1)[-1].strip() + advice) from None


def _context(workers: int) -> str | None:
    # joblib's loky process breaks the spawn and forkserver methods; Linux's fork works inside it
    return "fork" if workers and sys.platform == "linux" else None


def _quiet_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # torch limits its own threads in a worker, OpenCV's it does not
