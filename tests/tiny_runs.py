"""Runs whose models are tiny, so that a job trains in a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from edits import rows_of
from torch import Tensor

from ensemble.jobs.job import JobStatus
from ensemble.jobs.spec import JobSpec
from ensemble.recipes.recipe_file import bind_recipe, parse_recipe
from ensemble.recipes.schema import Recipe
from ensemble.training.trainer import Trainer
from folds.labels import IntArray
from folds.people import TrainData
from folds.run_folder import Run, save_run, start_run
from folds.splits import make_folds

DEFAULTS = """
[defaults]
model = "test_resnet.r160_in1k"
model_args = { drop_rate = 0.2 }
pretrained = false
resize = [32, 24]
batch_size = 16
epochs = 3
augment = [{ name = "HorizontalFlip", args = { p = 0.5 } }, { name = "RandomBrightnessContrast", args = { p = 0.5 } }]
optimizer = { lr = 3e-3 }
"""
TINY = f"{DEFAULTS}[tasks.mask]\n[tasks.gender]\n[tasks.male-age]\n[tasks.female-age]\n"


class Silent:
    """A display that remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[JobStatus]] = []

    def update(self, statuses: list[JobStatus]) -> None:
        self.shown.append(list(statuses))


@dataclass(frozen=True)
class TinyRun:
    """A run and all that its jobs need."""

    data: TrainData
    folds: IntArray
    run: Run
    recipe: Recipe

    def spec(
        self,
        task: str = "mask",
        fold: int = 0,
        *,
        workers: int = 0,
        cache: Path | None = None,
        track: tuple[str, ...] = (),
    ) -> JobSpec:
        """A job on the CPU, with one thread."""
        return JobSpec(self.run, self.recipe, task, fold, "cpu", workers, 1, cache, track)

    def elsewhere(self, name: str) -> TinyRun:
        """The same run in the folder of this name beside it."""
        run = dataclasses.replace(self.run, folder=self.run.folder.parent / name)
        save_run(run)
        return dataclasses.replace(self, run=run)


def history(setting: TinyRun, task: str = "mask", fold: int = 0) -> list[dict[str, str]]:
    """A job's history, but for what tells the time."""
    rows = rows_of(setting.run.job_folder(task, fold) / "history.csv")
    return [{k: v for k, v in row.items() if k not in ("photos_per_s", "seconds")} for row in rows]


def at_batch(patch: pytest.MonkeyPatch, batch: int, action: Callable[[], object]) -> list[None]:
    """Do something on the way to this batch, counted from 1 over all epochs; an entry for each batch that is begun."""
    loss, shown = Trainer._backward, list[None]()

    def compute(self: Trainer, *args: Any) -> Tensor:
        shown.append(None)
        if len(shown) == batch:
            action()
        return loss(self, *args)

    patch.setattr(Trainer, "_backward", compute)
    return shown


def tiny_run(folder: Path, data: TrainData, recipe: str, *changes: str) -> TinyRun:
    """Make two folds and write the run folder.

    Args:
        recipe: the text of a recipe.
        changes: as of `--set`.
    """
    folds = make_folds(data, 2, seed=1)
    run, _ = start_run(folder, data, folds, 2, seed=1)
    resolved = parse_recipe(recipe, "tiny", changes=changes)
    return TinyRun(data, folds, bind_recipe(run, resolved), resolved)
