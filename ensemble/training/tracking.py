"""Experiment tracking: each epoch told to TensorBoard or Weights & Biases, never at the training's expense."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tomli_w

from ensemble.data.cache import DecodedPhotos
from ensemble.metrics.scores import head_scores
from ensemble.recipes.tasks import OutputSpec
from ensemble.training.pictures import validation_pictures
from folds.errors import MaskensError, first_line, typed
from folds.files import sha256
from folds.labels import IntArray
from folds.photos import Pixels
from folds.run_folder import Run

SCALARS = ("loss", "val_loss", "f1", "accuracy", "best_f1", "lr", "photos_per_s")  # columns of history.csv


@dataclass(frozen=True)
class TrackedJob:
    """What a tracker may know of a job."""

    run: Run
    task: str
    fold: int
    target: OutputSpec
    config: Mapping[str, Any]  # plain types without None: the task's recipe, hashes, seed, versions
    photos: DecodedPhotos
    rows: IntArray  # int64 (n,): the photos that are validated
    truth: IntArray  # int64 (n, heads): their labels in the scoring bands

    @property
    def folder(self) -> Path:
        return self.run.job_folder(self.task, self.fold)

    @property
    def name(self) -> str:
        return f"{self.task}-fold{self.fold}"


@dataclass(frozen=True)
class TrackedEpoch:
    """An epoch as trackers show it."""

    epoch: int  # from 1
    scalars: dict[str, float]
    pictures: dict[str, Pixels]  # each uint8 (h, w, 3)


class Tracker(Protocol):
    """One job's way to one tool. May raise anything: `Trackers` keeps errors from stopping the training."""

    def epoch(self, tracked: TrackedEpoch) -> None: ...

    def close(self, success: bool) -> None: ...


class TensorBoard:
    """Event files in the job's folder."""

    def __init__(self, job: TrackedJob, epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = _folder(job, "tensorboard", epochs)
        begins = not folder.exists()
        self.writer = SummaryWriter(folder, purge_step=epochs + 1)
        if begins:
            text = f"```\n{tomli_w.dumps(job.config)}```"
            self.writer.add_text("job", text, epochs)

    def epoch(self, tracked: TrackedEpoch) -> None:
        for name, value in tracked.scalars.items():
            self.writer.add_scalar(name, value, tracked.epoch)
        for name, picture in tracked.pictures.items():
            self.writer.add_image(name, picture, tracked.epoch, dataformats="HWC")
        self.writer.flush()

    def close(self, success: bool) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases. The steps of a run that goes on only ever rise there: an epoch that is told a
    second time is dropped. A job begun anew therefore replaces the run of its id, and does not resume it."""

    def __init__(self, job: TrackedJob, epochs: int) -> None:
        _folder(job, "wandb", epochs)
        wandb = _import_wandb()
        self.image = wandb.Image
        self.run = wandb.init(
            project=_project(),
            group=job.run.folder.resolve().name,
            name=job.name,
            id=run_id(job),
            resume="allow" if epochs else None,
            reinit="create_new",  # whatever an earlier job left open
            dir=job.folder.resolve(),
            config=dict(job.config),
            allow_val_change=True,  # threads and versions may be others when a job goes on
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )

    def epoch(self, tracked: TrackedEpoch) -> None:
        pictures = {name: self.image(picture) for name, picture in tracked.pictures.items()}
        self.run.log({**tracked.scalars, **pictures}, step=tracked.epoch, commit=True)

    def close(self, success: bool) -> None:
        self.run.finish(exit_code=0 if success else 1)


def _folder(job: TrackedJob, name: str, epochs: int) -> Path:
    """Where a tracker's files go, emptied if the job has no epoch yet: they are of one that never counted."""
    folder = job.folder / name
    if epochs == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def run_id(job: TrackedJob) -> str:
    """W&B's id of a job: the same whenever it goes on, another for any other run."""
    run = job.run
    return sha256(f"{run.folder.resolve()} {run.created} {run.folds_hash} {run.seed} {job.name}")[:16]


TRACKERS: dict[str, Callable[[TrackedJob, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
"""By the names of their packages: (job, finished epochs) -> tracker."""


class Trackers:
    """The trackers of a job. One that fails is given up; `note` says so, and training goes on."""

    def __init__(self, names: Sequence[str], job: TrackedJob, epochs: int) -> None:
        self.job, self.note = job, ""
        self.open: dict[str, Tracker] = {}
        for name in names:
            with self._disabled_on_error(name):
                self.open[name] = TRACKERS[name](job, epochs)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        for name, tracker in [*self.open.items()]:
            with self._disabled_on_error(name):
                del self.open[name]
                tracker.close(kind is None)

    def epoch(self, row: Mapping[str, float], logits: npt.NDArray[np.float32]) -> None:
        """Tell of an epoch.

        Args:
            row: of history.csv.
            logits: float32 (n, width), of the job's validated photos.
        """
        if not self.open:
            return
        with self._disabled_on_error(*self.open):
            tracked = tracked_epoch(self.job, row, logits)
            for name, tracker in [*self.open.items()]:
                with self._disabled_on_error(name):
                    tracker.epoch(tracked)

    @contextlib.contextmanager
    def _disabled_on_error(self, *names: str) -> Iterator[None]:
        """Turn what goes wrong into a note, and do without these trackers from here on."""
        try:
            yield
        except Exception as error:
            words = f"tracking with {' and '.join(names)} ended: {type(error).__name__}: {first_line(error)}"
            self.note = "; ".join(filter(None, (self.note, words)))
            for tracker in [self.open.pop(name) for name in names if name in self.open]:
                with contextlib.suppress(Exception):
                    tracker.close(False)


def tracked_epoch(job: TrackedJob, row: Mapping[str, float], logits: npt.NDArray[np.float32]) -> TrackedEpoch:
    """Scalars and pictures of an epoch; arguments as of `Trackers.epoch`."""
    epoch = int(row["epoch"])
    scalars = {name: row[name] for name in SCALARS}
    if len(job.target.heads) > 1:
        found = head_scores(job.target, logits, job.truth)
        scalars |= {f"f1/{part}": f1 for part, (f1, _) in found.items()}
    title = f"{job.task} fold {job.fold}, epoch {epoch}"
    return TrackedEpoch(epoch, scalars, validation_pictures(title, job.photos, job.rows, job.target, logits, job.truth))


def check_trackers(names: Sequence[str]) -> None:
    """Find out now whether the trackers can be used.

    Raises:
        MaskensError: a package is not installed, or W&B is to be sent to and nobody is logged in.
    """
    missing = [name for name in names if not _installed(name)]
    if missing:
        raise MaskensError(
            f"--track {missing[0]}: {missing[0]} is not installed. Install it: "
            f"pip install 'maskens[{','.join(missing)}]'"
        )
    if "wandb" in names:
        _log_in()


def _installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a folder `wandb` of logs would be found without an origin


def _import_wandb() -> Any:
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "300")  # by default a run's end waits for the network for ever
    import wandb

    return wandb


def _log_in() -> None:
    """Log in to W&B as it likes it, on a terminal with a question, unless it stays offline."""
    offline = "To keep all on this machine: WANDB_MODE=offline maskens train --track wandb"
    wandb = _import_wandb()
    try:
        ready = wandb.setup().settings.mode in ("offline", "disabled", "dryrun") or wandb.login()
    except Exception as error:
        raise MaskensError(f"--track wandb: {first_line(error)}\n{offline}") from error
    if not ready:
        raise MaskensError(f"--track wandb: nobody is logged in (wandb login).\n{offline}")


def where_to_look(names: Sequence[str], run: Path) -> list[str]:
    """How to see what is tracked, a line a tracker."""
    offline = f"what was kept offline is sent by: wandb sync {typed(run)}/*/fold*/wandb/offline-run-*"
    wandb = f"W&B project {_project()}, group {run.resolve().name}; {offline}"
    lines = {"tensorboard": f"tensorboard --logdir {typed(run)}", "wandb": wandb}
    return [lines[name] for name in names]


def _project() -> str:
    return os.environ.get("WANDB_PROJECT") or "maskens"
