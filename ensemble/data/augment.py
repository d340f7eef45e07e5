"""Random augmentation: albumentations by name, with randomness that depends on the photo and epoch alone."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else every import asks the network for news
import albumentations as A

from ensemble.recipes.schema import Entry, SomeOf, Transform, transforms_in
from folds.errors import did_you_mean
from folds.photos import Pixels

NOT_OURS = ("Normalize", "ToFloat", "FromFloat", "ToTensorV2", "ToTensor3D")


class Augment:
    """A chain of transforms that draws from (seed, epoch, photo), never from a global stream.

    albumentations seeds one stream per process, so that a run depends on the number of workers; here each photo is
    reseeded. The transforms of a chain share a stream, as those that are seeded alike would move together.
    """

    def __init__(self, augment: Sequence[Entry]) -> None:
        chain = [
            A.SomeOf([build(t) for t in entry.transforms], n=entry.some_of, p=entry.p)
            if isinstance(entry, SomeOf)
            else build(entry)
            for entry in augment
        ]
        self.chain = A.Compose(chain, strict=True) if chain else None

    def __call__(self, photo: Pixels, key: Sequence[int]) -> Pixels:
        """uint8 (h, w, 3), not changed -> uint8 (h, w, 3), by a key of non-negative integers, e.g. (seed, task, fold,
        epoch, photo)."""
        if self.chain is None:
            return photo
        # as SeedSequence(key).spawn(2) would give, in two thirds of the time: this is done for each photo
        for_numpy, for_python = (np.random.SeedSequence(list(key), spawn_key=(child,)) for child in (0, 1))
        self.chain.set_random_state(
            np.random.default_rng(for_numpy), random.Random(int(for_python.generate_state(1)[0]))
        )
        return np.asarray(self.chain(image=photo)["image"])


def build(transform: Transform) -> Any:
    """The albumentations object of a recipe's transform. Raises ValueError: unknown name, or an argument it does not
    take (albumentations itself only warns)."""
    name = transform.name
    if name in NOT_OURS:
        raise ValueError(f"{name} is not for recipes: photos are normalised as the model expects")
    kind = getattr(A, name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        known = [n for n in dir(A) if isinstance(getattr(A, n), type) and issubclass(getattr(A, n), A.BasicTransform)]
        raise ValueError(f"albumentations has no transform '{name}'{did_you_mean(name, known)}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return kind(**transform.args)
        except (Warning, TypeError, ValueError) as error:
            raise ValueError(f"{name}: {_short(error)}") from error


def faults(augment: Sequence[Entry], size: tuple[int, int]) -> list[str]:
    """What is wrong with a recipe's transforms for photos of `size` (height, width)."""
    found = []
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for path, transform in transforms_in(augment):
        try:
            build(transform)
            for draw in range(8):  # some change the size only now and then
                result = Augment([always(transform)])(photo, (draw,))
                if result.shape != photo.shape or result.dtype != np.uint8:
                    change = f"uint8 {photo.shape} into {result.dtype} {result.shape}"
                    raise ValueError(f"{transform.name} turns {change}; size and type must stay")
        except Exception as error:  # a transform may object to anything, in any way
            found.append(f"augment.{path}: {_short(error)}")
    return found


def always(transform: Transform) -> Transform:
    """The transform with p = 1."""
    return transform.model_copy(update={"args": transform.args | {"p": 1.0}})


def _short(error: Exception) -> str:
    """Pydantic's multi-line message on one line."""
    return " ".join(line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line)
