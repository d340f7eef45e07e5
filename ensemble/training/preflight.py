"""Everything that can be known to be wrong before any compute is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from timm.optim import list_optimizers

from ensemble.data.augment import faults
from ensemble.data.cache import skip_unreadable
from ensemble.data.drawn_masks import detection_faults
from ensemble.jobs.spec import JobSpec
from ensemble.models.build import create, refuse_unreachable, weights_address
from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import Preprocessing, Recipe, TaskRecipe, soft_f1_warnings
from ensemble.training.cost import job_updates
from ensemble.training.losses import label_targets, target_tables, task_loss
from ensemble.training.optimizer import backbone_freezer, describe_ema, freeze_stages, make_optimizer
from folds.errors import MaskensError, did_you_mean, first_line, refuse
from folds.files import write_or_set_aside
from folds.labels import IntArray
from folds.people import TrainData, skipped_csv, skipped_hash
from folds.photos import Progress
from folds.run_folder import Run, load_run, save_run

NOT_CHECKED = {"predicts", "ages", "loss", "schedule", "batch_size", "accumulate", "sampler", "mix", "ema", "precision"}


def preflight(recipe: Recipe, tasks: Iterable[str], begun: Collection[str] = (), device: str = "") -> list[str]:
    """Build every model, transform and optimizer of a recipe once and run each model on a photo.

    Args:
        begun: tasks all of whose jobs resume, so that initial weights are not needed.
        device: where it will be trained, if known.

    Returns:
        Warnings: what is allowed but hardly meant.

    Raises:
        MaskensError: everything that would fail later, all at once.
    """
    tasks = list(tasks)
    fresh = [recipe.tasks[name] for name in tasks if name not in begun]
    without_gpu = ""
    if device == "cpu" and "wants a GPU" in recipe.description:
        quick = "; ".join(weights_address(task.model) for task in load_recipe("quick").tasks.values())
        without_gpu = (
            f"The recipe '{recipe.name}' also needs a GPU, and there is none here: use --recipe quick --weights FILE, "
            f"with the file {quick}\n"
        )
    refuse_unreachable([t.model for t in fresh if t.pretrained and not t.weights], without_gpu)
    problems: list[str] = []
    warnings: list[str] = []
    checked: set[str] = set()
    for name in tasks:
        task = recipe.tasks[name].of_fold(0)
        key = f"{task.output_spec.width} {task.model_copy(update={'epochs': 1}).model_dump_json(exclude=NOT_CHECKED)}"
        if key not in checked:
            checked.add(key)
            found = faults(task.augment, task.input_size) + detection_faults(task)
            found += _model_faults(task, name not in begun, warnings)
            problems += [f"tasks.{name}: {p}" for p in found]
        if device == "cpu" and task.precision == "fp16":
            warnings.append(f"tasks.{name}.precision fp16: a CPU may be many times slower with it than with fp32")
        if task.mix.active and task.soft_f1:
            warnings += soft_f1_warnings([name], "the shares of photos that are mixed are not what is learned")
        if task.schedule.name == "cosine" and task.schedule.warmup_epochs >= task.epochs:
            warnings.append(
                f"tasks.{name}.schedule.warmup_epochs {task.schedule.warmup_epochs:g} is not below epochs "
                f"{task.epochs}: the learning rate will not reach its maximum"
            )
    refuse(problems, f"the recipe '{recipe.name}' can't be trained here")
    return warnings


def job_warnings(todo: Sequence[JobSpec], data: TrainData, folds: IntArray) -> list[str]:
    """What is allowed but hardly meant of these jobs of one run, given their training photos."""
    found = []
    for spec in {s.task: s for s in todo}.values():
        recipe, updates = spec.task_recipe, job_updates(spec, data, folds)
        if recipe.ema and 1 / (1 - recipe.ema) > updates / 2:
            found.append(
                f"tasks.{spec.task}.ema {recipe.ema:g} {describe_ema(recipe.ema, updates)}: early weights count nearly "
                f"as much as the last ones; ema = {max(0.5, 1 - 10 / updates):.3g} averages over a tenth of the job"
            )
    improper = [t for t in dict.fromkeys(s.task for s in todo) if todo[0].recipe.tasks[t].soft_f1]
    if any(s.soft for s in todo):
        found += soft_f1_warnings(improper, "the student is surer than the ensemble that it is trained on")
    if any(s.pseudo for s in todo):
        found += soft_f1_warnings(improper, "what is uncertain in pseudo-labels is learned as certain")
    return found


def _model_faults(task: TaskRecipe, initial_weights: bool, warnings: list[str]) -> list[str]:
    size, output_spec = task.input_size, task.output_spec
    try:
        model = create(task, initial_weights, warnings).eval()
        with torch.inference_mode():
            for size in (*dict.fromkeys(task.sizes), task.input_size):
                logits = model(torch.zeros(1, 3, *size))
        if tuple(logits.shape) != (1, output_spec.width):
            return [f"{task.model} gives an output of shape {tuple(logits.shape)}, not (1, {output_spec.width})"]
    except MaskensError as error:
        return [str(error)]
    except Exception as error:  # a model may refuse a size in any way it likes
        return [f"{task.model} at {size[0]}x{size[1]} fails: {first_line(error)}"]
    try:
        if task.frozen_stages:
            freeze_stages(model, task.frozen_stages)
            if not (task.pretrained or task.weights):
                warnings.append("frozen_stages: the model has no initial weights, and random ones are kept")
        if task.head_epochs:
            backbone_freezer(model)
    except ValueError as error:
        return [first_line(error)]
    try:
        optimizer = make_optimizer(model, task.optimizer)
        truth = label_targets(torch.zeros(2, len(output_spec.heads), dtype=torch.long), target_tables(output_spec))
        logits = model.train()(torch.randn(2, 3, *task.input_size))
        task_loss(task.loss, output_spec.heads, logits, truth).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    except Exception as error:
        known = list_optimizers()
        near = "" if task.optimizer.name in known else did_you_mean(task.optimizer.name, known)
        return [f"optimizer: {first_line(error)}{near}"]
    return []


def skip_unreadable_photos(
    run: Run,
    data: TrainData,
    preprocessings: Sequence[Preprocessing],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
    write: bool = True,
) -> tuple[Run, TrainData]:
    """(run, data) with the photos that can't be read, which the run keeps. Once it has models, they stay the same. Only
    with `write` it fills the cache on the way and writes into the run. Raises MaskensError: the run has models and
    others can't be read now than when these were trained; or none can be read."""
    fixed = bool(run.jobs_on_disk())
    photos = data.photos if fixed else dataclasses.replace(data.photos, skipped={})
    found = skip_unreadable(photos, preprocessings, cache, workers, on_progress, write).skipped
    if found.keys() == data.skipped.keys():
        return run, data
    if fixed:
        refuse(
            [f"{file} {why}" for file, why in sorted(found.items()) if file not in data.skipped],
            f"{run.folder} has models, which were trained on photos that can't be read now",
            "Put them back as they were, or start a new run: maskens folds --run NEW_DIR",
        )
    if write:
        remember_skipped(run, found)
    return dataclasses.replace(run, skipped_hash=skipped_hash(found)), dataclasses.replace(data, skipped=found)


def remember_skipped(run: Run, skipped: Mapping[str, str]) -> None:
    """Write into a run which photos it skips, and why."""
    write_or_set_aside(run.skipped_file, skipped_csv(skipped) if skipped else "")
    kept = load_run(run.folder)  # as others may have written into it
    save_run(dataclasses.replace(kept, skipped_hash=skipped_hash(skipped)))
