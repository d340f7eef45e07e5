"""One job: its training data, epochs, validation, checkpoints, out-of-fold logits."""

from __future__ import annotations

import dataclasses
import itertools
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset

from ensemble.data.augment import Augment
from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.data.drawn_masks import DrawMasks
from ensemble.data.loader import TrainingPhotos, job_batches, plain_batches, train_loader
from ensemble.jobs.card import Normalisation, job_card, trained_on
from ensemble.jobs.finished import full_schedule, job_epochs
from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.locks import Claim
from ensemble.jobs.oof import JobOofLogits, Logits, people_halves, save_job_oof, write_history
from ensemble.jobs.spec import JobSpec, identity, training_rows
from ensemble.jobs.stopping import StopRequest, stop_requests
from ensemble.metrics.scores import half_epochs, task_scores
from ensemble.models.build import create, normalisation, save_checkpoint, to_device, to_input
from ensemble.models.precision import AutotuneCache
from ensemble.models.runtime import configure_process
from ensemble.models.torch_engine import TorchEngine
from ensemble.models.tta import apply_view
from ensemble.recipes.tasks import class_labels, scored_mask, training_labels, true_labels
from ensemble.recipes.views import IDENTITY
from ensemble.training.losses import task_loss
from ensemble.training.tracking import TrackedJob, Trackers
from ensemble.training.trainer import Batches, EpochProgress, LossNotFinite, Trainer, load_last, save_last, seed_torch
from folds.errors import MaskensError
from folds.labels import CLASSES, UNKNOWN, IntArray, decode
from folds.people import PhotoSet, TrainData
from folds.ranges import FULL
from folds.run_folder import library_versions, refuse_removed

TICK = 1.0  # seconds between two status files within an epoch
SAVE_EVERY = 300.0  # seconds of an epoch's work that may be lost
SAVE_LAST = 60.0  # seconds at its end, as validation comes next, which may take long
NAMED = 5  # photos of a batch whose loss is not finite


class OutOfTime(Exception):
    """A job's deadline leaves no time for another epoch."""


def view_logits(
    engine: TorchEngine,
    normalised: Normalisation,
    device: torch.device,
    photos: DecodedPhotos,
    rows: IntArray,
    views: tuple[str, ...],
    workers: int = 0,
) -> npt.NDArray[np.float32]:
    """Logits of the photos at `rows`, each view on its own: float32 (views, rows, width). Raises MaskensError: a photo
    that can't be read, or not even one fits into the GPU's memory."""
    found = []
    for batch in plain_batches(photos, rows.tolist(), engine.batch, workers, pin=device.type == "cuda"):
        x = to_input(batch.photos[0], *normalised, device)
        found.append(torch.stack([engine.logits(apply_view(x, view, normalised)).cpu() for view in views]))
    return torch.cat(found, dim=1).numpy()


@dataclass(frozen=True)
class TrainingSet:
    """What a job can be trained on: the photos of the data, and after them those with pseudo-labels."""

    labels: IntArray  # (photos, heads), as they are trained
    states: IntArray  # (photos,), mask labels
    soft: npt.NDArray[np.float32] | None  # (photos, 18); NaN for photos that are not trained on
    files: list[str]  # (photos,)

    @property
    def targets(self) -> IntArray | npt.NDArray[np.float32]:
        """What the model is trained on with each photo: its soft target if there are any, else its labels."""
        return self.labels if self.soft is None else self.soft


def training_set(spec: JobSpec, data: TrainData, folds: IntArray) -> TrainingSet:
    """The photos that a job is trained on are among these; no person of its fold has a soft target. `folds` is int64
    (people,)."""
    recipe, files = spec.task_recipe, list(data.files)
    labels, states = training_labels(recipe.output_spec, data, in_years=recipe.ages.in_years), data.labels[0]
    if spec.pseudo:
        classes = np.maximum(spec.pseudo.classes[spec.fold], 0)  # any for those not taken: they are not trained on
        labels = np.concatenate([labels, class_labels(recipe.output_spec, classes)])
        states = np.concatenate([states, decode(classes)[0]])
        files += spec.pseudo.photos.files
    soft = None
    if spec.soft:
        soft = np.full((len(data.files), CLASSES), np.nan, dtype=np.float32)
        rows = training_rows(spec, data, folds)
        soft[rows] = spec.soft.of(spec.fold, recipe.predicts, data)[rows]
    return TrainingSet(labels, states, soft, files)


class JobRun:
    """A job under way: trains the model of one task on all folds but one, and predicts that one after each epoch; or on
    everybody, predicts nobody, and keeps the last epoch.

    Args:
        folds: int64 (people,).
        claim: on the job; nothing is saved any more once another process has made its own.
    """

    trainer: Trainer | None = None
    trackers: Trackers
    photos: DecodedPhotos
    normalised: Normalisation

    def __init__(self, spec: JobSpec, data: TrainData, folds: IntArray, claim: Claim | None = None) -> None:
        self.spec, self.data, self.claim = spec, data, claim
        self.job, self.whole_recipe = spec.job, spec.task_recipe
        self.device = torch.device(spec.device)
        self.full = spec.fold == FULL
        self.plan_epochs(job_epochs(spec))
        fold = spec.run.k if self.full else spec.fold  # the seed of a stream is not negative
        self.seed = (spec.run.seed, zlib.crc32(spec.task.encode()), fold)
        self.output_spec = self.recipe.output_spec
        self.training_set = training_set(spec, data, folds)
        self.batches = job_batches(spec, data, folds, self.seed)
        self.people = trained_on(spec, data, folds)
        self.truth = true_labels(self.output_spec, data)
        held_out = (folds[data.photo_person] == spec.fold) & data.scored
        scored = scored_mask(self.output_spec, data)
        self.valid_rows = np.flatnonzero(held_out & scored)
        self.oof_rows = np.flatnonzero(held_out & data.photos.readable)
        self.valid = scored[self.oof_rows]
        half = people_halves(data.people, folds == spec.fold, (spec.run.seed, fold))  # alike for all tasks
        self.half = half[data.photo_person[self.oof_rows]]
        self.status = JobStatus(spec.task, spec.fold, "starting", epochs=self.epochs)
        self.validating = 0.0  # seconds that the last validation took
        self.history: list[dict[str, float]] = []
        self.logits: list[Logits] = []  # out-of-fold, after each epoch

    def plan_epochs(self, epochs: int) -> None:
        """Train so many. The model on everybody has the learning rates that the folds had in these epochs."""
        self.epochs = epochs
        self.recipe = self.whole_recipe.of_epochs(full_schedule(self.spec) if self.full else epochs)

    def run(self) -> None:
        """Train to the end, from where an interrupted run of the job stopped.

        Raises:
            MaskensError: last.pt is not of this job, the loss or the logits become NaN or infinite, a full disk.
            KeyboardInterrupt: once what a stop leaves is saved.
            OutOfTime: no epoch is finished, or the model on everybody lacks some; its state is saved.
        """
        self.report(record=self.record())
        configure_process(self.spec.threads)
        self.photos = self.open(self.data.photos)
        resumed = load_last(self.job, identity(self.spec))
        if resumed and (epochs := resumed.get("epochs")):
            self.plan_epochs(epochs)
            self.report(epochs=epochs)
        seed_torch(self.seed, 0)
        model = create(self.recipe.of_fold(self.spec.fold), initial_weights=not resumed)
        self.normalised = normalisation(model)
        to_device(model, self.device)
        self.trainer = trainer = Trainer(
            self.recipe,
            model,
            *self.normalised,
            self.device,
            self.seed,
            len(self.batches),
            AutotuneCache(self.spec.run.folder, self.whole_recipe.hash, self.device, self.spec.threads),
            self.spec.compile,
            torch.from_numpy(self.training_set.labels[self.batches.photos.rows]),
        )
        unfinished = None
        if resumed:
            trainer.load(resumed["trained"])
            self.history, unfinished = resumed["history"], resumed["unfinished"]
            self.logits = [its.numpy() for its in resumed["logits"]]
            if not unfinished:
                self.write_epoch(trainer)  # as the interruption may have come before it
        with Trackers(self.spec.track, self.tracked(self.photos), len(self.history)) as self.trackers:
            if self.history:
                self.report_epoch()
            if self.spec.compile:
                self.report(note="compiling the model, which may take minutes")
            self.train(trainer, unfinished)
        self.epochs = len(self.history)
        if not self.full:
            self.save_oof()
        # last of all: from here on the files are checked against their checksums
        ended = {"epochs": self.epochs, "checksums": self.job.checksums()}
        self.report(state="done", seconds_left=None, note=self.notes(), **ended)
        if stale := self.job.remove_leftovers():
            self.report(note="; ".join(filter(None, (self.status.note, *stale))))

    def save_oof(self) -> None:
        """Save the out-of-fold logits of all epochs, and which of these are the best, or just the last."""
        chosen, files = (self.kept, self.kept), np.array(self.data.files)[self.oof_rows]
        if self.recipe.checkpoint == "best":
            plain = np.stack([self.validated(logits) for logits in self.logits])
            chosen = half_epochs(self.output_spec, plain, self.truth[self.valid_rows], self.half[self.valid])
        oof = JobOofLogits(files, np.stack(self.logits), self.kept, self.half, chosen, self.spec.recipe.oof_views)
        save_job_oof(self.job.oof, oof, self.record())

    def open(self, photos: PhotoSet) -> DecodedPhotos:
        return open_photos(photos, [self.recipe.preprocessing], self.spec.cache, max(1, self.spec.workers))

    def train(self, trainer: Trainer, unfinished: dict[str, Any] | None) -> None:
        """Train the epochs that are left and for which there is time, from the state of an unfinished one if there is
        one."""
        photos: TrainingPhotos = self.photos
        if self.spec.pseudo:
            photos = ConcatDataset([self.photos, self.open(self.spec.pseudo.photos)])  # type: ignore[list-item]
        targets, augment, pin = self.training_set.targets, Augment(self.recipe.augment), self.device.type == "cuda"
        masks = DrawMasks(self.recipe, self.training_set.states, self.training_set.soft is not None)
        loader = train_loader(photos, targets, self.batches, augment, self.seed, self.spec.workers, pin, masks)
        for epoch in range(len(self.history), self.epochs):
            try:
                if epoch and not unfinished and self.late(self.epoch_seconds):
                    raise OutOfTime
                seed_torch(self.seed, epoch + 1)  # so that dropout of a resumed job is as it would have been
                self.train_epoch(trainer, loader, epoch, EpochProgress.begin(unfinished, self.device))
            except OutOfTime:
                if self.full or not self.history:
                    raise
                return
            unfinished = None

    def train_epoch(self, trainer: Trainer, loader: Batches, epoch: int, progress: EpochProgress) -> None:
        """Train an epoch or the rest of one, validate, and save all that it leaves."""
        self.batches.epoch, self.batches.skip = epoch, progress.batches
        started = time.perf_counter() - progress.seconds
        try:
            with stop_requests() as stop:
                trainer.epoch(epoch, loader, self.watch(trainer, stop, epoch), progress)
            mean_loss = progress.mean_loss()
        except LossNotFinite as error:
            keys = next(itertools.islice(self.batches, error.batch, None))
            files = list(dict.fromkeys(self.training_set.files[index] for _, index, _ in keys))
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            raise MaskensError(
                f"the loss became {error.loss} in epoch {epoch + 1}, first in batch {error.batch + 1} of "
                f"{len(self.batches)} ({', '.join(files[:NAMED])}{more}): {self.lower_rate()}"
            ) from error
        validated = time.perf_counter()
        scores, logits = ({}, None) if self.full else self.validate(trainer)
        self.validating = time.perf_counter() - validated
        finite = trainer.finite if logits is None else np.isfinite(logits).all()
        if not finite:  # because of the last updates, after a loss that was finite
            raise MaskensError(f"after epoch {epoch + 1} the model gives no finite logits: {self.lower_rate()}")
        seconds = self.status.seconds + time.perf_counter() - started
        row = {"epoch": epoch + 1, "lr": progress.lr, "loss": mean_loss, **scores}
        self.history.append(row | {"photos_per_s": progress.photos / progress.seconds, "seconds": seconds})
        plain = None
        if logits is not None:
            self.history[-1]["best_f1"] = self.history[self.kept]["f1"]
            self.logits.append(logits)
            plain = self.validated(logits)
        self.trackers.epoch(self.history[-1], plain)  # first, so that a resumed job repeats it
        self.save(trainer)  # before the other files, which can be written anew from it
        self.write_epoch(trainer)
        self.report_epoch()

    def watch(self, trainer: Trainer, stop: StopRequest, epoch: int) -> Callable[[EpochProgress, bool], None]:
        """After each batch: reports the job's first one, then the epoch's progress once a second; after an update saves
        where much would be lost, and where a signal asks to stop or the job's end has passed; then it interrupts."""
        reported = saved = time.monotonic()

        def on_batch(progress: EpochProgress, updated: bool) -> None:
            nonlocal reported, saved
            if self.status.state != "training" or time.monotonic() - reported > TICK:
                reported = time.monotonic()
                speed = progress.photos / progress.seconds
                left = (len(self.batches) * (self.epochs - epoch) - progress.batches) * self.recipe.batch_size / speed
                now = {"epoch": epoch, "loss": progress.mean_loss(), "photos_per_s": speed, "seconds_left": left}
                self.report(state="training", note=self.notes(), **now)
            enough = SAVE_LAST if progress.batches == len(self.batches) else SAVE_EVERY
            late = self.late(self.validating)
            if not updated or (not (stop.made or late) and time.monotonic() - saved < enough):
                return
            if progress.loss.isfinite():  # else what was good stays
                self.save(trainer, progress)
                saved = time.monotonic()
            if stop.made:
                raise KeyboardInterrupt
            if late:
                raise OutOfTime

        return on_batch

    def save(self, trainer: Trainer, progress: EpochProgress | None = None) -> None:
        """Keep what the job resumes from, after an epoch or within one."""
        self.refuse_lost()
        state = {
            "identity": identity(self.spec),
            "trained": trainer.state(),
            "history": self.history,
            "unfinished": progress.state() if progress else None,
            "logits": [torch.from_numpy(its) for its in self.logits],
            "epochs": self.epochs,
        }
        save_last(self.job, state)
        if progress:
            self.report(batches=progress.batches)

    def lower_rate(self) -> str:
        kept = f"; the job's state after epoch {len(self.history)} is kept" if self.history else ""
        return f"lower the learning rate of '{self.spec.task}'{kept}"

    @property
    def kept(self) -> int:
        """The epoch whose model is kept, from 0: the best so far, of equals the first; or the last, as the recipe
        says, and of the model on everybody."""
        f1 = [] if self.full or self.recipe.checkpoint == "last" else [h["f1"] for h in self.history]
        return f1.index(max(f1)) if f1 else len(self.history) - 1

    def write_epoch(self, trainer: Trainer) -> None:
        """Write what the last finished epoch left: the history, and the checkpoint if it is kept, but of the model on
        everybody only at the end."""
        last = len(self.history)
        if self.kept == last - 1 and (not self.full or last == self.epochs):
            f1 = self.history[-1].get("best_f1")
            planned = self.epochs if self.cut else None
            card = job_card(self.spec, self.normalised, self.people, last, f1, planned)
            save_checkpoint(self.job.model, trainer.eval_model, card)
        write_history(self.job, self.history)

    def validate(self, trainer: Trainer) -> tuple[dict[str, float], Logits]:
        """Predict the held-out fold in all views.

        Returns:
            (scores, logits): macro F1, accuracy and loss of the photos as they are, the loss without logit adjustment,
            class balancing and learned weights of the heads; logits float32 (views, photos of the fold, width).
        """
        engine = TorchEngine(trainer.eval_model.eval(), 2 * trainer.micro_batch)
        views, workers = self.spec.recipe.oof_views, self.spec.workers
        every = view_logits(engine, self.normalised, self.device, self.photos, self.oof_rows, views, workers)
        logits = self.validated(every)
        labels = self.training_set.labels[self.valid_rows]
        soft, partial = trainer.targets(torch.from_numpy(labels)).cpu(), bool((labels == UNKNOWN).any())
        loss = task_loss(self.recipe.loss, self.output_spec.heads, torch.from_numpy(logits), soft, partial=partial)
        f1, accuracy = task_scores(self.output_spec, logits, self.truth[self.valid_rows])
        return {"val_loss": float(loss), "f1": f1, "accuracy": accuracy}, every

    def validated(self, logits: Logits) -> Logits:
        """float32 (photos, width): of the scored photos as they are."""
        return np.asarray(logits[self.spec.recipe.oof_views.index(IDENTITY)][self.valid])

    def record(self) -> dict[str, Any]:
        """What decides the result, to be kept with it; precision and compilation once they are known."""
        known = {"fingerprint": self.data.fingerprint, "device": self.spec.device, "threads": self.spec.threads}
        if self.trainer and self.trainer.precision:
            known |= {"precision": self.trainer.precision, "compiled": self.trainer.forward is not self.trainer.model}
        if self.trainer and self.trainer.memory_note:
            known["micro_batch"] = self.trainer.micro_batch
        return identity(self.spec) | known | {"versions": library_versions()}

    def tracked(self, photos: DecodedPhotos) -> TrackedJob:
        """What trackers get at the start."""
        config = {key: value for key, value in self.record().items() if value is not None}
        config |= {"recipe": self.recipe.model_dump(mode="json", exclude_none=True)}
        return TrackedJob(self.job, self.output_spec, config, photos, self.valid_rows, self.truth[self.valid_rows])

    def notes(self) -> str:
        assert self.trainer
        trainer = self.trainer
        notes = (self.cut, trainer.memory_note, trainer.note, trainer.compile_note, self.trackers.note)
        return "; ".join(filter(None, notes))

    @property
    def cut(self) -> str:
        """A note if a deadline leaves fewer epochs than the recipe's, else ""."""
        wanted = self.whole_recipe.epochs
        return f"deadline: {self.epochs} of {wanted} epochs" if self.epochs < wanted and not self.full else ""

    @property
    def epoch_seconds(self) -> float:
        """What the last epoch took; 0 before one is finished."""
        first, last = ([0.0, 0.0] + [h["seconds"] for h in self.history])[-2:]
        return last - first

    def late(self, seconds: float) -> bool:
        """Whether too little time is left so many seconds from now."""
        if (limit := self.spec.limit) is None:
            return False
        slower = max(1.0, self.epoch_seconds / limit.epoch) if limit.epoch else 1.0
        return time.time() + seconds > limit.ends - slower * limit.after

    def report_epoch(self) -> None:
        """Report the last finished epoch."""
        done, epoch = self.history[-1], len(self.history)
        now: dict[str, Any] = {name: done.get(name) for name in ("loss", "f1", "photos_per_s")}
        now |= {"best": done.get("best_f1"), "seconds": done["seconds"]}
        now |= {"seconds_left": (self.epochs - epoch) * done["seconds"] / epoch}
        self.report(state="training", epoch=epoch, batches=0, note=self.notes(), record=self.record(), **now)

    def refuse_lost(self) -> None:
        """Write nothing for a run that is removed, or a job that another process has taken over."""
        refuse_removed(self.spec.run)
        if self.claim:
            self.claim.refuse_taken_over()

    def report(self, **changes: Any) -> None:
        self.refuse_lost()
        self.status = dataclasses.replace(self.status, **changes)
        write_status(self.spec.run, self.status)
