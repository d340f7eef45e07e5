"""Targets of a photo: for each head a distribution over its bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.recipes.tasks import Target, class_labels
from folds.data.labels import CLASSES
from folds.data.people import OLDEST


def target_tables(target: Target, sigma: float = 0.0) -> list[Tensor]:
    """Of each head, label -> distribution over its bins: float32 (labels, bins).

    Args:
        sigma: 0 for certain targets, whose labels are bins; above it ages spread (`age_distribution`), and labels are
            those of `training_labels` in whole years.
    """
    tables = []
    for head in target.heads:
        table = torch.eye(len(head.merge))
        if sigma and head.part in ("age", "class"):
            ages = age_distribution(target.cuts, sigma)
            table = torch.kron(torch.eye(table.shape[1] // ages.shape[1], dtype=ages.dtype), ages).float()
        tables.append(table)
    return tables


def age_distribution(cuts: Sequence[int], sigma: float) -> Tensor:
    """A normal distribution around each age, integrated over the bins: label distribution learning (Gao et al. 2017,
    "Deep Label Distribution Learning with Label Ambiguity").

    Who is 30 is between 30.0 and 31.0 years old, so the middle is 30.5, and an age at a cut is above it.

    Args:
        cuts: ages in whole years at which bins begin.
        sigma: standard deviation in years, above 0.

    Returns:
        float64 (OLDEST + 1, bins): a row for each age in whole years, summing to 1.
    """
    middle = torch.arange(OLDEST + 1, dtype=torch.float64)[:, None] + 0.5
    below = torch.special.ndtr((torch.tensor(cuts, dtype=torch.float64) - middle) / sigma)
    edges = torch.cat([torch.zeros_like(middle), below, torch.ones_like(middle)], dim=1)
    return edges.diff(dim=1)


def soft_targets(labels: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """The targets of a batch: int64 (batch, heads) -> float32 (batch, bins of all heads).

    Args:
        tables: of `target_tables`.
    """
    return torch.cat([table[labels[:, i]] for i, table in enumerate(tables)], dim=1)


def class_table(target: Target) -> Tensor:
    """Probabilities of the 18 classes, multiplied by it, become those of each head: float32 (18, bins of all heads).

    Bins have to be the three bands.
    """
    labels = torch.from_numpy(class_labels(target, np.arange(CLASSES)))
    return soft_targets(labels, target_tables(target))


def bin_counts(labels: Tensor, tables: Sequence[Tensor]) -> list[Tensor]:
    """How many of the photos belong to each bin of each head: float32 (bins,), fractions where targets are spread.

    Args:
        labels: int64 (photos, heads).
    """
    counts = [torch.bincount(labels[:, i], minlength=len(table)).double() for i, table in enumerate(tables)]
    return [(count @ table.double()).float() for count, table in zip(counts, tables, strict=True)]
