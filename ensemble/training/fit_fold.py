"""The steps of one job: its training data, epochs, validation, checkpoints, out-of-fold logits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset

from ensemble.data.augment import Augment
from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.data.loader import NO_MORE, EpochBatches, TrainingPhotos, epoch_batches, train_loader
from ensemble.data.masks import DrawMasks
from ensemble.jobs.card import job_card, trained_on
from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.locks import Claim
from ensemble.jobs.oof import JobOofLogits, Logits, people_halves, save_job_oof, write_history
from ensemble.jobs.spec import JobSpec, identity, learned_rows
from ensemble.jobs.stopping import stop_requests
from ensemble.metrics.scores import half_epochs, task_scores
from ensemble.models.build import create, normalisation, save_checkpoint, to_device
from ensemble.models.engine import InferenceEngine
from ensemble.models.precision import AutotuneCache
from ensemble.models.runtime import configure_process
from ensemble.recipes.schema import TaskRecipe
from ensemble.recipes.tasks import class_labels, training_labels, training_mask, true_labels
from ensemble.recipes.views import IDENTITY
from ensemble.training.losses import task_loss
from ensemble.training.tracking import TrackedJob, Trackers
from ensemble.training.trainer import (
    EpochProgress,
    EpochResult,
    LossNotFinite,
    OnBatch,
    Trainer,
    load_last,
    save_last,
    save_within_epoch,
    seed_torch,
)
from ensemble.training.validation import view_logits
from folds.errors import MaskensError
from folds.labels import CLASSES, IntArray, decode
from folds.people import PhotoSet, TrainData
from folds.run_folder import library_versions, refuse_removed

NAMED = 5  # photos of the batch


def not_finite(error: LossNotFinite, batches: EpochBatches, files: Sequence[str]) -> str:
    """What to say of it, with photos of the first such batch.

    Args:
        files: of all photos, by their indices in the batches.
    """
    keys = next(itertools.islice(batches, error.batch, None))
    shown = list(dict.fromkeys(files[index] for _, index, _ in keys))
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return (
        f"the loss became {error.loss} in epoch {batches.epoch + 1}, first in batch {error.batch + 1} of "
        f"{len(batches)} ({', '.join(shown[:NAMED])}{more})"
    )


@dataclass(frozen=True)
class LearningSet:
    """The photos of the data, and after them those of pseudo-labels, of which a job learns from some."""

    recipe: TaskRecipe
    data: TrainData
    rows: IntArray  # (n,): the photos of the data that are learned from
    more: tuple[IntArray, IntArray]  # (rows, classes) of those with a pseudo-label, as of `sampling.epoch_photos`
    labels: IntArray  # (photos, heads), as they are trained
    states: IntArray  # (photos,), mask labels
    soft: npt.NDArray[np.float32] | None  # (photos, 18); NaN for photos that are not learned from
    files: list[str]  # (photos,)

    @property
    def taught(self) -> IntArray | npt.NDArray[np.float32]:
        """What the model is shown with each photo: its labels, or its soft target if there are any."""
        return self.labels if self.soft is None else self.soft

    def batches(self, seed: tuple[int, ...]) -> EpochBatches:
        return epoch_batches(self.recipe, self.data, self.rows, seed, self.more)

    def draw_masks(self) -> DrawMasks:
        return DrawMasks(self.recipe, self.states, self.soft is not None)


def learning_set(spec: JobSpec, data: TrainData, folds: IntArray) -> LearningSet:
    """What a job learns from. No person of its fold is in it, nor a soft target of one.

    Args:
        folds: int64 (people,).
    """
    recipe = spec.recipe.tasks[spec.task]
    rows, more, files = learned_rows(spec, data, folds), NO_MORE, list(data.files)
    labels, states = training_labels(recipe.target, data, in_years=recipe.ages.sigma > 0), data.labels[0]
    if spec.pseudo:
        more = spec.pseudo.of(spec.fold, recipe)
        classes = np.maximum(spec.pseudo.classes[spec.fold], 0)  # of those not taken, any: they are never shown
        labels = np.concatenate([labels, class_labels(recipe.target, classes)])
        states = np.concatenate([states, decode(classes)[0]])
        files += spec.pseudo.photos.files
    soft = None
    if spec.soft:
        soft = np.full((len(data.files), CLASSES), np.nan, dtype=np.float32)
        soft[rows] = spec.soft.of(spec.fold, recipe.predicts, data)[rows]
    return LearningSet(recipe, data, rows, more, labels, states, soft, files)


TICK = 1.0  # seconds between two status files within an epoch


class JobRun:
    """A job at work: trains the model of one task on all folds but one, and predicts that one after each epoch."""

    def __init__(self, spec: JobSpec, data: TrainData, folds: IntArray, claim: Claim | None = None) -> None:
        """
        Args:
            folds: int64 (people,).
            claim: on the job; nothing is saved any more once another process has made its own.
        """
        self.spec, self.data, self.claim = spec, data, claim
        self.run_info, self.job, self.recipe = spec.run, spec.job, spec.recipe.tasks[spec.task]
        self.device = torch.device(spec.device)
        self.seed = (spec.run.seed, zlib.crc32(spec.task.encode()), spec.fold)
        self.target = self.recipe.target
        self.learned = learning_set(spec, data, folds)
        self.people = trained_on(spec, data, folds)
        self.truth = true_labels(self.target, data)
        held_out = folds[data.photo_person] == spec.fold
        mine = training_mask(self.recipe.predicts, data)
        self.valid_rows = np.flatnonzero(held_out & mine)
        self.oof_rows = np.flatnonzero(held_out & data.photos.readable)
        self.valid = mine[self.oof_rows]  # those of them that are scored
        half = people_halves(data.people, folds == spec.fold, (spec.run.seed, spec.fold))  # alike for all tasks
        self.half = half[data.photo_person[self.oof_rows]]
        self.status = JobStatus(spec.task, spec.fold, "starting", epochs=self.recipe.epochs)
        self.history: list[dict[str, float]] = []
        self.logits: list[Logits] = []  # out-of-fold, after each epoch
        self.ran: dict[str, Any] = {}

    def run(self) -> None:
        self.report(record=self.record())
        configure_process(self.spec.threads)
        photos = self.open(self.data.photos)
        resumed = load_last(self.job, identity(self.spec)) or {}
        seed_torch(self.seed, 0)
        model = create(self.recipe.of_fold(self.spec.fold), initial_weights=not resumed)
        self.mean, self.std = normalisation(model)
        to_device(model, self.device)
        batches = self.learned.batches(self.seed)
        measured = AutotuneCache(self.run_info.folder, self.recipe.hash, self.device, self.spec.threads)
        trainer = Trainer(
            self.recipe,
            model,
            self.mean,
            self.std,
            self.device,
            self.seed,
            len(batches),
            measured,
            self.spec.compile,
            torch.from_numpy(self.learned.labels[batches.photos.rows]),
        )
        if resumed:
            self.go_on(resumed, trainer)
        if self.spec.compile:
            self.report(note="compiling the model, which may take minutes")
        with Trackers(self.spec.track, self.tracked(photos), len(self.history)) as trackers:
            self.train(trainer, batches, photos, trackers, resumed.get("unfinished"))
        self.save_oof()
        # last of all: from here on the files are held against their checksums
        checksums = self.job.checksums()
        self.report(state="done", seconds_left=None, note=self.notes(trainer, trackers), checksums=checksums)
        if stale := self.job.remove_leftovers():
            self.report(note="; ".join(filter(None, (self.status.note, *stale))))

    def go_on(self, resumed: dict[str, Any], trainer: Trainer) -> None:
        """Take up what an interrupted job left."""
        trainer.load(resumed["trained"])
        self.ran = ran(trainer)
        self.history = resumed["history"]
        self.logits = [its.numpy() for its in resumed["logits"]]
        self.report(record=self.record())
        if self.history:
            self.report(seconds=self.history[-1]["seconds"], **self.progress())
        if not resumed.get("unfinished"):
            self.write_epoch(trainer)  # as the interruption may have come before it

    def open(self, photos: PhotoSet) -> DecodedPhotos:
        return open_photos(photos, [self.recipe.preprocessing], self.spec.cache, max(1, self.spec.workers))

    def train(
        self,
        trainer: Trainer,
        batches: EpochBatches,
        photos: DecodedPhotos,
        trackers: Trackers,
        unfinished: dict[str, Any] | None,
    ) -> None:
        augment, pin = Augment(self.recipe.augment), self.device.type == "cuda"
        masks = self.learned.draw_masks()
        shown: TrainingPhotos = photos
        if self.spec.pseudo:
            shown = ConcatDataset([photos, self.open(self.spec.pseudo.photos)])  # type: ignore[list-item]
        loader = train_loader(shown, self.learned.taught, batches, augment, self.seed, self.spec.workers, pin, masks)
        for epoch in range(len(self.history), self.recipe.epochs):
            batches.epoch = epoch
            seed_torch(self.seed, epoch + 1)  # dropout of a resumed run goes on as it would have
            progress, unfinished = EpochProgress.begin(unfinished, self.device), None
            batches.skip = progress.batches
            started = time.perf_counter() - progress.seconds
            on_batch = self.reporter(epoch, len(batches), trainer, trackers)
            try:
                with stop_requests() as stop:
                    on_update = save_within_epoch(functools.partial(self.save, trainer), stop, len(batches))
                    result = trainer.epoch(epoch, loader, on_batch, progress, on_update)
            except LossNotFinite as error:
                where = not_finite(error, batches, self.learned.files)
                raise MaskensError(f"{where}: {self.lower_rate()}") from error
            self.ran = ran(trainer)
            scores, logits = self.validate(trainer, photos)
            if not np.isfinite(logits).all():  # by the last updates, after a loss that was finite
                raise MaskensError(f"after epoch {epoch + 1} the model gives no finite logits: {self.lower_rate()}")
            seconds = self.status.seconds + time.perf_counter() - started
            self.add_to_history(result, scores, seconds)
            self.logits.append(logits)
            trackers.epoch(
                self.history[-1], self.validated(logits)
            )  # before the epoch counts: what is done again is reported again
            self.save(trainer)  # first of all the state to go on from: the other files can be written anew from it
            self.write_epoch(trainer)
            self.report(seconds=seconds, note=self.notes(trainer, trackers), record=self.record(), **self.progress())

    def save(self, trainer: Trainer, progress: EpochProgress | None = None) -> None:
        """Keep what the job goes on from, after an epoch or within one."""
        self.refuse_lost()
        unfinished = progress.state() if progress else None
        save_last(self.job, identity(self.spec), trainer.state(), self.history, unfinished, self.logits)
        if progress:
            self.report(batches=progress.batches)

    def lower_rate(self) -> str:
        kept = f"; what it learned up to epoch {len(self.history)} is kept" if self.history else ""
        return f"lower the learning rate of '{self.spec.task}'{kept}"

    def add_to_history(self, result: EpochResult, scores: dict[str, float], seconds: float) -> None:
        best = max([*(h["f1"] for h in self.history), scores["f1"]])
        self.history.append(
            {"epoch": len(self.history) + 1, "lr": result.lr, "loss": result.loss, **scores, "best_f1": best}
            | {"photos_per_s": result.photos_per_s, "seconds": seconds}
        )

    def write_epoch(self, trainer: Trainer) -> None:
        """Write what the last finished epoch left: the checkpoint if it is the best so far, and the history."""
        best = self.history[-1]["best_f1"]
        if best not in [h["f1"] for h in self.history[:-1]]:
            card = job_card(self.spec, (self.mean, self.std), self.people, len(self.history), best)
            save_checkpoint(self.job.model, trainer.eval_model, card)
        write_history(self.job, self.history)

    def validate(self, trainer: Trainer, photos: DecodedPhotos) -> tuple[dict[str, float], Logits]:
        """Predict the held-out fold in all views. Scores are over the whole of it at once, of the photos as they are:
        macro F1 and accuracy of the true labels, and the loss of the labels as they are trained, without what only
        counts in training: logit adjustment, class balancing and learned weights of the heads.

        Returns:
            (scores, logits): logits float32 (views, photos, width), of all photos of the fold.
        """
        engine = InferenceEngine(trainer.eval_model.eval(), 2 * self.recipe.batch_size)
        normalised, views = (self.mean, self.std), self.spec.recipe.oof_views
        every = view_logits(engine, normalised, self.device, photos, self.oof_rows, views, self.spec.workers)
        logits = self.validated(every)
        soft = trainer.targets(torch.from_numpy(self.learned.labels[self.valid_rows])).cpu()
        loss = task_loss(self.recipe.loss, self.target.heads, torch.from_numpy(logits), soft)
        f1, accuracy = task_scores(self.target, logits, self.truth[self.valid_rows])
        return {"val_loss": float(loss), "f1": f1, "accuracy": accuracy}, every

    def validated(self, logits: Logits) -> Logits:
        """float32 (photos, width): of the scored photos as they are."""
        return np.asarray(logits[self.spec.recipe.oof_views.index(IDENTITY)][self.valid])

    def save_oof(self) -> None:
        """Keep the out-of-fold logits of each epoch, and which is best on all people of the fold and on each half."""
        f1 = [h["f1"] for h in self.history]
        plain = np.stack([self.validated(logits) for logits in self.logits])
        chosen = half_epochs(self.target, plain, self.truth[self.valid_rows], self.half[self.valid])
        files, best = np.array(self.data.files)[self.oof_rows], f1.index(max(f1))
        oof = JobOofLogits(files, np.stack(self.logits), best, self.half, chosen, self.spec.recipe.oof_views)
        save_job_oof(self.job.oof, oof, self.record())

    def record(self) -> dict[str, Any]:
        """What decides the result, to be kept with it."""
        return identity(self.spec) | {
            "fingerprint": self.data.fingerprint,
            "device": self.spec.device,
            "threads": self.spec.threads,
            "versions": library_versions(),
            **self.ran,
        }

    def tracked(self, photos: DecodedPhotos) -> TrackedJob:
        """What trackers are reported at the start."""
        config = {key: value for key, value in self.record().items() if value is not None}
        config |= {"recipe": self.recipe.model_dump(mode="json", exclude_none=True)}
        truth = self.truth[self.valid_rows]
        return TrackedJob(
            self.run_info, self.spec.task, self.spec.fold, self.target, config, photos, self.valid_rows, truth
        )

    def notes(self, trainer: Trainer, trackers: Trackers) -> str:
        return "; ".join(filter(None, (*trainer.notes, trackers.note)))

    def progress(self) -> dict[str, Any]:
        done = self.history[-1]
        left = (self.recipe.epochs - len(self.history)) * done["seconds"] / len(self.history)
        return {
            "state": "training",
            "epoch": len(self.history),
            "batches": 0,
            "loss": done["loss"],
            "f1": done["f1"],
            "best": done["best_f1"],
            "photos_per_s": done["photos_per_s"],
            "seconds_left": left,
        }

    def reporter(self, epoch: int, batches: int, trainer: Trainer, trackers: Trackers) -> OnBatch:
        """Reports on the epoch under way, at most once a second."""
        reported = time.perf_counter()

        def on_batch(done: int, mean_loss: Callable[[], float], speed: float) -> None:
            nonlocal reported
            if time.perf_counter() - reported > TICK:
                reported = time.perf_counter()
                still = (batches - done) + (self.recipe.epochs - epoch - 1) * batches
                left = still * self.recipe.batch_size / speed
                self.report(
                    state="training",
                    epoch=epoch,
                    loss=mean_loss(),
                    photos_per_s=speed,
                    seconds_left=left,
                    note=self.notes(trainer, trackers),
                )

        return on_batch

    def refuse_lost(self) -> None:
        """Write nothing for a run that is removed, or a job that another process has taken over."""
        refuse_removed(self.run_info)
        if self.claim:
            self.claim.refuse_taken_over()

    def report(self, **changes: Any) -> None:
        self.refuse_lost()
        self.status = dataclasses.replace(self.status, **changes)
        write_status(self.run_info, self.status)


def ran(trainer: Trainer) -> dict[str, Any]:
    """How the model was run, as far as only the training could tell."""
    return {"precision": trainer.precision, "compiled": trainer.forward is not trainer.model}
