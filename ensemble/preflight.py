"""Everything that can be known to be wrong before any compute is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import torch
from timm.optim import list_optimizers

from ensemble.augment import faults
from ensemble.losses import one_hot, task_loss
from ensemble.models import create, first_line
from ensemble.optimise import make_optimizer
from ensemble.recipe import Recipe, TaskRecipe, with_weights
from ensemble.recipe_file import load_recipe, parse_recipe
from folds.errors import MaskensError, did_you_mean, refuse
from folds.files import write_text
from folds.run import Run, save_run


def choose_device(name: str) -> str:
    """`auto` becomes cuda where there is one, else cpu.

    Raises:
        MaskensError: cuda asked for and not to be had.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MaskensError("--device cuda: torch sees no CUDA device here. Use --device cpu or auto.")
    return name


def run_recipe(run: Run) -> Recipe:
    """The recipe that a run was trained with.

    Raises:
        MaskensError: nothing was trained yet, or recipe.toml was edited since.
    """
    if not run.recipe_hash:
        raise MaskensError(f"nothing is trained in {run.folder} yet. First: maskens train --run {run.folder}")
    try:
        recipe = parse_recipe(run.recipe_file.read_text(encoding="utf-8"), "recipe", where=str(run.recipe_file))
    except OSError as error:
        raise MaskensError(f"can't read {run.recipe_file}: {error.strerror}") from error
    if recipe.hash != run.recipe_hash:
        recipe = _fully_decoded(recipe)  # as it was in maskens 0.3, which wrote no such key
    if recipe.hash != run.recipe_hash:
        raise MaskensError(
            f"{run.recipe_file} was edited after training began, or maskens 0.1 made it. "
            "Put it back, or give it to a new run: "
            f"maskens train --run NEW_DIR --recipe {run.recipe_file}"
        )
    return recipe


def _fully_decoded(recipe: Recipe) -> Recipe:
    tasks = {name: task.model_copy(update={"decode": "full"}) for name, task in recipe.tasks.items()}
    return recipe.model_copy(update={"tasks": tasks})


def resolve_recipe(
    run: Run,
    asked: str | None,
    changes: Sequence[str],
    weights: list[str],
    no_pretrained: bool,
    reused: Run | None = None,
) -> Recipe:
    """The recipe to train with: the run's own, or the one asked for if the run has none or no job yet.

    A local file of weights that an earlier call named stays in force when this one names none.

    Args:
        changes: what --set gave.
        reused: the run that finished jobs are taken from; its recipe is the start where nothing else is.

    Raises:
        MaskensError: unknown or invalid recipe, or another one than the run's models were trained with.
    """
    before = run_recipe(run) if run.recipe_hash else None
    start = before or (run_recipe(reused) if reused else None)
    if start is not None and asked is None:
        changed = parse_recipe(start.text, start.name, changes=changes) if changes else start
        recipe = with_weights(changed, weights, no_pretrained)
    else:
        loaded = load_recipe(asked or "original", changes, check_transforms=True)
        recipe = with_weights(loaded, weights, no_pretrained)
        if start is not None and not weights and not no_pretrained:
            recipe = _weights_of(start, recipe)
    if before is not None and recipe.hash != before.hash and run.jobs_on_disk():
        refuse(
            differences(before, recipe)[:8],
            f"{run.folder} has models of the recipe '{before.name}', and this one differs",
            "Leave --recipe, --set and the weights' options out to go on with the run's own, "
            "or start another run with --run DIR.",
        )
    return recipe


def bind_recipe(run: Run, recipe: Recipe) -> Run:
    """Write recipe.toml and its hash into the run, if they are not there yet."""
    if run.recipe_hash == recipe.hash:
        return run
    write_text(run.recipe_file, recipe.text)
    bound = dataclasses.replace(run, recipe_hash=recipe.hash)
    save_run(bound)
    return bound


def _weights_of(before: Recipe, recipe: Recipe) -> Recipe:
    """The recipe with the local weights of an earlier one, where the model is the same and it names none itself."""
    tasks = dict(recipe.tasks)
    for name in tasks.keys() & before.tasks.keys():
        task, old = tasks[name], before.tasks[name]
        if old.weights and task.pretrained and not task.weights and task.model == old.model:
            kept = {"weights": old.weights, "weights_sha256": old.weights_sha256}
            tasks[name] = task.model_copy(update=kept)
    return recipe.model_copy(update={"tasks": tasks})


def differences(a: Recipe, b: Recipe) -> list[str]:
    """Key paths whose values differ, `tasks.mask.epochs: 3, now 5`."""

    left, right = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    keys = list(dict.fromkeys([*left, *right]))
    return [f"{k}: {left.get(k)!r}, now {right.get(k)!r}" for k in keys if left.get(k) != right.get(k)]


def flat(value: object, path: str = "") -> dict[str, object]:
    """`{"loss": {"ce": 1}}` -> `{"loss.ce": 1}`."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}".strip(".")).items()}
    return {path: value}


def preflight(recipe: Recipe, tasks: Iterable[str], begun: Collection[str] = (), device: str = "") -> list[str]:
    """Build every model, transform and optimizer of a recipe once and show each model a photo.

    Args:
        begun: tasks all of whose jobs go on from where they stopped, so that initial weights are not needed.
        device: where it will be trained, if that is known.

    Returns:
        Warnings: what is allowed but hardly meant.

    Raises:
        MaskensError: everything that would fail later, all at once.
    """
    problems: list[str] = []
    warnings: list[str] = []
    checked: dict[str, list[str]] = {}
    for name in tasks:
        task = recipe.tasks[name]
        key = f"{task.target.width} " + task.model_copy(update={"epochs": 1}).model_dump_json(
            exclude={
                "predicts",
                "ages",
                "loss",
                "schedule",
                "batch_size",
                "accumulate",
                "sampler",
                "mix",
                "ema",
                "precision",
            }
        )
        if key not in checked:
            checked[key] = faults(task.augment, task.input_size) + _model_faults(task, name not in begun)
            problems += [f"tasks.{name}: {p}" for p in checked[key]]
        if device == "cpu" and task.precision == "fp16":
            warnings.append(f"tasks.{name}.precision fp16: a CPU may be many times slower with it than with fp32")
        schedule = task.schedule
        if schedule.name == "cosine_warm_restarts" and schedule.eta_min > task.optimizer.lr:
            warnings.append(
                f"tasks.{name}.schedule.eta_min {schedule.eta_min:g} is above lr {task.optimizer.lr:g}: "
                "the learning rate will rise from epoch to epoch and drop at each restart"
            )
        if schedule.name == "cosine" and schedule.warmup_epochs >= task.epochs:
            warnings.append(
                f"tasks.{name}.schedule.warmup_epochs {schedule.warmup_epochs:g} is not below epochs {task.epochs}: "
                "the learning rate will not get to where it starts to fall"
            )
    refuse(problems, f"the recipe '{recipe.name}' can't be trained here")
    return warnings


def _model_faults(task: TaskRecipe, initial_weights: bool) -> list[str]:
    try:
        model = create(task, initial_weights).eval()
        with torch.inference_mode():
            logits = model(torch.zeros(1, 3, *task.input_size))
        if tuple(logits.shape) != (1, task.target.width):
            return [f"{task.model} gives an output of shape {tuple(logits.shape)}, not (1, {task.target.width})"]
    except MaskensError as error:
        return [str(error)]
    except Exception as error:  # a model may refuse a size in any way it likes
        return [f"{task.model} at {task.input_size[0]}x{task.input_size[1]} fails: {first_line(error)}"]
    try:
        optimizer = make_optimizer(model, task.optimizer)
        truth = one_hot(torch.zeros(2, len(task.target.heads), dtype=torch.long), task.target.heads)
        logits = model.train()(torch.randn(2, 3, *task.input_size))
        task_loss(task.loss, task.target.heads, logits, truth).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    except Exception as error:
        known = list_optimizers()
        near = "" if task.optimizer.name in known else did_you_mean(task.optimizer.name, known)
        return [f"optimizer: {first_line(error)}{near}"]
    return []
