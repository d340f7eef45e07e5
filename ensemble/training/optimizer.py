"""Optimizer, learning-rate schedule, frozen backbone, decay of averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ensemble.recipes.schema import Optimizer, Schedule

WAYS_TO_UPDATE = {"fused", "foreach", "capturable", "differentiable"}  # arguments of torch's optimizers


def backbone_freezer(model: nn.Module) -> Callable[[bool], None]:
    """A function that freezes (True) or unfreezes all of a timm model in train mode but its classifier: weights that
    train, and batch norms with their running statistics (Kumar et al. 2022, "Fine-tuning can distort pretrained
    features and underperform out-of-distribution"). Raises ValueError: timm doesn't name its classifier."""
    config: Any = getattr(model, "pretrained_cfg", {})
    named = config.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((named,) if isinstance(named, str) else named))
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    weights = [weight for name, weight in parameters.items() if not name.startswith(heads)]
    if len(weights) in (0, len(parameters)):
        raise ValueError("head_epochs: timm doesn't name the classifier of this model")
    norms = [m for name, m in norms_of(model, trained=True) if not f"{name}.".startswith(heads)]

    def freeze(frozen: bool) -> None:
        for weight in weights:
            weight.requires_grad_(not frozen)
        for norm in norms:
            norm.train(not frozen)

    return freeze


def freeze_stages(model: nn.Module, stages: int) -> list[_BatchNorm]:
    """Freeze a timm model's stem and its first so many stages, in timm's coarse grouping; returns their batch norms,
    which have to stay in eval mode. Raises ValueError: timm doesn't know so many stages of this model, or no other one
    would be trained."""
    matcher: Any = getattr(model, "group_matcher", None)
    stage_of = group_parameters(model, matcher(coarse=True), reverse=True) if matcher else {}
    most = max(stage_of.values(), default=2) - 2  # the last group is the classifier
    if stages > most:
        raise ValueError(f"frozen_stages: at most {most} stages of this model can be frozen")
    for name, weight in model.named_parameters():
        weight.requires_grad_(stage_of[name] > stages)
    return [norm for _, norm in norms_of(model, trained=False)]


def norms_of(model: nn.Module, trained: bool) -> list[tuple[str, _BatchNorm]]:
    """The batch norms whose weights are trained, or those whose are not, by name."""
    found = ((name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm))
    return [(name, m) for name, m in found if any(w.requires_grad for w in m.parameters()) == trained]


def make_optimizer(model: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """A timm optimizer by name, fused where that is possible: one kernel updates all weights.

    `args` of the recipe that choose another way of updating (`fused`, `foreach` and their like) win. `layer_decay` is
    timm's (Clark et al. 2020, "ELECTRA"; Bao et al. 2022, "BEiT"): groups carry the scale as `lr_scale`. Raises
    ValueError, TypeError: unknown name or argument, or a model whose layers timm does not know."""
    layers = {"layer_decay": recipe.layer_decay} if recipe.layer_decay < 1 else {}

    def build(**more: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=recipe.name,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            filter_bias_and_bn=not recipe.decay_all,
            **layers,
            **recipe.args,
            **more,
        )
        if layers and len({group["lr_scale"] for group in made.param_groups}) == 1:
            raise ValueError("layer_decay has no effect: timm does not know the layers of this model")
        return made

    if not recipe.args.keys() & WAYS_TO_UPDATE:
        with contextlib.suppress(TypeError, RuntimeError):  # not every optimizer can, nor every device
            return build(fused=True)
    return build()


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Schedule, epochs: int, updates: int
) -> Callable[[int, int], float]:
    """A function of (epoch, update within it), both from 0, that sets the rate of all groups and returns the base rate.

    A group with an `lr_scale` gets that fraction of the rate, floor included. Rates have a closed form and no state, so
    that a job that resumes anywhere has the same ones. `cosine` is that of timm's CosineLRScheduler, per update, with a
    linear warm-up; `cosine_warm_restarts` that of torch's scheduler of that name (Loshchilov & Hutter 2017), per epoch.

    Args:
        updates: optimizer steps in an epoch.
    """
    base = float(optimizer.defaults["lr"])

    def cosine(low: float, progress: float) -> float:
        return low + (base - low) * (1 + math.cos(math.pi * progress)) / 2

    def learning_rate(epoch: int, update: int) -> float:
        if recipe.name == "cosine":
            done, warmup = epoch * updates + update, round(recipe.warmup_epochs * updates)
            if done < warmup:
                return recipe.lr_min + (base - recipe.lr_min) * done / warmup
            return cosine(recipe.lr_min, min(1.0, done / (epochs * updates)))
        if recipe.name == "cosine_warm_restarts":
            left, cycle = epoch, recipe.T_0
            while left >= cycle:
                left, cycle = left - cycle, cycle * recipe.T_mult
            return cosine(recipe.eta_min, left / cycle)
        return base

    def set_lr(epoch: int, update: int) -> float:
        rate = learning_rate(epoch, update)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    return set_lr


def ema_decay(decay: float, update: int) -> float:
    """The decay with which the weights after an update, from 1, go into the running mean; `decay` is the recipe's, 0 to
    1.

    It is corrected for the start as Adam's moments are (Kingma & Ba 2015): the mean holds the weights of all updates so
    far in the proportions 1, decay, decay^2, ... from the last one back, and never the initial ones."""
    return decay * (1 - decay ** (update - 1)) / (1 - decay**update)


def describe_ema(decay: float, updates: int) -> str:
    """Over how much of a job of so many updates the running mean reaches."""
    return (
        f"averages over about the last {min(1 / (1 - decay), updates):,.0f} of {updates:,} updates "
        f"(effective decay {ema_decay(decay, updates):.5g} at the end)"
    )
