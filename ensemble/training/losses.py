"""Targets of a task, which may be soft, and its loss: a weighted sum of terms over its heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.models.heads import head_to_bin_logits
from ensemble.recipes.schema import Loss
from ensemble.recipes.tasks import Head, OutputSpec, class_labels
from folds.labels import CLASSES, OLDEST, UNKNOWN


def target_tables(output_spec: OutputSpec, sigma: float = 0.0) -> list[Tensor]:
    """Of each head, label -> distribution over its bins: float32 (labels + 1, bins). The last row, to which UNKNOWN
    leads, is 0. With `sigma` 0 it is one-hot, and labels are bins; else labels of ages are whole years, spread by
    `age_distribution`."""
    tables = []
    for head in output_spec.heads:
        table = torch.eye(len(head.bin_labels))
        if sigma and head.part in ("age", "class"):
            ages = age_distribution(output_spec.cuts, sigma)
            table = torch.kron(torch.eye(table.shape[1] // ages.shape[1], dtype=ages.dtype), ages).float()
        tables.append(torch.cat([table, torch.zeros(1, table.shape[1])]))
    return tables


def age_distribution(cuts: Sequence[int], sigma: float) -> Tensor:
    """A normal distribution around each age, integrated over the bins that begin at the cuts, of a standard deviation
    in years above 0: label distribution learning (Gao et al. 2017, "Deep Label Distribution Learning with Label
    Ambiguity"). float64 (OLDEST + 1, bins), a row for each age in whole years, summing to 1.

    Who is 30 is between 30.0 and 31.0 years old, so the middle is 30.5, and an age at a cut is above it."""
    middle = torch.arange(OLDEST + 1, dtype=torch.float64)[:, None] + 0.5
    below = torch.special.ndtr((torch.tensor(cuts, dtype=torch.float64) - middle) / sigma)
    edges = torch.cat([torch.zeros_like(middle), below, torch.ones_like(middle)], dim=1)
    return edges.diff(dim=1)


def label_targets(labels: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """The targets of a batch by `target_tables`: int64 (batch, heads) -> float32 (batch, bins of all heads)."""
    return torch.cat([table[labels[:, i]] for i, table in enumerate(tables)], dim=1)


def class_table(output_spec: OutputSpec) -> Tensor:
    """float32 (18, bins of all heads): probabilities of the 18 classes times it are those of each head, whose bins of
    age are the three bands."""
    labels = torch.from_numpy(class_labels(output_spec, np.arange(CLASSES)))
    return label_targets(labels, target_tables(output_spec))


def bin_counts(labels: Tensor, tables: Sequence[Tensor]) -> list[Tensor]:
    """Photos in each bin of each head: int64 (photos, heads) -> of each head float32 (bins,), fractions where targets
    are spread."""
    known = [column[column != UNKNOWN] for column in labels.T]
    counts = [torch.bincount(c, minlength=len(table)).double() for c, table in zip(known, tables, strict=True)]
    return [(count @ table.double()).float() for count, table in zip(counts, tables, strict=True)]


EPSILON = 1e-7


def soft_macro_f1(logits: Tensor, targets: Tensor, known: Tensor | None = None) -> Tensor:
    """1 - macro F1 with probabilities in place of counts, over one batch. A class that the batch lacks counts as F1 =
    0. Logits and targets are float (batch, classes); targets sum to 1, or to `known`, float (batch,), how much each
    photo counts."""
    probabilities = logits.softmax(dim=1)
    if known is not None:
        probabilities = probabilities * known[:, None]
    true_positive = (targets * probabilities).sum(dim=0)
    precision = true_positive / (probabilities.sum(dim=0) + EPSILON)
    recall = true_positive / (targets.sum(dim=0) + EPSILON)
    f1 = 2 * precision * recall / (precision + recall + EPSILON)
    return 1 - f1.clamp(EPSILON, 1 - EPSILON).mean()


def focal(logits: Tensor, targets: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor:
    """Of each photo, float (batch,), the cross-entropy whose terms shrink by (1 - p)^gamma where the model is sure
    already (Lin et al. 2017). Logits and targets are float (batch, classes), targets sum to 1 or less; weights are
    float (classes,)."""
    log_p = logits.log_softmax(dim=1)
    terms = targets * (1 - log_p.exp()).clamp(min=EPSILON) ** gamma * -log_p
    return (terms if weights is None else terms * weights).sum(dim=1)


def task_loss(
    mix: Loss,
    heads: Sequence[Head],
    logits: Tensor,
    targets: Tensor,
    counts: Sequence[Tensor] = (),
    log_variances: Tensor | None = None,
    partial: bool = False,
) -> Tensor:
    """The loss of a batch: a float scalar.

    Label smoothing and class weights go into cross-entropy and focal loss, not into soft F1. Cross-entropy of an
    ordinal head is CORN's: its binary cross-entropies on the conditional subsets sum to -log p of the bin.

    Args:
        mix: weights of the terms.
        heads: where each head's logits and targets lie.
        logits: float (batch, width).
        targets: float (batch, bins of all heads): for each head a distribution over its classes (one-hot if certain).
        counts: of each head, float (bins,), training photos of each bin; without them there is neither logit
            adjustment nor class balancing, as in validation.
        log_variances: float (heads,), by which heads are weighed: exp(-s) of the head's loss, plus s/2 so that no
            weight vanishes (Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses").
        partial: targets of a head may sum to less than 1, where a label is unknown or was mixed with an unknown one. A
            photo counts for a head by that sum, and the head's loss is the mean over what is known.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    for i, head in enumerate(heads):
        share = mix.heads[head.part].weight if head.part in mix.heads else 1.0
        certainty = 1.0 if log_variances is None else torch.exp(-log_variances[i])
        for weight, term in _terms(mix.of(head.part), head, logits, targets, counts[i] if counts else None, partial):
            total = total + weight * share * certainty * term
        if log_variances is not None:
            total = total + log_variances[i] / 2
    return total


def _terms(
    own: Loss, head: Head, logits: Tensor, targets: Tensor, counts: Tensor | None, partial: bool
) -> Iterator[tuple[float, Tensor]]:
    """(weight, value) of each term of a head's loss."""
    truth = targets[:, head.bins]
    known = truth.sum(dim=1) if partial else None

    def mean(photos: Tensor) -> Tensor:
        return photos.mean() if known is None else photos.sum() / known.sum().clamp(min=EPSILON)

    uniform = own.label_smoothing / len(head.bin_labels)
    smooth = truth * (1 - own.label_smoothing) + (uniform if known is None else uniform * known[:, None])
    found = adjusted = head_to_bin_logits(logits[:, head.columns].float(), head)
    weights = None
    if own.class_weights:
        weights = torch.tensor(own.class_weights, device=logits.device)
        weights = weights / weights.mean()  # so that the size of the loss stays
    if counts is not None and (own.class_balanced or own.logit_adjustment):
        # labels are scored, so labels are evened out, and the bins of one keep their proportions
        of_bin = torch.tensor(head.bin_labels, device=counts.device)
        labels = counts.new_zeros(max(head.bin_labels) + 1).index_add(0, of_bin, counts)
        seen = labels.clamp(min=1)
        if own.class_balanced:
            # Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples"; 1 on average over the photos
            weights = (1 - own.class_balanced) / (1 - own.class_balanced**seen)
            weights = (weights * labels.sum() / (weights * labels).sum())[list(head.bin_labels)]
        if own.logit_adjustment:
            # Menon et al. 2021, "Long-tail learning via logit adjustment"
            adjusted = found + own.logit_adjustment * (seen / seen.sum()).log()[list(head.bin_labels)]
    if own.ce:
        reduction = "mean" if known is None else "none"
        yield own.ce, mean(F.cross_entropy(adjusted, smooth, weights, reduction=reduction))
    if own.focal:
        yield own.focal, mean(focal(found, smooth, own.gamma, weights))
    if own.f1:
        yield own.f1, soft_macro_f1(found, truth, known)
