"""One epoch of training, and the state from which it resumes, between or within epochs."""

from __future__ import annotations

import contextlib
import io
import math
import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from ensemble.data.loader import mix_batch
from ensemble.jobs.job import Job
from ensemble.models.build import to_input
from ensemble.models.engine import Precision
from ensemble.models.precision import AutotuneCache, Forward, autocast, autotune_precision, compile_for_training
from ensemble.models.runtime import give_back_memory, is_out_of_memory
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.losses import bin_counts, class_table, label_targets, target_tables, task_loss
from ensemble.training.optimizer import backbone_freezer, ema_decay, freeze_stages, make_optimizer, make_schedule
from folds.errors import MaskensError
from folds.files import replacing
from folds.labels import UNKNOWN

Batches = Iterable[tuple[Tensor, Tensor]]
"""(photos uint8 (batch, h, w, 3), labels int64 (batch, heads) or soft targets float32 (batch, 18))."""

PlacedBatch = tuple[Tensor, Tensor, int, int]
"""(photos, labels, epoch, place in the epoch)."""


@dataclass
class EpochProgress:
    """Sums over an epoch so far, after a whole number of updates."""

    loss: Tensor  # float32 (), sum over its photos
    finite: Tensor  # int64 (), batches until that sum is not finite
    batches: int = 0
    photos: int = 0
    lr: float = 0.0  # of its first update
    seconds: float = 0.0

    @classmethod
    def begin(cls, state: dict[str, Any] | None, device: torch.device) -> EpochProgress:
        """Of a new epoch, or of one that resumes from a `state`: then torch's random streams resume, too."""
        if state is None:
            return cls(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))
        torch.set_rng_state(state["streams"]["cpu"])
        if device.type == "cuda" and "cuda" in state["streams"]:
            torch.cuda.set_rng_state(state["streams"]["cuda"], device)
        sums = state["progress"]
        return cls(**sums | {name: sums[name].to(device) for name in ("loss", "finite")})

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, from which `begin` resumes."""
        device = self.loss.device
        on_gpu = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
        return {"progress": dict(vars(self)), "streams": {"cpu": torch.get_rng_state(), **on_gpu}}

    def mean_loss(self) -> float:
        """Over the photos so far. Synchronises a GPU. Raises LossNotFinite."""
        found = self.loss.item() / self.photos
        if not math.isfinite(found):
            raise LossNotFinite(found, int(self.finite))
        return found


class LossNotFinite(Exception):
    """The loss became NaN or infinite: in `batch`, counted from 0, for the first time in its epoch."""

    def __init__(self, loss: float, batch: int) -> None:
        super().__init__(f"the loss became {loss} in batch {batch}")
        self.loss, self.batch = loss, batch


def seed_torch(seed: Sequence[int], stage: int) -> None:
    """Seed torch's random streams for one stage of a job: 0 the initial weights, then 1 + epoch."""
    torch.manual_seed(int(np.random.SeedSequence([*seed, stage]).generate_state(1, np.uint64)[0] >> 1))


class Trainer:
    """A model in training.

    `ema` is timm's ModelEmaV3 with the decay of `ema_decay`; `average_epochs` the mean of the weights after each of the
    last epochs (Izmailov et al. 2018, "Averaging weights leads to wider optima"; Wortsman et al. 2022, "Model soups").
    Batches of `head_epochs` and `sizes` go through the plain model, as a compiled one is made for one size.
    Where memory runs out, batches go through the model in micro-batches, whose gradients are accumulated.

    Args:
        batches: of an epoch.
        labels: int64 (photos, heads), the labels of the training photos: `task_loss` gets their counts.
    """

    def __init__(
        self,
        recipe: TaskRecipe,
        model: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        seed: Sequence[int],
        batches: int,
        measured: AutotuneCache | None = None,
        compile: bool = False,
        labels: Tensor | None = None,
    ) -> None:
        self.recipe, self.model, self.mean, self.std = recipe, model, mean, std
        self.device, self.seed, self.batches = device, tuple(seed), batches
        self.measured, self.compile = measured, compile
        self.heads = recipe.output_spec.heads
        tables = target_tables(recipe.output_spec, recipe.ages.sigma)
        self.tables = [table.to(device) for table in tables]
        self.class_table = class_table(recipe.output_spec).to(device)
        self.partial = labels is not None and bool((labels == UNKNOWN).any())
        self.counts = [] if labels is None else [count.to(device) for count in bin_counts(labels, tables)]
        self.frozen_norms = freeze_stages(model, recipe.frozen_stages) if recipe.frozen_stages else []
        self.optimizer = make_optimizer(model, recipe.optimizer)
        self.log_variances = None
        if recipe.loss.balance == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(self.heads), device=device))
            self.optimizer.add_param_group({"params": [self.log_variances], "weight_decay": 0.0})
        self.updates = -(-batches // recipe.accumulate)
        self.set_lr = make_schedule(self.optimizer, recipe.schedule, recipe.epochs, self.updates)
        self.freeze_backbone = backbone_freezer(model) if recipe.head_epochs else None
        self.ema = ModelEmaV3(model) if recipe.ema else None
        self.average = AveragedModel(model) if recipe.average_epochs else None
        self.forward: Forward = model  # what batches go through: the model or its compiled form
        self.ready = False  # `forward` and `precision` are set on the first batch
        self.precision: Precision | None = None
        self.note, self.compile_note = "", ""  # what the user should know of the two
        self.micro_batch = recipe.batch_size  # most photos of one forward and backward pass
        self.scaler = self._scaler()

    def _scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and saved: after the last epoch the mean of the last `average_epochs`, else the
        running mean `ema`, else the model itself."""
        if self.average and int(self.average.n_averaged) == self.recipe.average_epochs:
            return self.average.module
        return self.ema.module if self.ema else self.model

    @property
    def finite(self) -> bool:
        """Whether all weights of `eval_model` are numbers."""
        return all(bool(weight.isfinite().all()) for weight in self.eval_model.parameters())

    @property
    def memory_note(self) -> str:
        smaller = self.micro_batch < self.recipe.batch_size
        return f"out of memory: micro-batches of {self.micro_batch}, gradients accumulated" if smaller else ""

    def targets(self, labels: Tensor) -> Tensor:
        """Targets on the device, float32 (n, bins of all heads), of labels int64 (n, heads), or of a student's float32
        (n, 18), probabilities of the classes."""
        labels = labels.to(self.device, non_blocking=True)
        return labels @ self.class_table if labels.is_floating_point() else label_targets(labels, self.tables)

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, from which `load` resumes to the same result."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "average": self.average.state_dict() if self.average else None,
            "scaler": self.scaler.state_dict(),
            "precision": self.precision,
            "note": self.note,
            "micro_batch": self.micro_batch,
            "log_variances": None if self.log_variances is None else self.log_variances.detach(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        if self.log_variances is not None:
            self.log_variances.data.copy_(state["log_variances"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.precision, self.note = state["precision"], state["note"]
        self.micro_batch = state.get("micro_batch", self.micro_batch)  # none in files of earlier versions
        self.scaler = self._scaler()
        self.scaler.load_state_dict(state["scaler"])

    def epoch(
        self,
        epoch: int,
        loader: Batches,
        on_batch: Callable[[EpochProgress, bool], None],
        progress: EpochProgress | None = None,
    ) -> None:
        """Train on one epoch's batches.

        Args:
            epoch: from 0.
            on_batch: called after each batch, and whether it ended an update, so that the state of the trainer is
                whole; may end the epoch by raising.
            progress: of an epoch that resumes; `loader` then begins with its next batch.

        Raises:
            LossNotFinite: found when the loss is asked for, and at the latest at the end of the epoch.
            torch.OutOfMemoryError: not even one photo fits into memory.
        """
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()
        p = progress or EpochProgress.begin(None, self.device)
        started = time.perf_counter() - p.seconds
        batches: list[PlacedBatch] = []  # of this update
        for number, (photos, labels) in enumerate(loader, start=p.batches):
            while not self.ready:
                with self._halving():
                    started += self._get_ready(photos[: self.micro_batch])
            update, place = divmod(number, self.recipe.accumulate)
            if place == 0:
                rate = self.set_lr(epoch, update)
                p.lr = rate if update == 0 else p.lr
                if self.freeze_backbone:
                    self.freeze_backbone(self._head_only(epoch, number))
                self.optimizer.zero_grad(set_to_none=True)
                batches.clear()
            group = min(self.recipe.accumulate, self.batches - update * self.recipe.accumulate)
            batches.append((photos, labels, epoch, number))
            loss = self._accumulate(batches, group)
            if place == group - 1:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                if self.ema:
                    self.ema.decay = ema_decay(self.recipe.ema, epoch * self.updates + update + 1)
                    self.ema.update(self.model)
            p.loss += loss * len(photos)
            p.finite += p.loss.isfinite()
            p.batches, p.photos, p.seconds = number + 1, p.photos + len(photos), time.perf_counter() - started
            on_batch(p, place == group - 1)
        p.mean_loss()
        if self.average and epoch >= self.recipe.epochs - self.recipe.average_epochs:
            self.average.update_parameters(self.ema.module if self.ema else self.model)
            if epoch == self.recipe.epochs - 1:  # batch norm's statistics are those of the mean weights' activations
                inputs = (to_input(photos, self.mean, self.std, self.device) for photos, _ in loader)
                update_bn(inputs, self.average.module)

    def _head_only(self, epoch: int, number: int) -> bool:
        """Whether a batch trains the classifier alone."""
        update = epoch * self.updates + number // self.recipe.accumulate
        return update < round(self.recipe.head_epochs * self.updates)

    def _get_ready(self, photos: Tensor) -> float:
        """Choose the precision and compile the model, on the first batch; returns the seconds."""
        began = time.perf_counter()
        x = to_input(photos, self.mean, self.std, self.device)
        if self.precision is None:
            self.precision, self.note = autotune_precision(self.model, x, self.recipe.precision, self.measured)
            self.scaler = self._scaler()
        self.ready = True
        if self.compile:
            self.forward, self.compile_note = compile_for_training(self.model, x, self.precision)
        return time.perf_counter() - began

    def _accumulate(self, batches: Sequence[PlacedBatch], group: int) -> Tensor:
        """Add the gradients of the last of an update's batches so far; returns its mean loss, detached. If memory runs
        out, all of them are computed anew in smaller micro-batches: the failed pass left a part of its gradients."""
        left = batches[-1:]
        while True:
            with self._halving():
                return [self._backward(batch, group) for batch in left][-1]
            self.optimizer.zero_grad(set_to_none=True)
            left = batches

    def _backward(self, batch: PlacedBatch, group: int) -> Tensor:
        """Add a batch's gradients, in micro-batches of nearly equal sizes; returns its mean loss, detached.

        The loss is a mean over photos, so that micro-batches count by their photos; that of soft F1 is then the mean of
        theirs.
        """
        photos, labels, epoch, number = batch
        x = to_input(photos, self.mean, self.std, self.device)
        smaller = epoch < len(self.recipe.sizes)
        if smaller:
            x = F.interpolate(x, self.recipe.sizes[epoch], mode="bilinear", antialias=True)
        forward = self.model if smaller or self._head_only(epoch, number) else self.forward
        x, truth = mix_batch(self.recipe.mix, x, self.targets(labels), (*self.seed, epoch, number))
        total, parts = torch.zeros((), device=self.device), -(-len(x) // self.micro_batch)
        for part, its_truth in zip(x.tensor_split(parts), truth.tensor_split(parts), strict=True):
            with autocast(self.device, self.precision or "fp32"):
                logits = forward(part)
            given = (self.counts, self.log_variances, self.partial)
            loss = task_loss(self.recipe.loss, self.heads, logits, its_truth, *given)
            loss = loss * (len(part) / len(x))
            self.scaler.scale(loss / group).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    @contextlib.contextmanager
    def _halving(self) -> Iterator[None]:
        """Halve the micro-batch if memory runs out within. Raises torch.OutOfMemoryError: it is one photo already."""
        try:
            yield
            return
        except (RuntimeError, ValueError, MemoryError) as error:
            alone = self.micro_batch == 1 and "more than 1 value per channel" in str(error)  # a batch norm of one photo
            if not (alone or is_out_of_memory(error)):
                raise
            if self.micro_batch == 1:
                raise torch.OutOfMemoryError(str(error)) from error
            traceback.clear_frames(error.__traceback__)  # with the tensors of the failed pass
        self.micro_batch = -(-self.micro_batch // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        give_back_memory()


def save_last(job: Job, state: dict[str, Any]) -> None:
    """Replace last.pt, atomically. The state is of tensors and plain types only, as it loads with `weights_only`, and
    holds the job's `identity`, which must be equal to resume."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(job.last) as handle:
        handle.write(buffer.getbuffer())


def load_last(job: Job, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state to resume from, or None where there is none. Raises MaskensError: damaged, or of another recipe, seed
    or folds, or other pseudo-labels or soft targets."""
    path, advice = job.last, f"Start this job over: {job.restart_command}"
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, and does not check them
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = state["identity"]
    except Exception as error:
        raise MaskensError(f"{path} is damaged ({type(error).__name__}). {advice}") from error
    if before != identity:
        others = "another recipe, seed or folds, or other pseudo-labels or soft targets"
        raise MaskensError(f"{path} comes from {others}. {advice}")
    return state
