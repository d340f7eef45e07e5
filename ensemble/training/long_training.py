"""Saying so before jobs that would train for hours on a machine without a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

from ensemble.jobs.hardware import Hardware
from ensemble.jobs.spec import JobSpec
from ensemble.models.create import create
from ensemble.models.process import configure_process
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.estimate import Cost, job_estimate, total_wall_time
from folds.data.labels import IntArray
from folds.data.people import TrainData

LONG = 3600.0  # seconds of training that are worth a question
SLOWEST = 1e-4  # seconds a pixel: no model that one would train on a CPU takes longer


def long_training(
    todo: Sequence[JobSpec], data: TrainData, folds: IntArray, hardware: Hardware, restart: bool = False
) -> str | None:
    """What to say before jobs that would train for more than an hour on a CPU; None where nothing need be said.

    Takes a few seconds at most, and next to nothing where the photos are few and small: one forward and backward
    pass of each distinct model on black photos, times photos and epochs.

    Args:
        folds: int64 (people,).
        restart: jobs start over, so that no finished epoch counts.
    """
    if hardware.device != "cpu" or not todo:
        return None
    tasks = {s.recipe.tasks[s.task].hash: s.recipe.tasks[s.task] for s in todo}

    def seconds(each: Callable[[TaskRecipe], float]) -> float:
        """In all, where a task's model trains for so many seconds a photo; predicting takes a third."""
        costs = {known: Cost(0, each(task), each(task) / 3, 0, 0, 0) for known, task in tasks.items()}
        jobs = [job_estimate(s, costs[s.recipe.tasks[s.task].hash], data, folds, restart) for s in todo]
        return total_wall_time([job.seconds for job in jobs], hardware.jobs)

    if seconds(lambda task: SLOWEST * math.prod(task.input_size)) < LONG:
        return None
    configure_process(hardware.job_threads)
    measured: dict[str, float] = {}

    def once(task: TaskRecipe) -> float:
        key = f"{task.model} {task.model_args} {task.input_size} {task.batch_size}"
        if key not in measured:
            measured[key] = _step_seconds(task)
        return measured[key]

    return long_words(seconds(once), list(dict.fromkeys(s.recipe.name for s in todo)))


def long_words(seconds: float, recipes: Sequence[str], limit: float = LONG) -> str | None:
    """The message for a training of so many seconds on a CPU, None below the limit."""
    if seconds < limit:
        return None
    hours = seconds / 3600
    words = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
    what = f"{'recipe' if len(recipes) == 1 else 'recipes'} {', '.join(map(repr, recipes))}"
    instead = "" if "quick" in recipes else "The recipe for such a machine: --recipe quick (in a new run). "
    return f"the {what} would train for about {words} here, without a GPU. {instead}To go on: --yes"


def _step_seconds(task: TaskRecipe) -> float:
    """Seconds a photo of a forward and backward pass: of two photos, which warms up, then of what a second allows."""
    model, count, found = create(task, initial_weights=False).train(), 2, 0.0
    for _ in range(2):
        started = time.perf_counter()
        model(torch.zeros(count, 3, *task.input_size)).square().mean().backward()
        found = (time.perf_counter() - started) / count
        count = max(2, min(task.batch_size, int(1 / found)))
    return found
