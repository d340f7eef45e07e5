"""Optimizer and learning-rate schedule of a task."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ensemble.recipes.schema import Optimizer, Schedule

SetLr = Callable[[int, int], float]
"""(epoch, update within it), both from 0 -> sets the learning rate of all groups and returns the base rate."""

WAYS_TO_UPDATE = {"fused", "foreach", "capturable", "differentiable"}  # arguments of torch's optimizers


def make_optimizer(model: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """A timm optimizer by name, fused where it knows how: one kernel updates all weights.

    `args` of the recipe that choose another way of updating (`fused`, `foreach` and their like) win. `layer_decay`
    is timm's (Clark et al. 2020, "ELECTRA"; Bao et al. 2022, "BEiT"): groups carry the scale as `lr_scale`.

    Raises:
        ValueError, TypeError: unknown name or argument, or a model whose layers timm can't tell apart.
    """
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
            raise ValueError("layer_decay has no effect: timm can't tell the layers of this model apart")
        return made

    if not recipe.args.keys() & WAYS_TO_UPDATE:
        with contextlib.suppress(TypeError, RuntimeError):  # not every optimizer knows it, nor every device
            return build(fused=True)
    return build()


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Schedule, epochs: int, updates: int) -> SetLr:
    """Sets `learning_rate` for every group. A group with an `lr_scale` gets that fraction of the rate, floor included.

    Args:
        epochs: length of the run.
        updates: optimizer steps in an epoch.
    """
    base = float(optimizer.defaults["lr"])

    def set_lr(epoch: int, update: int) -> float:
        rate = learning_rate(recipe, base, epochs, updates, epoch, update)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    return set_lr


def learning_rate(recipe: Schedule, base: float, epochs: int, updates: int, epoch: int, update: int) -> float:
    """The rate of one update, in closed form: no state, so that a job that resumes anywhere has the same rates.

    `cosine` is that of timm's CosineLRScheduler, per update, with a linear warm-up; `cosine_warm_restarts` that of
    torch's scheduler of that name (Loshchilov & Hutter 2017), per epoch.

    Args:
        base: the optimizer's rate.
        epochs: length of the run.
        updates: optimizer steps in an epoch.
        epoch: from 0.
        update: within the epoch, from 0.
    """
    if recipe.name == "cosine":
        done, warmup = epoch * updates + update, round(recipe.warmup_epochs * updates)
        if done < warmup:
            return recipe.lr_min + (base - recipe.lr_min) * done / warmup
        return _cosine(base, recipe.lr_min, min(1.0, done / (epochs * updates)))
    if recipe.name == "cosine_warm_restarts":
        left, cycle = epoch, recipe.T_0
        while left >= cycle:
            left, cycle = left - cycle, cycle * recipe.T_mult
        return _cosine(base, recipe.eta_min, left / cycle)
    return base


def _cosine(high: float, low: float, progress: float) -> float:
    """From `high` at progress 0 to `low` at 1."""
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2
