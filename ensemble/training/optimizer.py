"""Optimizer and learning-rate schedule of a task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from ensemble.recipes.schema import Optimizer, Schedule

SetLr = Callable[[int, int], float]
"""(epoch, update within it), both from 0 -> sets the optimizer's learning rate and returns it."""

WAYS_TO_UPDATE = {"fused", "foreach", "capturable", "differentiable"}  # arguments of torch's optimizers


def make_optimizer(model: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """A timm optimizer by name, fused where it knows how: one kernel updates all weights.

    `args` of the recipe that choose another way of updating (`fused`, `foreach` and their like) win.

    Raises:
        ValueError, TypeError: unknown name or argument.
    """

    def build(**more: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=recipe.name,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            filter_bias_and_bn=not recipe.decay_all,
            **recipe.args,
            **more,
        )
        return made

    if not recipe.args.keys() & WAYS_TO_UPDATE:
        with contextlib.suppress(TypeError, RuntimeError):  # not every optimizer knows it, nor every device
            return build(fused=True)
    return build()


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Schedule, epochs: int, updates: int) -> SetLr:
    """The learning rate as a function of time alone, so that a resumed run needs no state of it.

    `cosine` follows timm's CosineLRScheduler per update, with a linear warm-up; `cosine_warm_restarts`
    follows torch's scheduler of that name (Loshchilov & Hutter 2017), stepped once an epoch.

    Args:
        epochs: length of the run.
        updates: optimizer steps in an epoch.
    """

    def rate() -> float:
        return float(optimizer.param_groups[0]["lr"])

    if recipe.name == "cosine":
        cosine = CosineLRScheduler(
            optimizer,
            t_initial=epochs * updates,
            lr_min=recipe.lr_min,
            warmup_t=round(recipe.warmup_epochs * updates),
            warmup_lr_init=recipe.lr_min,
            t_in_epochs=False,
        )

        def per_update(epoch: int, update: int) -> float:
            cosine.step_update(epoch * updates + update)
            return rate()

        return per_update
    if recipe.name == "cosine_warm_restarts":
        restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, T_0=recipe.T_0, T_mult=recipe.T_mult, eta_min=recipe.eta_min
        )

        def per_epoch(epoch: int, update: int) -> float:
            if update == 0:
                restarts.step(epoch)
            return rate()

        return per_epoch
    return lambda epoch, update: rate()
