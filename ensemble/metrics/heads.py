"""What each head's logits mean: log probabilities and decisions of its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from ensemble.recipes.tasks import WIDTHS, Head
from folds.data.labels import AnyFloatArray, IntArray


def head_log_probabilities(logits: AnyFloatArray, head: Head) -> npt.NDArray[np.float64]:
    """Log probability of each label of a head; where ages were trained in finer bins, their probabilities add up.

    Args:
        logits: float (photos, width of the task).

    Returns:
        float64 (photos, labels): 3, 2, 3 or 18 of them.
    """
    part = np.asarray(log_softmax(np.asarray(logits, dtype=np.float64)[:, head.columns], axis=1))
    merge = np.array(head.merge)
    if len(merge) == WIDTHS[head.part]:
        return part
    return np.stack([logsumexp(part[:, merge == label], axis=1) for label in range(WIDTHS[head.part])], axis=1)


def head_decisions(logits: AnyFloatArray, heads: Sequence[Head]) -> list[IntArray]:
    """The most probable label of each head of one task, each int64 (photos,)."""
    return [head_log_probabilities(logits, h).argmax(axis=1).astype(np.int64) for h in heads]
