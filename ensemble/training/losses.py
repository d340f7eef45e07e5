"""Losses of a task: a weighted sum of terms, added over its heads. Targets may be soft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.recipes.schema import Loss
from ensemble.recipes.tasks import Head

EPSILON = 1e-7


def soft_macro_f1(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - macro F1 with probabilities in place of counts, over one batch.

    Precision and recall of each class are formed from sums of probabilities, so the value has a gradient;
    a class that the batch lacks counts as F1 = 0.

    Args:
        logits: float (batch, classes).
        targets: float (batch, classes), rows summing to 1.

    Returns:
        float scalar in 0..1.
    """
    probabilities = logits.softmax(dim=1)
    true_positive = (targets * probabilities).sum(dim=0)
    precision = true_positive / (probabilities.sum(dim=0) + EPSILON)
    recall = true_positive / (targets.sum(dim=0) + EPSILON)
    f1 = 2 * precision * recall / (precision + recall + EPSILON)
    return 1 - f1.clamp(EPSILON, 1 - EPSILON).mean()


def focal(logits: Tensor, targets: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy whose terms shrink by (1 - p)^gamma where the model is sure already (Lin et al. 2017).

    Args:
        logits: float (batch, classes).
        targets: float (batch, classes), rows summing to 1.
        gamma: 0 gives plain cross-entropy.
        weights: float (classes,), of each class.

    Returns:
        float scalar, mean over the batch.
    """
    log_p = logits.log_softmax(dim=1)
    terms = targets * (1 - log_p.exp()).clamp(min=EPSILON) ** gamma * -log_p
    return (terms if weights is None else terms * weights).sum(dim=1).mean()


@dataclass(frozen=True)
class HeadBatch:
    """One head's share of a batch."""

    logits: Tensor  # float32 (batch, classes)
    targets: Tensor  # float (batch, classes), rows summing to 1
    smooth: Tensor  # the same with label smoothing
    weights: Tensor | None  # float (classes,), of each class, 1 on average
    gamma: float


TERMS: dict[str, Callable[[HeadBatch], Tensor]] = {
    "ce": lambda b: F.cross_entropy(b.logits, b.smooth, b.weights),
    "focal": lambda b: focal(b.logits, b.smooth, b.gamma, b.weights),
    "f1": lambda b: soft_macro_f1(b.logits, b.targets),
}
"""The terms of a loss; each has a weight of the same name in `ensemble.recipes.schema.Loss`."""


def task_loss(mix: Loss, heads: Sequence[Head], logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of a batch.

    Label smoothing and class weights go into cross-entropy and focal loss; soft F1 has neither.

    Args:
        mix: weights of the terms.
        heads: where each head's logits lie.
        logits: float (batch, width).
        targets: float (batch, width): for each head a distribution over its classes (one-hot if certain).

    Returns:
        float scalar.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    weights = torch.tensor(mix.class_weights, device=logits.device) if mix.class_weights else None
    if weights is not None:
        weights = weights / weights.mean()  # so that they leave the loss's size, and its share in the mix, alone
    for head in heads:
        truth = targets[:, head.columns]
        smooth = truth * (1 - mix.label_smoothing) + mix.label_smoothing / head.width
        batch = HeadBatch(logits[:, head.columns].float(), truth, smooth, weights, mix.gamma)
        for name, term in TERMS.items():
            if weight := getattr(mix, name):
                total = total + weight * term(batch)
    return total


def one_hot(labels: Tensor, heads: Sequence[Head]) -> Tensor:
    """Certain targets: int64 (batch, heads) -> float32 (batch, width)."""
    return torch.cat([F.one_hot(labels[:, i], h.width) for i, h in enumerate(heads)], dim=1).float()
