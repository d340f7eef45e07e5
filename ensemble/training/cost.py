"""Time, memory and disk of a training on this machine, from a short probe."""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ensemble.data.augment import Augment
from ensemble.data.cache import missing_bytes, open_photos
from ensemble.data.drawn_masks import DrawMasks
from ensemble.data.loader import EpochBatches, EpochPhotos, job_batches, train_loader
from ensemble.jobs.finished import job_epochs
from ensemble.jobs.hardware import Hardware, free_memory
from ensemble.jobs.spec import JobSpec
from ensemble.models.build import create, normalisation, to_device
from ensemble.models.engine import shortest
from ensemble.models.precision import AutotuneCache
from ensemble.models.runtime import configure_process, is_out_of_memory
from ensemble.models.torch_engine import TorchEngine
from ensemble.recipes.schema import Recipe, Sampler, TaskRecipe
from ensemble.recipes.tasks import training_labels
from ensemble.recipes.views import VIEWS
from ensemble.training.deadline import InferenceTime, JobTime, epochs_left, slot_loads
from ensemble.training.fit_fold import view_logits
from ensemble.training.optimizer import describe_ema
from ensemble.training.trainer import LossNotFinite, Trainer
from folds.labels import IntArray
from folds.people import PhotoSet, TrainData
from folds.photos import Progress
from folds.ranges import FULL

SECONDS = 5.0  # for which batches are timed, after one that warms up
BATCHES = 8  # at most
LONG = 1.0  # hours of training that are worth a question
PROCESS = 5.0  # seconds in which a process of its own starts for a job
COMMANDS = 10.0  # seconds that infer, score and report take besides starting, decoding and predicting
SLOWEST = 1e-4  # seconds a pixel: no model that one would train on a CPU takes longer


@dataclass(frozen=True)
class Cost:
    """What one task's model costs here. Times are in seconds a photo."""

    decode: float  # by all decoding_threads together
    train: float
    predict: float  # a view
    start: float  # seconds to build the model
    weights: int  # bytes
    memory: int  # bytes of this process, or of the GPU, at its peak
    note: str = ""  # that its batches do not fit into memory whole


@dataclass(frozen=True)
class JobEstimate:
    """One job that is left to do."""

    recipe: str
    task: str
    fold: int
    photos: int  # an epoch
    epochs: int  # left
    epoch_seconds: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a training takes."""

    jobs: tuple[JobEstimate, ...]
    costs: dict[tuple[str, str], Cost]  # (recipe, task) -> cost
    decode: float  # seconds for what the cache lacks
    seconds: float  # in all
    at_a_time: int  # jobs
    memory: int  # bytes, all jobs at a time
    cache: int  # bytes of disk for what the cache lacks
    disk: int  # bytes of disk for models and what is kept while they train
    free: int  # bytes of disk that are free
    room: int | None  # bytes of memory that jobs may take here; None on a GPU or a cluster
    notes: tuple[str, ...]  # of tasks: too little memory for a batch, the reach of `ema`


def estimate_training(
    specs: Sequence[JobSpec],
    data: TrainData,
    folds: IntArray,
    hardware: Hardware,
    restart: bool,
    on_task: Progress,
) -> Estimate:
    """Time each task's model on a few batches of the real photos and count what is left to do.

    Args:
        specs: of runs with the same data and folds; their recipes have names of their own.
        folds: int64 (people,).
        restart: finished epochs do not count.

    Raises:
        MaskensError: a photo of the probe that can't be read.
    """
    room = None if hardware.device != "cpu" or hardware.address else free_memory()  # before the probe takes its own
    run, cache = specs[0].run.folder, specs[0].cache
    tasks = {(s.recipe.name, s.task): s.task_recipe for s in specs}
    costs: dict[tuple[str, str], Cost] = {}
    alike: dict[str, Cost] = {}  # tasks that differ only in their labels cost the same
    for number, (name, task) in enumerate(tasks.items(), start=1):
        key = task.model_copy(update={"predicts": "age", "epochs": 1}).model_dump_json(exclude={"ages", "loss"})
        if key not in alike:
            alike[key] = probe(task, data, hardware, run)
        costs[name] = alike[key]
        on_task(number, len(tasks))
    jobs = tuple(job_estimate(spec, costs[spec.recipe.name, spec.task], data, folds, restart) for spec in specs)
    lacking = missing_bytes(data.photos, list(dict.fromkeys(task.preprocessing for task in tasks.values())), cache)
    decode = len(data.files) * max(c.decode for c in costs.values()) if lacking else 0.0
    notes = [f"tasks.{task} {cost.note}" for (_, task), cost in costs.items() if cost.note]
    notes += [
        f"tasks.{spec.task}.ema {decay:g} {describe_ema(decay, job_updates(spec, data, folds))}"
        for spec in {(s.recipe.name, s.task): s for s in specs}.values()
        if (decay := spec.task_recipe.ema)
    ]
    weights = sorted(costs[j.recipe, j.task].weights for j in jobs)
    return Estimate(
        jobs,
        costs,
        decode,
        decode + total_wall_time([j.seconds for j in jobs], hardware.jobs),
        hardware.jobs,
        max(c.memory for c in costs.values()) * min(hardware.jobs, len(jobs)),
        lacking,
        sum(weights) + 3 * sum(weights[-hardware.jobs :]),  # last.pt: the model and Adam's two moments
        shutil.disk_usage(next(f for f in (run, *run.absolute().parents) if f.exists())).free,
        room,
        tuple(dict.fromkeys(notes)),
    )


def total_wall_time(seconds: Sequence[float], at_a_time: int) -> float:
    """How long jobs take together, each started as soon as one before it ends."""
    return max(slot_loads(seconds, [0.0] * at_a_time))


def probe(task: TaskRecipe, data: TrainData, hardware: Hardware, run: Path) -> Cost:
    """Build a task's model without initial weights, train it on a few batches of real photos and let it predict. The
    folder `run` may know the precision that `auto` stands for. Raises MaskensError: a photo that can't be read."""
    device = torch.device(hardware.device)
    configure_process(hardware.job_threads)
    readable = np.flatnonzero(data.photos.readable)
    rows = readable[np.linspace(0, len(readable) - 1, BATCHES // 2 * task.batch_size).astype(np.int64)]
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        photos = open_photos(data.photos.some(rows), [task.preprocessing], Path(scratch), hardware.decoding_threads)
        decode = (time.perf_counter() - started) / len(rows)
        started = time.perf_counter()
        model = create(task, initial_weights=False)
        normalised = normalisation(model)
        to_device(model, device)
        start = time.perf_counter() - started

        labels = training_labels(task.output_spec, data, in_years=task.ages.in_years)[rows]
        masks = DrawMasks(task, data.labels[0][rows])
        each = np.arange(len(rows))
        twice = EpochPhotos(each, each, each, Sampler(fraction=2.0))
        batches = EpochBatches(twice, task.batch_size, (0,), even=task.mix.active)
        augment, pin = Augment(task.augment), device.type == "cuda"
        loader = train_loader(photos, labels, batches, augment, (0,), hardware.job_workers, pin, masks)
        # what a whole epoch takes: the first ones may cost less
        whole = task.model_copy(update={"head_epochs": 0.0, "sizes": (), "average_epochs": 0})
        measured = AutotuneCache(run, task.hash, device, hardware.job_threads, keep=False)
        ends: list[float] = []

        def on_batch(*_: object) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            ends.append(time.perf_counter())

        def few() -> Iterator[Any]:
            for batch in loader:
                yield batch
                if len(ends) > 2 and (ends[-1] - ends[0] > SECONDS or len(ends) > BATCHES):
                    return

        trainer = Trainer(whole, model, *normalised, device, (0,), len(batches), measured)
        with contextlib.suppress(LossNotFinite):  # a probe's time counts, its loss does not
            trainer.epoch(0, few(), on_batch)
        train = statistics.median(np.diff(ends)) / batches.batch_size

        engine = TorchEngine(model.eval(), 2 * trainer.micro_batch)
        first = np.arange(min(len(photos), engine.batch))

        def predict() -> object:
            return view_logits(engine, normalised, device, photos, first, VIEWS["none"])

        predict()  # warms up
        seen = shortest(predict, rounds=2) / len(first)
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(decode, train, seen, start, weights, memory, trainer.memory_note)


def job_estimate(spec: JobSpec, cost: Cost, data: TrainData, folds: IntArray, restart: bool) -> JobEstimate:
    """Photos, epochs and seconds that are left of a job."""
    photos = job_batches(spec, data, folds).photos_per_epoch
    held_out = (folds[data.photo_person] == spec.fold) & data.scored
    predicted = len(spec.recipe.oof_views) * int((held_out & data.photos.readable).sum())  # after each epoch
    epochs = epochs_left(spec, restart)
    epoch = epoch_seconds(cost, photos, predicted)
    return JobEstimate(spec.recipe.name, spec.task, spec.fold, photos, epochs, epoch, cost.start + epochs * epoch)


def epoch_seconds(cost: Cost, trained: float, predicted: float) -> float:
    """Seconds of an epoch of a job that trains on `trained` photos and then predicts those of the held-out fold in all
    views, `predicted` in all."""
    return trained * cost.train + predicted * cost.predict


def job_times(
    found: Estimate, specs: Sequence[JobSpec], hardware: Hardware, restart: bool
) -> dict[tuple[str, int], JobTime]:
    """(task, fold) -> what each job of one run takes, by its estimate."""
    times = {}
    for spec, job in zip(specs, found.jobs, strict=True):
        start = found.costs[job.recipe, job.task].start + (PROCESS if hardware.several_processes else 0.0)
        least = 0 if job.epochs < job_epochs(spec, restart) else 1
        if spec.fold == FULL:  # it is no model before its last epoch
            least = job.epochs
        times[job.task, job.fold] = JobTime(start, job.epoch_seconds, job.epochs, least)
    return times


def prediction_time(
    found: Estimate, recipe: Recipe, photos: PhotoSet, cache: Path | None, starting: float
) -> InferenceTime:
    """What `maskens infer` takes for these photos, without early exit. A task that was not measured is assumed to cost
    as much as the slowest of the others; `starting` are the seconds in which a command imports what it needs."""
    costs = {task: cost for (_, task), cost in found.costs.items()}
    each = {task: cost.start + len(VIEWS["flip"]) * len(photos.files) * cost.predict for task, cost in costs.items()}
    fold = sum(each.get(task, max(each.values())) for task in recipe.tasks)
    wanted = list(dict.fromkeys(task.preprocessing for task in recipe.tasks.values()))
    lacking = cache is None or missing_bytes(photos, wanted, cache)
    decode = len(photos.files) * max(cost.decode for cost in costs.values()) if lacking else 0.0
    return InferenceTime(starting + decode + COMMANDS, fold)


def job_updates(spec: JobSpec, data: TrainData, folds: IntArray) -> int:
    """Updates of the weights in all epochs of a job."""
    recipe = spec.task_recipe
    return recipe.epochs * -(-len(job_batches(spec, data, folds)) // recipe.accumulate)


def long_training(
    todo: Sequence[JobSpec], data: TrainData, folds: IntArray, hardware: Hardware, restart: bool = False
) -> str:
    """The question before jobs that would train for more than an hour on a CPU, else "".

    Takes a few seconds at most: a forward and backward pass of each distinct model on black photos. Few and small
    photos take next to nothing.
    """
    if hardware.device != "cpu" or not todo:
        return ""

    def hours(photo_seconds: Callable[[TaskRecipe], float]) -> float:
        """In all, where a task's model trains for so many seconds a photo; predicting takes a third."""
        jobs = []
        for spec in todo:
            each = photo_seconds(spec.task_recipe)
            jobs.append(job_estimate(spec, Cost(0, each, each / 3, 0, 0, 0), data, folds, restart).seconds)
        return total_wall_time(jobs, hardware.jobs) / 3600

    measured: dict[str, float] = {}

    def step_seconds(task: TaskRecipe) -> float:
        """Of two photos, which warms up, then of as many as a second allows."""
        key = f"{task.model} {task.model_args} {task.input_size} {task.batch_size}"
        if key not in measured:
            model, count = create(task, initial_weights=False).train(), 2
            for _ in range(2):
                started = time.perf_counter()
                try:
                    model(torch.zeros(count, 3, *task.input_size)).square().mean().backward()
                except RuntimeError as error:
                    if key not in measured or not is_out_of_memory(error):
                        raise
                    break
                measured[key] = (time.perf_counter() - started) / count
                count = max(2, min(task.batch_size, int(1 / measured[key])))
        return measured[key]

    if hours(lambda task: SLOWEST * math.prod(task.input_size)) < LONG:
        return ""
    configure_process(hardware.job_threads)
    found = hours(step_seconds)
    if found < LONG:
        return ""
    recipes = list(dict.fromkeys(s.recipe.name for s in todo))
    time_left = f"{found:.0f} hours" if found < 48 else f"{found / 24:.0f} days"
    instead = "" if "quick" in recipes else " A recipe for CPUs: --recipe quick (in a new run)."
    return f"{', '.join(map(repr, recipes))} would train for about {time_left} on this CPU.{instead} To train: --yes"
