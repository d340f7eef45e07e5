"""Logits of each kind of head as logits of bins: `ensemble.metrics.heads` in torch, with a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.metrics.heads import CENTRE, LOG_SCALES, UNIT
from ensemble.recipes.tasks import Head


def head_to_bin_logits(logits: Tensor, head: Head) -> Tensor:
    """float (photos, logits of the head) -> float (photos, bins), whose softmax are the probabilities."""
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
    """`head_to_bin_logits` of all heads of a task: float (photos, width) -> float (photos, bins of all heads)."""
    if all(head.kind == "softmax" for head in heads):
        return logits
    return torch.cat([head_to_bin_logits(logits[:, head.columns], head) for head in heads], dim=1)
