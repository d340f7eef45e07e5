from __future__ import annotations

import math
from typing import get_args

import pytest
import timm
import torch
from torch import nn

from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import Optimizer, Schedule
from ensemble.training.optimizer import make_optimizer, make_schedule

EPOCHS, UPDATES = 25, 4


def trace(schedule: Schedule, lr: float) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 2), Optimizer(name="sgd", lr=lr))
    set_lr = make_schedule(optimizer, schedule, EPOCHS, UPDATES)
    return [set_lr(epoch, update) for epoch in range(EPOCHS) for update in range(UPDATES)]


@pytest.mark.parametrize("task", ["mask", "gender"])
@pytest.mark.parametrize("t_mult", [1, 2])
def test_warm_restarts_follow_torchs_scheduler_stepped_by_hand(task: str, t_mult: int) -> None:
    recipe = load_recipe("original").tasks[task]
    schedule = recipe.schedule.model_copy(update={"T_mult": t_mult})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.optimizer.lr)
    torchs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=schedule.T_0, T_mult=t_mult, eta_min=schedule.eta_min
    )
    by_hand = []
    for _ in range(EPOCHS):
        by_hand += [optimizer.param_groups[0]["lr"]] * UPDATES
        optimizer.step()
        torchs.step()
    assert trace(schedule, recipe.optimizer.lr) == pytest.approx(by_hand)
    if task == "gender":
        assert len(set(by_hand)) > 5, "the schedule moves"


def test_cosine_warms_up_and_falls_to_its_floor() -> None:
    rates = trace(Schedule(name="cosine", warmup_epochs=2, lr_min=0.01), lr=1.0)
    warmup, total = 2 * UPDATES, EPOCHS * UPDATES
    assert rates[:warmup] == pytest.approx([0.01 + (1 - 0.01) * i / warmup for i in range(warmup)])
    for i in range(warmup, total):
        plain = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * i / total)) / 2
        assert rates[i] == pytest.approx(plain, rel=1e-6)


def test_constant_is_constant() -> None:
    assert set(trace(Schedule(name="constant"), lr=0.3)) == {0.3}


def test_decay_all_reaches_the_biases() -> None:
    layer = nn.Linear(2, 2)
    plain = make_optimizer(layer, Optimizer(weight_decay=0.1))
    assert sorted(g["weight_decay"] for g in plain.param_groups) == [0.0, 0.1]
    everything = make_optimizer(layer, Optimizer(weight_decay=0.1, decay_all=True))
    assert {g["weight_decay"] for g in everything.param_groups} == {0.1}


@pytest.mark.parametrize("name", get_args(Schedule.model_fields["name"].annotation))
def test_with_layer_decay_each_layer_learns_at_its_share_of_the_rate(name: str) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = make_optimizer(model, Optimizer(lr=0.5, layer_decay=0.5))
    schedule = Schedule(name=name, warmup_epochs=1, lr_min=0.01, eta_min=0.01, T_0=4)  # type: ignore[arg-type]
    set_lr = make_schedule(optimizer, schedule, EPOCHS, UPDATES)
    rate_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    base = [set_lr(epoch, 0) for epoch in range(EPOCHS)]
    assert base == trace(schedule, lr=0.5)[::UPDATES], "the rate of the classifier is returned"
    assert rate_of[id(model.get_parameter("fc.weight"))]["lr"] == base[-1]
    deep = [rate_of[id(model.get_parameter(f"layer{n}.0.conv1.weight"))]["lr"] / base[-1] for n in (1, 2, 3, 4)]
    assert deep == sorted(deep)
    assert deep[0] < deep[3] <= 0.5
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 1e-2}, "biases and norms stay free of decay"


def test_layer_decay_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="timm does not know the layers of this model"):
        make_optimizer(nn.Linear(2, 2), Optimizer(layer_decay=0.5))
