"""What one epoch does to a model, and all that moves along with it: optimizer, averaged weights, scaler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ensemble.losses import one_hot, task_loss
from ensemble.mix import mix_batch
from ensemble.models import to_input
from ensemble.optimise import make_optimizer, make_schedule
from ensemble.precision import Precision, autocast, usable_precision
from ensemble.recipe import TaskRecipe

OnBatch = Callable[[int, Callable[[], float], float], None]
"""(batches done, mean loss so far, photos a second), after each batch."""


class Batches(Protocol):
    """(photos uint8 (batch, h, w, 3), labels int64 (batch, heads)), as often as `len` says."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class EpochResult:
    """What came of an epoch."""

    lr: float  # of its first update
    loss: float  # mean over its photos
    photos_per_s: float


class Trainer:
    """A model in training.

    The averaged weights (`ema`) are those of timm's ModelEmaV3 with warm-up: at first they follow the model
    closely, so that short trainings gain from them too.
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
    ) -> None:
        self.recipe, self.model, self.mean, self.std = recipe, model, mean, std
        self.device, self.seed, self.batches = device, tuple(seed), batches
        self.heads = recipe.target.heads
        self.optimizer = make_optimizer(model, recipe.optimizer)
        self.updates = -(-batches // recipe.accumulate)
        self.set_rate = make_schedule(self.optimizer, recipe.schedule, recipe.epochs, self.updates)
        self.ema = ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.precision: Precision | None = None  # known once the model has seen a batch
        self.note = ""  # why it is not the one asked for
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

    @property
    def kept(self) -> nn.Module:
        """The model that is validated and saved: with averaged weights if the recipe has them."""
        return self.ema.module if self.ema else self.model

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, from which `load` goes on to the same result."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "scaler": self.scaler.state_dict(),
            "precision": self.precision,
            "note": self.note,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.scaler.load_state_dict(state["scaler"])
        self.precision, self.note = state["precision"], state["note"]

    def epoch(self, epoch: int, loader: Batches, on_batch: OnBatch) -> EpochResult:
        """Train on one epoch's batches.

        Args:
            epoch: from 0.
        """
        self.model.train()
        total = torch.zeros((), device=self.device)
        first_rate, seen, started = 0.0, 0, time.perf_counter()
        for number, (photos, labels) in enumerate(loader):
            update, place = divmod(number, self.recipe.accumulate)
            if place == 0:
                rate = self.set_rate(epoch, update)
                first_rate = rate if update == 0 else first_rate
                self.optimizer.zero_grad(set_to_none=True)
            group = min(self.recipe.accumulate, self.batches - update * self.recipe.accumulate)
            loss = self._loss(photos, labels, epoch, number)
            self.scaler.scale(loss / group).backward()  # type: ignore[no-untyped-call]
            if place == group - 1:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                if self.ema:
                    self.ema.update(self.model, step=epoch * self.updates + update + 1)
            total += loss.detach() * len(photos)
            seen += len(photos)
            on_batch(number + 1, _mean(total, seen), seen / (time.perf_counter() - started))
        return EpochResult(first_rate, total.item() / seen, seen / (time.perf_counter() - started))

    def _loss(self, photos: Tensor, labels: Tensor, epoch: int, number: int) -> Tensor:
        x = to_input(photos, self.mean, self.std, self.device)
        if self.precision is None:
            self.precision, self.note = usable_precision(self.model, x, self.recipe.precision)
        truth = one_hot(labels.to(self.device, non_blocking=True), self.heads)
        x, truth = mix_batch(self.recipe.mix, x, truth, (*self.seed, epoch, number))
        with autocast(self.device, self.precision):
            logits = self.model(x)
        return task_loss(self.recipe.loss, self.heads, logits, truth)


def _mean(total: Tensor, seen: int) -> Callable[[], float]:
    return lambda: total.item() / seen
