"""What the logits of each kind of head mean, in torch: `ensemble.metrics.heads` with a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.metrics.heads import CENTRE, LOG_SCALES, UNIT
from ensemble.recipes.tasks import Head


def head_to_bin_logits(logits: Tensor, head: Head) -> Tensor:
    """Logits of a head's bins: a softmax head's as they are, of other kinds the bins' log probabilities.

    Args:
        logits: float (photos, logits of the head).

    Returns:
        float (photos, bins); their softmax are the probabilities.
    """
    if head.kind == "softmax":
        return logits
    none = torch.zeros_like(logits[:, :1])
    if head.kind == "ordinal":
        reached = torch.cat([none, F.logsigmoid(logits).cumsum(dim=1)], dim=1)
        return reached + torch.cat([F.logsigmoid(-logits), none], dim=1)
    cuts = torch.tensor(head.cuts, dtype=logits.dtype, device=logits.device)
    scale = UNIT * logits[:, 1:].clamp(*LOG_SCALES).exp()
    odds = (CENTRE + UNIT * logits[:, :1] - cuts) / scale
    inner = torch.log(-torch.expm1(-cuts.diff() / scale))
    return (
        torch.cat([none, F.logsigmoid(odds)], dim=1)
        + torch.cat([F.logsigmoid(-odds), none], dim=1)
        + torch.cat([none, inner, none], dim=1)
    )


def to_bin_logits(logits: Tensor, heads: Sequence[Head]) -> Tensor:
    """The logits of a task whose heads are all softmax over their bins, with the same probabilities.

    Args:
        logits: float (photos, width).

    Returns:
        float (photos, bins of all heads).
    """
    if all(head.kind == "softmax" for head in heads):
        return logits
    return torch.cat([head_to_bin_logits(logits[:, head.columns], head) for head in heads], dim=1)
