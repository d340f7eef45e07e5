"""The initial weights that a command names for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ensemble.recipes.reading import load_recipe
from ensemble.recipes.schema import FOLD, Recipe, TaskRecipe
from folds.errors import MaskensError, did_you_mean, typed
from folds.files import sha256_of_file
from folds.run import load_run


def with_weights(recipe: Recipe, weights: Sequence[str], pretrained: bool) -> Recipe:
    """The recipe with its initial weights from local files or runs (`FILE`, `RUN`, `TASK=FILE` or `TASK=RUN`) or none.

    A run gives fold k the weights of its own fold k, so that no model starts from one that has seen the people whom it
    is scored on. Without a task it is for all that it has trained with the same model.

    Raises:
        MaskensError: both asked for, an unknown task, a missing file, or a run without the task, its model or a fold.
    """
    if weights and not pretrained:
        raise MaskensError("--weights and --no-pretrained exclude each other: start from a file or from nothing.")
    changes: dict[str, dict[str, object]] = {name: {} for name in recipe.tasks}
    if not pretrained:
        changes = {name: {"pretrained": False, "weights": "", "weights_sha256": ""} for name in recipe.tasks}
    for item in weights:
        task, separator, file = item.partition("=")
        if not separator or Path(item).exists():
            task, file = "", item
        if task and task not in recipe.tasks:
            raise MaskensError(f"--weights {item}: there is no task '{task}'{did_you_mean(task, recipe.tasks)}.")
        names, path = [task] if task else [*recipe.tasks], Path(file).resolve()
        if not task and path.is_dir():
            theirs = _trained_recipe(path)
            begun = [name for name in names if any(path.glob(f"{name}/fold*/oof.npz"))]
            names = [name for name in begun if not _unlike(name, recipe.tasks[name], theirs)]
            if not names:
                why = "; ".join(_unlike(name, recipe.tasks[name], theirs) for name in begun)
                raise MaskensError(f"--weights {item}: {why or f'it has trained no task of {recipe.name}'}.")
        for name in names:
            changes[name] = {"pretrained": True, "weights": str(path), "weights_sha256": ""}
    tasks = {name: _known_weights(name, task.model_copy(update=changes[name])) for name, task in recipe.tasks.items()}
    return recipe.model_copy(update={"tasks": tasks})


def _known_weights(name: str, task: TaskRecipe) -> TaskRecipe:
    """The task with the hash of its weights' file, or with those of each fold's."""
    if not task.weights or task.weights_sha256:
        return task
    weights = task.weights
    try:
        if Path(weights).is_dir():
            weights = _files_of_run(Path(weights), name, task)
        if FOLD not in weights:
            return task.model_copy(update={"weights_sha256": sha256_of_file(Path(weights))})
        hashes: list[str] = []
        while not hashes or Path(weights.replace(FOLD, str(len(hashes)))).exists():
            hashes.append(sha256_of_file(Path(weights.replace(FOLD, str(len(hashes))))))
        return task.model_copy(update={"weights": weights, "weights_sha256": ",".join(hashes)})
    except (OSError, ValueError) as error:  # a name with zero bytes
        raise MaskensError(f"can't read the weights {weights}: {getattr(error, 'strerror', None) or error}.") from error


def _files_of_run(run: Path, name: str, task: TaskRecipe) -> str:
    """The path of each fold's model in a run that has finished a task, with {fold} in it."""
    theirs = _trained_recipe(run)
    if why := _unlike(name, task, theirs):
        raise MaskensError(f"tasks.{name}.weights {run}: {why}.")
    missing = [k for k in range(load_run(run).k) if not (run / name / f"fold{k}" / "oof.npz").exists()]
    if missing:
        raise MaskensError(
            f"tasks.{name}.weights {run}: it has not finished fold {', '.join(map(str, missing))} of {name}. Train it "
            f"first: maskens train --run {typed(run)} --task {name}"
        )
    return str(run / name / f"fold{FOLD}" / "model.safetensors")


def _trained_recipe(run: Path) -> Recipe:
    if not (run / "recipe.toml").exists():
        raise MaskensError(f"the weights {run} are a folder, but not that of a trained run. Name a file or such a run.")
    return load_recipe(str(run / "recipe.toml"))


def _unlike(name: str, task: TaskRecipe, theirs: Recipe) -> str:
    """Why a task can't start from the models of another recipe, "" if it can."""
    if name not in theirs.tasks:
        return f"it has no task '{name}', but {', '.join(theirs.tasks)}"
    model = theirs.tasks[name].model
    same = model.partition(".")[0] == task.model.partition(".")[0]
    return "" if same else f"its model of '{name}' is {model}, and here it is {task.model}"
