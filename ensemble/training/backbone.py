"""All of a model but its new classifier, which may wait until that has found its feet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Backbone:
    """What keeps still while only the classifier learns (Kumar et al. 2022, "Fine-tuning can distort pretrained
    features": a random classifier's first gradients would spoil the features that it is to build on)."""

    weights: tuple[nn.Parameter, ...]
    norms: tuple[nn.Module, ...]  # batch norms, whose running statistics keep still too

    def freeze(self, frozen: bool) -> None:
        """Let it keep still or learn; of a model in train mode, which undoes it for the norms."""
        for weight in self.weights:
            weight.requires_grad_(not frozen)
        for norm in self.norms:
            norm.train(not frozen)


def backbone(model: nn.Module) -> Backbone:
    """The part of a timm model that is no classifier, as far as it learns at all.

    Raises:
        ValueError: timm doesn't say which layer of it is the classifier.
    """
    config: Any = getattr(model, "pretrained_cfg", {})
    named = config.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((named,) if isinstance(named, str) else named))
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    weights = [weight for name, weight in parameters.items() if not name.startswith(heads)]
    if len(weights) in (0, len(parameters)):
        raise ValueError("timm doesn't say which layer of this model is the classifier")
    norms = [m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and not f"{name}.".startswith(heads)]
    return Backbone(tuple(weights), tuple(norms))
