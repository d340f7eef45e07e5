"""The initial weights that a command names for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ensemble.recipes.schema import Recipe, TaskRecipe
from folds.errors import MaskensError, did_you_mean
from folds.files import sha256


def with_weights(recipe: Recipe, weights: Sequence[str], pretrained: bool) -> Recipe:
    """The recipe with its initial weights from local files (`FILE` for all tasks or `TASK=FILE`) or none.

    Raises:
        MaskensError: both asked for, an unknown task or a missing file.
    """
    if weights and not pretrained:
        raise MaskensError("--weights and --no-pretrained exclude each other: start from a file or from nothing.")
    changes: dict[str, dict[str, object]] = {name: {} for name in recipe.tasks}
    if not pretrained:
        changes = {name: {"pretrained": False, "weights": "", "weights_sha256": ""} for name in recipe.tasks}
    for item in weights:
        task, separator, file = item.partition("=")
        if not separator or Path(item).is_file():
            task, file = "", item
        if task and task not in recipe.tasks:
            raise MaskensError(f"--weights {item}: there is no task '{task}'{did_you_mean(task, recipe.tasks)}.")
        for name in [task] if task else recipe.tasks:
            changes[name] = {"pretrained": True, "weights": str(Path(file).resolve()), "weights_sha256": ""}
    tasks = {name: _known_weights(task.model_copy(update=changes[name])) for name, task in recipe.tasks.items()}
    return recipe.model_copy(update={"tasks": tasks})


def _known_weights(task: TaskRecipe) -> TaskRecipe:
    """The task with the hash of its weights' file."""
    if not task.weights or task.weights_sha256:
        return task
    try:
        return task.model_copy(update={"weights_sha256": sha256(Path(task.weights).read_bytes())})
    except (OSError, ValueError) as error:  # a name with zero bytes
        raise MaskensError(
            f"can't read the weights {task.weights}: {getattr(error, 'strerror', None) or error}."
        ) from error
