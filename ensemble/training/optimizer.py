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
    """The learning rate as a function of time alone, so that a resumed run needs no state of it.

    `cosine` follows timm's CosineLRScheduler per update, with a linear warm-up; `cosine_warm_restarts`
    follows torch's scheduler of that name (Loshchilov & Hutter 2017), stepped once an epoch. A group with an
    `lr_scale` learns at that share of the rate, its floor included.

    Args:
        epochs: length of the run.
        updates: optimizer steps in an epoch.
    """
    base_rate = _base_rate(float(optimizer.defaults["lr"]), recipe, epochs, updates)

    def set_lr(epoch: int, update: int) -> float:
        rate = base_rate(epoch, update)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    return set_lr


def _base_rate(lr: float, recipe: Schedule, epochs: int, updates: int) -> SetLr:
    """The rate without any group's scale. The schedulers move a stand-in: torch's know nothing of `lr_scale`."""
    stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)

    def rate() -> float:
        return float(stand_in.param_groups[0]["lr"])

    if recipe.name == "cosine":
        cosine = CosineLRScheduler(
            stand_in,
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
            stand_in, T_0=recipe.T_0, T_mult=recipe.T_mult, eta_min=recipe.eta_min
        )

        def per_epoch(epoch: int, update: int) -> float:
            if update == 0:
                restarts.step(epoch)
            return rate()

        return per_epoch
    return lambda epoch, update: lr
