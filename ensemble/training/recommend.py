"""The recipe that fits a time budget on this machine: candidates, their measured cost, the choice, its TOML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch

from ensemble.jobs.hardware import Hardware
from ensemble.recipes.recipe_file import load_recipe, parse_recipe
from ensemble.recipes.views import VIEWS
from ensemble.training.cost import Cost, epoch_seconds, probe
from folds.errors import MaskensError
from folds.labels import SHOTS
from folds.people import TrainData

ENOUGH = 2  # epochs: a larger candidate with time for these is preferred to more epochs of a smaller one
MOST = 4  # epochs: the photos of one person resemble each other, and models overfit; benchmarks/README.md
FEW_FOLDS = 3
TASK = "heads"  # of the recipes that are extended


@dataclass(frozen=True)
class Candidate:
    """A model of timm and the size of its photos."""

    model: str
    size: tuple[int, int]  # `resize`: (height, width)

    def __str__(self) -> str:
        return f"{self.model} on {self.size[0]}x{self.size[1]}"


BASE = {"cpu": "quick", "cuda": "heads"}
CANDIDATES = {  # largest first
    "cpu": (
        Candidate("tf_efficientnet_lite2.in1k", (224, 168)),
        Candidate("tf_efficientnet_lite0.in1k", (224, 168)),
        Candidate("tf_efficientnet_lite0.in1k", (160, 120)),
        Candidate("tf_efficientnet_lite0.in1k", (128, 96)),
        Candidate("tf_efficientnet_lite0.in1k", (96, 72)),
    ),
    "cuda": (
        Candidate("tf_efficientnet_b5.ns_jft_in1k", (512, 384)),
        Candidate("tf_efficientnet_b4.ns_jft_in1k", (512, 384)),
        Candidate("tf_efficientnet_b3.ns_jft_in1k", (512, 384)),
        Candidate("tf_efficientnet_b3.ns_jft_in1k", (384, 288)),
        Candidate("tf_efficientnet_b0.ns_jft_in1k", (256, 192)),
    ),
}


Measured = tuple[Candidate, Cost]


@dataclass(frozen=True)
class Choice:
    """What to train."""

    candidate: Candidate
    epochs: int
    k: int
    photos_per_person: int  # an epoch
    seconds: float  # for all folds
    fits: bool  # into the budget; if not, this is the least there is


def training_seconds(cost: Cost, photos: int, k: int, epochs: int, photos_per_person: int = len(SHOTS)) -> float:
    """Seconds to decode the labelled photos and train all folds, one after the other, as `--dry-run` counts them."""
    shown = photos * (k - 1) / k * photos_per_person / len(SHOTS)
    predicted = len(VIEWS["flip"]) * photos / k
    return photos * cost.decode + k * (cost.start + epochs * epoch_seconds(cost, shown, predicted))


def epochs_within(cost: Cost, photos: int, k: int, budget: float) -> int:
    """The most epochs of all photos that fit into `budget` seconds: 0 to MOST."""
    return max((e for e in range(1, MOST + 1) if training_seconds(cost, photos, k, e) <= budget), default=0)


def choose(measured: Sequence[Measured], photos: int, k: int, budget: float) -> Choice:
    """The largest candidate with time for ENOUGH epochs, and as many epochs as fit, up to MOST; if there is none, the
    same in FEW_FOLDS, as a second epoch is worth more than further folds; else the smallest for one epoch in these, if
    need be of fewer photos a person.

    Args:
        measured: at least one, the largest first.
        photos: labelled photos.
        k: folds, at least 2.
        budget: seconds.
    """
    folds = min(k, FEW_FOLDS)
    for count in dict.fromkeys((k, folds)):
        for candidate, cost in measured:
            epochs = epochs_within(cost, photos, count, budget)
            if epochs >= ENOUGH:
                seconds = training_seconds(cost, photos, count, epochs)
                return Choice(candidate, epochs, count, len(SHOTS), seconds, True)
    smallest, cost = measured[-1]
    for shown in range(len(SHOTS), 0, -1):
        seconds = training_seconds(cost, photos, folds, 1, shown)
        if seconds <= budget:
            return Choice(smallest, 1, folds, shown, seconds, True)
    return Choice(smallest, 1, folds, shown, seconds, False)


def measure(
    data: TrainData,
    hardware: Hardware,
    k: int,
    budget: float,
    run: Path,
    on_candidate: Callable[[int, int], None] = lambda done, count: None,
) -> tuple[Measured, ...]:
    """Time the candidates on a few batches of real photos, from the smallest up to the first that is too slow.

    Args:
        run: the run's folder, which need not exist; nothing is written.
        on_candidate: called with (candidates measured, candidates in all).

    Returns:
        Those that were measured, the largest first.

    Raises:
        MaskensError: an unreadable photo, a GPU too small for any candidate.
    """
    candidates = CANDIDATES[hardware.device]
    found: list[Measured] = []
    for number, candidate in enumerate(reversed(candidates), start=1):
        recipe = parse_recipe(recipe_text(hardware.device, candidate), "recommended")
        try:
            cost = probe(recipe.tasks[TASK], data, hardware, run)
        except torch.OutOfMemoryError:
            if not found:
                raise MaskensError(
                    f"out of GPU memory for {candidate}, the smallest model. Use --device cpu."
                ) from None
            break  # larger ones want more memory still
        if cost.note and found:  # it fits in micro-batches only
            break
        found.insert(0, (candidate, cost))
        on_candidate(number, len(candidates))
        if epochs_within(cost, len(data.files), min(k, FEW_FOLDS), budget) < ENOUGH:
            break
    return tuple(found)


def recipe_text(device: str, candidate: Candidate, choice: Choice | None = None, description: str = "") -> str:
    """TOML of a recipe that extends the shipped one for such a device, with the keys that were chosen.

    The centre that the shipped recipe crops keeps its share of the photo.
    """
    base = load_recipe(BASE[device])
    task = base.tasks[TASK]
    keys: dict[str, Any] = {"model": candidate.model, "resize": list(candidate.size)}
    if isinstance(task.crop, tuple):
        sides = zip(task.crop, candidate.size, task.resize, strict=True)
        keys["crop"] = [round(crop * side / whole) for crop, side, whole in sides]
    if choice:
        keys["epochs"] = choice.epochs
        if choice.photos_per_person < len(SHOTS):
            keys["sampler"] = {"photos_per_person": choice.photos_per_person}
    head = {"description": description} if description else {}
    return tomli_w.dumps(head | {"extends": base.name, "tasks": {TASK: keys}})
