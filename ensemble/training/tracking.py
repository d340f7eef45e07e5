"""Experiment tracking with TensorBoard or Weights & Biases: curves, confusion matrices, worst photos.

A tracker that fails never stops the training.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tomli_w
from PIL import Image

from ensemble.data.cache import DecodedPhotos
from ensemble.jobs.job import Job
from ensemble.jobs.oof import HISTORY
from ensemble.metrics.heads import head_decisions, head_log_probabilities
from ensemble.metrics.scores import confusion, head_scores
from ensemble.recipes.tasks import WIDTHS, OutputSpec
from folds.errors import MaskensError, first_line, refuse_without, typed
from folds.files import sha256
from folds.labels import IntArray
from folds.pages.contact_sheet import Cell, Sheet, draw
from folds.photos import Pixels

SCALARS = [column for column in HISTORY if column not in ("epoch", "seconds")]
WORST = 16  # photos
DPI = 100


@dataclass(frozen=True)
class TrackedJob:
    """What a tracker may know of a job."""

    job: Job
    output_spec: OutputSpec
    config: Mapping[str, Any]  # plain types without None: the task's recipe, hashes, seed, versions
    photos: DecodedPhotos
    rows: IntArray  # int64 (n,): the photos that are validated
    truth: IntArray  # int64 (n, heads): their labels in the scoring bands

    @property
    def name(self) -> str:
        return f"{self.job.task}-{self.job.folder.name}"

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
    """The trackers of a job. One that fails is closed, its error is in `note`, and training continues."""

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

    def epoch(self, row: Mapping[str, float], logits: npt.NDArray[np.float32] | None) -> None:
        """Report an epoch: its row of history.csv, and the logits of the validated photos, float32 (n, width), if there
        are any."""
        if not self.open:
            return
        with self._disabled_on_error(*self.open):
            number, it = int(row["epoch"]), self.tracked
            scalars, pictures = {name: row[name] for name in SCALARS if name in row}, {}
            if logits is not None:
                if len(it.output_spec.heads) > 1:
                    found = head_scores(it.output_spec, logits, it.truth)
                    scalars |= {f"f1/{part}": f1 for part, (f1, _) in found.items()}
                pictures = validation_pictures(f"{it.job}, epoch {number}", it, logits)
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
    """Find out now whether the trackers can be used. Raises MaskensError: a package is not installed, or W&B is to be
    sent to and nobody is logged in."""
    for name in names:
        refuse_without([name], name, f"--track {name}")
    if "wandb" in names:
        offline = "To keep all on this machine: WANDB_MODE=offline maskens train --track wandb"
        wandb = _import_wandb()
        try:
            ready = wandb.setup().settings.mode in ("offline", "disabled", "dryrun") or wandb.login()
        except Exception as error:
            raise MaskensError(f"--track wandb: {first_line(error)}\n{offline}") from error
        if not ready:
            raise MaskensError(f"--track wandb: not logged in. Log in with: wandb login.\n{offline}")


def _import_wandb() -> Any:
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "300")  # by default a run's end waits for the network for ever
    import wandb

    return wandb


def where_to_look(names: Sequence[str], run: Path) -> list[str]:
    """How to see what is tracked, a line a tracker."""
    sync = f"send offline runs with: wandb sync {typed(run)}/*/*/wandb/offline-run-*"
    wandb = f"W&B project {_project()}, group {run.resolve().name}; {sync}"
    lines = {"tensorboard": f"tensorboard --logdir {typed(run)}", "wandb": wandb}
    return [lines[name] for name in names]


def _project() -> str:
    return os.environ.get("WANDB_PROJECT") or "maskens"


def validation_pictures(title: str, of: TrackedJob, logits: npt.NDArray[np.float32]) -> dict[str, Pixels]:
    """`confusion/<part>` for each head of a task, and `worst`; logits are float32 (validated photos, width)."""
    heads, names = (
        of.output_spec.heads,
        OutputSpec(of.output_spec.predicts).names,
    )  # of the bands, whatever bins were trained
    found = {}
    for i, (head, decided) in enumerate(zip(heads, head_decisions(logits, heads), strict=True)):
        matrix = confusion(of.truth[:, i], decided, WIDTHS[head.part])
        found[f"confusion/{head.part}"] = draw_matrix(matrix, names[head.part], f"{title}: {head.part}")
    return found | {"worst": worst_photos(title, of, logits)}


def draw_matrix(matrix: IntArray, names: Sequence[str], title: str) -> Pixels:
    """uint8 (height, width, 3): counts as figures, each row's fractions as colour, of int (classes, classes), whose
    rows are the truth."""
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    many = len(names) > 3
    side = (0.45 if many else 0.95) * len(names) + 1
    figure = Figure(figsize=(side + (2 if many else 1.2), side + (1.4 if many else 0)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="fraction of the true label's photos")
    axes.set_xticks(range(len(names)), names, rotation=90 if many else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row, column in np.ndindex(*matrix.shape):
        count, dark = matrix[row, column], shares[row, column] > 0.5
        colour = "white" if dark else "#1d2430" if count else "#c3c8d0"
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.array(Image.open(buffer).convert("RGB"), dtype=np.uint8)


def worst_photos(title: str, of: TrackedJob, logits: npt.NDArray[np.float32]) -> Pixels:
    """A sheet of the photos with the highest loss against the true labels, all heads of the task together: uint8
    (height, width, 3). `logits` are float32 (validated photos, width)."""
    log_p = [head_log_probabilities(logits, head) for head in of.output_spec.heads]
    losses = -np.sum([np.take_along_axis(p, of.truth[:, [i]], axis=1)[:, 0] for i, p in enumerate(log_p)], axis=0)
    names = [*OutputSpec(of.output_spec.predicts).names.values()]
    cells = []
    for place in np.argsort(-losses, kind="stable")[:WORST]:
        true = ", ".join(n[label] for n, label in zip(names, of.truth[place], strict=True))
        predicted = ", ".join(n[int(p[place].argmax())] for n, p in zip(names, log_p, strict=True))
        file = PurePosixPath(of.photos.files[of.rows[place]])
        probability = f"p(true) {np.exp(-losses[place]):.3g}"
        caption = (f"is {true}", f"as {predicted}", probability, file.parent.name, file.name)
        cells.append(Cell(of.photos[int(of.rows[place])][0], "\n".join(caption)))
    heading = f"{title}: the {len(cells)} photos with the highest loss"
    return np.asarray(draw(Sheet("worst", heading, tuple(cells))), dtype=np.uint8)
