"""The recipe that fits a time budget on this machine: candidates, their score and cost, the choice, its TOML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch

from ensemble.jobs.hardware import Hardware
from ensemble.metrics.scores import Interval
from ensemble.recipes.recipe_file import load_recipe, parse_recipe
from ensemble.recipes.views import VIEWS
from ensemble.training.cost import Cost, epoch_seconds, probe
from folds.errors import MaskensError
from folds.people import TrainData

FEW_FOLDS = 3
FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of the photos, an epoch
TASK = "heads"  # of the recipes that are extended


@dataclass(frozen=True)
class Candidate:
    """A model of timm, the size of its photos, its epochs, the recipe that has the other keys, and the score on real
    photos."""

    model: str
    size: tuple[int, int]  # `resize`: (height, width)
    epochs: int
    recipe: str
    f1: Interval | None = None  # macro F1 of new people, tuned, by benchmarks/ladder.py; None: not measured

    @property
    def network(self) -> str:
        return f"{self.recipe}: {self.model} on {self.size[0]}x{self.size[1]}"

    def __str__(self) -> str:
        return f"{self.network}, {self.epochs} epochs"


LITE0 = "tf_efficientnet_lite0.in1k"
MEASURED_ON = "600 people"  # who were trained on
CANDIDATES = {  # the preferred first: by measured F1, on a GPU by size
    "cpu": (
        Candidate(LITE0, (176, 132), 4, "best", Interval(0.590, 0.526, 0.652)),
        Candidate(LITE0, (176, 132), 2, "best", Interval(0.545, 0.486, 0.602)),  # of three seeds
        Candidate(LITE0, (128, 96), 2, "quick", Interval(0.545, 0.482, 0.605)),
        Candidate(LITE0, (96, 72), 2, "quick"),
    ),
    "cuda": tuple(
        Candidate(model, size, epochs, "heads")
        for model, size in (
            ("tf_efficientnet_b5.ns_jft_in1k", (512, 384)),
            ("tf_efficientnet_b4.ns_jft_in1k", (512, 384)),
            ("tf_efficientnet_b3.ns_jft_in1k", (512, 384)),
            ("tf_efficientnet_b3.ns_jft_in1k", (384, 288)),
            ("tf_efficientnet_b0.ns_jft_in1k", (256, 192)),
        )
        for epochs in (4, 3, 2)
    ),
}


@dataclass(frozen=True)
class Choice:
    """What to train."""

    candidate: Candidate
    epochs: int  # fewer than the candidate's if even the quickest is too slow
    k: int
    fraction: float  # of the photos that an epoch trains on
    seconds: float  # for all folds
    fits: bool  # into the budget; if not, this is the least there is


@dataclass(frozen=True)
class PhotoCounts:
    """How many photos there are to train on."""

    own: int  # in the folds
    extra: int = 0  # in every fold, never scored


def training_seconds(cost: Cost, photos: PhotoCounts, k: int, epochs: int, fraction: float = 1.0) -> float:
    """Seconds to decode the labelled photos and train all folds, one after the other, as `--dry-run` counts them."""
    trained = fraction * (photos.own * (k - 1) / k + photos.extra)
    predicted = len(VIEWS["flip"]) * photos.own / k
    epoch = epoch_seconds(cost, trained, predicted)
    return (photos.own + photos.extra) * cost.decode + k * (cost.start + epochs * epoch)


def choose(
    candidates: Sequence[Candidate],
    cost_of: Callable[[Candidate], Cost | None],
    photos: PhotoCounts,
    k: int,
    budget: float,
) -> Choice:
    """The first candidate that fits into the budget with `k` folds, else with FEW_FOLDS; if there is none, one epoch of
    the quickest in these, if need be of a fraction of the photos.

    Args:
        candidates: at least one, the preferred first.
        cost_of: of a candidate's network; None where it does not fit into memory. Asked in this order, until one fits.
        k: folds, at least 2.
        budget: seconds.

    Raises:
        MaskensError: no candidate fits into memory.
    """
    folds = min(k, FEW_FOLDS)
    for count in dict.fromkeys((k, folds)):
        for candidate in candidates:
            if cost := cost_of(candidate):
                seconds = training_seconds(cost, photos, count, candidate.epochs)
                if seconds <= budget:
                    return Choice(candidate, candidate.epochs, count, 1.0, seconds, True)
    costs = {candidate: cost for candidate in candidates if (cost := cost_of(candidate))}
    if not costs:
        raise MaskensError(f"out of memory for {candidates[-1].network}, the smallest model. Use --device cpu.")
    quickest = min(costs, key=lambda candidate: training_seconds(costs[candidate], photos, folds, 1))
    for fraction in FRACTIONS:
        seconds = training_seconds(costs[quickest], photos, folds, 1, fraction)
        if seconds <= budget:
            return Choice(quickest, 1, folds, fraction, seconds, True)
    return Choice(quickest, 1, folds, fraction, seconds, False)


def measure(candidate: Candidate, data: TrainData, hardware: Hardware, run: Path) -> Cost | None:
    """What a candidate's network costs, on a few batches of real photos; None where it does not fit into memory. The
    folder `run` need not exist, and nothing is written. Raises MaskensError: an unreadable photo."""
    recipe = parse_recipe(recipe_text(candidate), "recommended")
    try:
        return probe(recipe.tasks[TASK], data, hardware, run)
    except torch.OutOfMemoryError:
        return None


def recipe_text(candidate: Candidate, choice: Choice | None = None, description: str = "") -> str:
    """TOML of a recipe that extends the candidate's, with the keys that were chosen.

    The centre that the shipped recipe crops keeps its share of the photo.
    """
    base = load_recipe(candidate.recipe)
    task = base.tasks[TASK]
    keys: dict[str, Any] = {"model": candidate.model, "resize": list(candidate.size)}
    if isinstance(task.crop, tuple):
        sides = zip(task.crop, candidate.size, task.resize, strict=True)
        keys["crop"] = [round(crop * side / whole) for crop, side, whole in sides]
    if choice:
        keys["epochs"] = choice.epochs
        if choice.fraction < 1:
            keys["sampler"] = {"fraction": choice.fraction}
    head = {"description": description} if description else {}
    return tomli_w.dumps(head | {"extends": base.name, "tasks": {TASK: keys}})
