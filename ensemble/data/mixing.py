"""Mixing the photos of a batch with one another, and their targets in the same shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from ensemble.recipes.schema import Mix


def mix_batch(recipe: Mix, x: Tensor, targets: Tensor, key: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), both timm's, or CutMix by halves of a face.

    Photo i is mixed with photo n-1-i. `half_face` takes the left or the right half of the partner's photo,
    so that the cut runs along the nose of a centred face.

    Args:
        x: float (batch, 3, height, width) with an even batch; may be changed in place.
        targets: float (batch, width), for each head a distribution.
        key: non-negative integers that the randomness depends on, e.g. (seed, epoch, batch).

    Returns:
        (x, targets) mixed; as they were if the recipe mixes nothing.
    """
    if not recipe.active:
        return x, targets
    rng = np.random.default_rng(list(key))
    if recipe.half_face:
        return _half_face(x, targets, rng) if rng.random() < recipe.prob else (x, targets)
    before = np.random.get_state()
    np.random.seed(int(rng.integers(2**32)))  # timm draws from the global stream
    mixup = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.prob, label_smoothing=0.0, num_classes=len(x))
    # one class a photo, so that timm's soft targets are the mixing weights
    mixed, shares = mixup(x, torch.arange(len(x), device=x.device))
    np.random.set_state(before)
    return mixed, shares.to(targets.dtype) @ targets


def _half_face(x: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    width = x.shape[3]
    half = width // 2
    columns = slice(0, half) if rng.random() < 0.5 else slice(width - half, width)
    mixed = x.clone()
    mixed[..., columns] = x.flip(0)[..., columns]
    share = half / width
    return mixed, targets * (1 - share) + targets.flip(0) * share
