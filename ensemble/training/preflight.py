"""Everything that can be known to be wrong before any compute is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from timm.optim import list_optimizers

from ensemble.data.augment import faults
from ensemble.data.cache import skip_unreadable
from ensemble.data.masks import detection_faults
from ensemble.jobs.spec import JobSpec
from ensemble.models.build import create, refuse_unreachable, weights_address
from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import Preprocessing, Recipe, TaskRecipe, soft_f1_warnings
from ensemble.training.cost import job_updates
from ensemble.training.losses import one_hot, task_loss
from ensemble.training.optimizer import backbone, ema_words, make_optimizer
from folds.errors import MaskensError, did_you_mean, first_line, refuse
from folds.files import write_or_set_aside
from folds.labels import IntArray
from folds.people import TrainData, skipped_csv, skipped_hash
from folds.photos import Progress, read_photo
from folds.run_folder import Run, load_run, save_run


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
    tasks = list(tasks)
    fresh = [recipe.tasks[name] for name in tasks if name not in begun]
    refuse_unreachable([t.model for t in fresh if t.pretrained and not t.weights], _without_gpu(recipe, device))
    problems: list[str] = []
    warnings: list[str] = []
    checked: dict[str, list[str]] = {}
    for name in tasks:
        task = recipe.tasks[name].of_fold(0)
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
            checked[key] = faults(task.augment, task.input_size) + detection_faults(task)
            checked[key] += _model_faults(task, name not in begun, warnings)
            problems += [f"tasks.{name}: {p}" for p in checked[key]]
        if device == "cpu" and task.precision == "fp16":
            warnings.append(f"tasks.{name}.precision fp16: a CPU may be many times slower with it than with fp32")
        schedule = task.schedule
        if schedule.name == "cosine_warm_restarts" and schedule.eta_min > task.optimizer.lr:
            warnings.append(
                f"tasks.{name}.schedule.eta_min {schedule.eta_min:g} is above lr {task.optimizer.lr:g}: "
                "the learning rate will rise from epoch to epoch and drop at each restart"
            )
        if task.mix.active and task.soft_f1:
            warnings += soft_f1_warnings([name], "the shares of photos that are mixed are not what is learned")
        if task.head_epochs and not task.pretrained:
            warnings.append(
                f"tasks.{name}.head_epochs {task.head_epochs:g}: without initial weights (pretrained = false) "
                "the classifier learns from random features meanwhile"
            )
        if schedule.name == "cosine" and schedule.warmup_epochs >= task.epochs:
            warnings.append(
                f"tasks.{name}.schedule.warmup_epochs {schedule.warmup_epochs:g} is not below epochs {task.epochs}: "
                "the learning rate will not get to where it starts to fall"
            )
    refuse(problems, f"the recipe '{recipe.name}' can't be trained here")
    return warnings


def job_warnings(todo: Sequence[JobSpec], data: TrainData, folds: IntArray) -> list[str]:
    """What is allowed but hardly meant of what these jobs of one run learn from.

    Args:
        folds: int64 (people,).
    """
    found = []
    for spec in {s.task: s for s in todo}.values():
        recipe, updates = spec.recipe.tasks[spec.task], job_updates(spec, data, folds)
        if recipe.ema and 1 / (1 - recipe.ema) > updates / 2:
            found.append(
                f"tasks.{spec.task}.ema {recipe.ema:g} {ema_words(recipe.ema, updates)}: early weights count nearly as "
                f"much as the last ones; ema = {max(0.5, 1 - 10 / updates):.3g} averages over a tenth of the job"
            )
    improper = [t for t in dict.fromkeys(s.task for s in todo) if todo[0].recipe.tasks[t].soft_f1]
    if any(s.soft for s in todo):
        found += soft_f1_warnings(improper, "the student is surer than the ensemble that it learns from")
    if any(s.pseudo for s in todo):
        found += soft_f1_warnings(improper, "what is uncertain in pseudo-labels is learned as certain")
    return found


def _without_gpu(recipe: Recipe, device: str) -> str:
    """What to try on a machine without a GPU in place of a recipe that is made for one."""
    if device != "cpu" or "wants a GPU" not in recipe.description:
        return ""
    quick = "; ".join(weights_address(task.model) for task in load_recipe("quick").tasks.values())
    return (
        f"The recipe '{recipe.name}' also wants a GPU, and there is none here: take --recipe quick --weights FILE, "
        f"with the file {quick}\n"
    )


def _model_faults(task: TaskRecipe, initial_weights: bool, warnings: list[str]) -> list[str]:
    size = task.input_size
    try:
        model = create(task, initial_weights, warnings).eval()
        with torch.inference_mode():
            for size in (*dict.fromkeys(task.sizes), task.input_size):
                logits = model(torch.zeros(1, 3, *size))
        if tuple(logits.shape) != (1, task.target.width):
            return [f"{task.model} gives an output of shape {tuple(logits.shape)}, not (1, {task.target.width})"]
    except MaskensError as error:
        return [str(error)]
    except Exception as error:  # a model may refuse a size in any way it likes
        return [f"{task.model} at {size[0]}x{size[1]} fails: {first_line(error)}"]
    try:
        if task.head_epochs:
            backbone(model)
    except ValueError as error:
        return [f"head_epochs: {first_line(error)}"]
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


def leave_out_unreadable(
    run: Run,
    data: TrainData,
    preprocessings: Sequence[Preprocessing],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
    write: bool = True,
) -> tuple[Run, TrainData]:
    """Find the photos that can't be read, and have the run remember them. Once it has models, they stay the same.

    Args:
        preprocessings, cache, workers: as of `skip_unreadable`.
        write: fill the cache on the way and write into the run; else nothing is written.

    Returns:
        (run, data), which know what is left out.

    Raises:
        MaskensError: the run has models and others can't be read now than when these were trained; or none can be read.
    """
    fixed = bool(run.jobs_on_disk())
    photos = data.photos if fixed else dataclasses.replace(data.photos, skipped={})
    found = skip_unreadable(photos, preprocessings, cache, workers, on_progress, write).skipped
    if found.keys() == data.skipped.keys():
        return run, data
    if fixed:
        refuse(
            [f"{file} {why}" for file, why in sorted(found.items()) if file not in data.skipped],
            f"photos can't be read now that {run.folder} does not leave out, and it has models already",
            "Put them back as they were, or start a new run: maskens folds --run NEW_DIR",
        )
    if write:
        remember_skipped(run, found)
    return dataclasses.replace(run, skipped_hash=skipped_hash(found)), dataclasses.replace(data, skipped=found)


def remember_skipped(run: Run, skipped: Mapping[str, str]) -> None:
    """Write into a run which photos it leaves out.

    Args:
        skipped: file -> why it can't be read.
    """
    write_or_set_aside(run.skipped_file, skipped_csv(skipped) if skipped else "")
    kept = load_run(run.folder)  # as others may have written into it
    save_run(dataclasses.replace(kept, skipped_hash=skipped_hash(skipped)))


def readable_again(run: Run, data: TrainData) -> str:
    """What to say of photos that the run's models left out and that can be read by now; "" if there are none."""
    again = (
        [file for file in data.files if file in data.skipped and _readable(data, file)] if run.jobs_on_disk() else []
    )
    if not again:
        return ""
    count = f"{len(again)} of the photos that are left out can be read now, e.g. {again[0]}"
    return f"{count}; as the run's models never saw them, it goes on without. A new run would not"


def _readable(data: TrainData, file: str) -> bool:
    try:
        return len(read_photo(data.photos.path(file))) > 0
    except MaskensError:
        return False
