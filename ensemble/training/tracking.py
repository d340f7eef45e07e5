"""Experiment tracking with TensorBoard or Weights & Biases. A tracker that fails never stops the training."""

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
from ensemble.jobs.job import Job
from ensemble.metrics.scores import head_scores
from ensemble.recipes.tasks import OutputSpec
from ensemble.training.pictures import validation_pictures
from folds.errors import MaskensError, first_line, typed
from folds.files import sha256
from folds.labels import IntArray
from folds.photos import Pixels

SCALARS = ("loss", "val_loss", "f1", "accuracy", "best_f1", "lr", "photos_per_s")  # columns of history.csv


@dataclass(frozen=True)
class TrackedJob:
    """What a tracker may know of a job."""

    job: Job
    target: OutputSpec
    config: Mapping[str, Any]  # plain types without None: the task's recipe, hashes, seed, versions
    photos: DecodedPhotos
    rows: IntArray  # int64 (n,): the photos that are validated
    truth: IntArray  # int64 (n, heads): their labels in the scoring bands

    @property
    def name(self) -> str:
        return f"{self.job.task}-fold{self.job.fold}"

    def folder(self, tracker: str, epochs: int) -> Path:
        """Where a tracker's files go, emptied if the job has no finished epoch."""
        folder = self.job.folder / tracker
        if epochs == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return folder


class Tracker(Protocol):
    """One job's way to one tool. May raise anything: `Trackers` keeps errors from stopping the training."""

    def epoch(self, number: int, scalars: Mapping[str, float], pictures: Mapping[str, Pixels]) -> None: ...

    def close(self, success: bool) -> None: ...


class TensorBoard:
    """Event files in the job's folder."""

    def __init__(self, tracked: TrackedJob, epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = tracked.folder("tensorboard", epochs)
        begins = not folder.exists()
        self.writer = SummaryWriter(folder, purge_step=epochs + 1)
        if begins:
            self.writer.add_text("job", f"```\n{tomli_w.dumps(tracked.config)}```", epochs)

    def epoch(self, number: int, scalars: Mapping[str, float], pictures: Mapping[str, Pixels]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, number)
        for name, picture in pictures.items():
            self.writer.add_image(name, picture, number, dataformats="HWC")
        self.writer.flush()

    def close(self, success: bool) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases. W&B drops an epoch that is reported a second time, so a job that starts over replaces
    the run of its id."""

    def __init__(self, tracked: TrackedJob, epochs: int) -> None:
        tracked.folder("wandb", epochs)
        wandb = _import_wandb()
        self.image = wandb.Image
        self.run = wandb.init(
            project=_project(),
            group=tracked.job.run.folder.resolve().name,
            name=tracked.name,
            id=run_id(tracked),
            resume="allow" if epochs else None,
            reinit="create_new",  # whatever an earlier job left open
            dir=tracked.job.folder.resolve(),
            config=dict(tracked.config),
            allow_val_change=True,  # threads and versions may be others when a job resumes
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )

    def epoch(self, number: int, scalars: Mapping[str, float], pictures: Mapping[str, Pixels]) -> None:
        images = {name: self.image(picture) for name, picture in pictures.items()}
        self.run.log({**scalars, **images}, step=number, commit=True)

    def close(self, success: bool) -> None:
        self.run.finish(exit_code=0 if success else 1)


def run_id(tracked: TrackedJob) -> str:
    """W&B's id of a job: the same whenever it resumes, another for any other run."""
    run = tracked.job.run
    return sha256(f"{run.folder.resolve()} {run.created} {run.folds_hash} {run.seed} {tracked.name}")[:16]


# names of their packages -> (job, finished epochs) -> tracker
TRACKERS: dict[str, Callable[[TrackedJob, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Trackers:
    """The trackers of a job. One that fails is closed; `note` says so, and training continues."""

    def __init__(self, names: Sequence[str], tracked: TrackedJob, epochs: int) -> None:
        self.tracked, self.note = tracked, ""
        self.open: dict[str, Tracker] = {}
        for name in names:
            with self._disabled_on_error(name):
                self.open[name] = TRACKERS[name](tracked, epochs)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        for name, tracker in [*self.open.items()]:
            with self._disabled_on_error(name):
                del self.open[name]
                tracker.close(kind is None)

    def epoch(self, row: Mapping[str, float], logits: npt.NDArray[np.float32]) -> None:
        """Report an epoch: its row of history.csv, and the logits of the validated photos, float32 (n, width)."""
        if not self.open:
            return
        with self._disabled_on_error(*self.open):
            number, it = int(row["epoch"]), self.tracked
            scalars = {name: row[name] for name in SCALARS}
            if len(it.target.heads) > 1:
                found = head_scores(it.target, logits, it.truth)
                scalars |= {f"f1/{part}": f1 for part, (f1, _) in found.items()}
            title = f"{it.job}, epoch {number}"
            pictures = validation_pictures(title, it.photos, it.rows, it.target, logits, it.truth)
            for name, tracker in [*self.open.items()]:
                with self._disabled_on_error(name):
                    tracker.epoch(number, scalars, pictures)

    @contextlib.contextmanager
    def _disabled_on_error(self, *names: str) -> Iterator[None]:
        """Turn an error into a note, and close these trackers."""
        try:
            yield
        except Exception as error:
            message = f"tracking with {' and '.join(names)} stopped: {type(error).__name__}: {first_line(error)}"
            self.note = "; ".join(filter(None, (self.note, message)))
            for tracker in [self.open.pop(name) for name in names if name in self.open]:
                with contextlib.suppress(Exception):
                    tracker.close(False)


def check_trackers(names: Sequence[str]) -> None:
    """Find out now whether the trackers can be used.

    Raises:
        MaskensError: a package is not installed, or W&B is to be sent to and nobody is logged in.
    """
    specs = {name: importlib.util.find_spec(name) for name in names}
    missing = [n for n, spec in specs.items() if not (spec and spec.origin)]  # a folder of logs has no origin
    if missing:
        extras = ",".join(missing)
        raise MaskensError(f"--track: {missing[0]} is not installed. Install: pip install 'maskens[{extras}]'")
    if "wandb" in names:
        offline = "To keep all on this machine: WANDB_MODE=offline maskens train --track wandb"
        wandb = _import_wandb()
        try:
            ready = wandb.setup().settings.mode in ("offline", "disabled", "dryrun") or wandb.login()
        except Exception as error:
            raise MaskensError(f"--track wandb: {first_line(error)}\n{offline}") from error
        if not ready:
            raise MaskensError(f"--track wandb: nobody is logged in (wandb login).\n{offline}")


def _import_wandb() -> Any:
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "300")  # by default a run's end waits for the network for ever
    import wandb

    return wandb


def where_to_look(names: Sequence[str], run: Path) -> list[str]:
    """How to see what is tracked, a line a tracker."""
    sync = f"send offline runs with: wandb sync {typed(run)}/*/fold*/wandb/offline-run-*"
    wandb = f"W&B project {_project()}, group {run.resolve().name}; {sync}"
    lines = {"tensorboard": f"tensorboard --logdir {typed(run)}", "wandb": wandb}
    return [lines[name] for name in names]


def _project() -> str:
    return os.environ.get("WANDB_PROJECT") or "maskens"
