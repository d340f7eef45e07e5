"""How far an epoch has come, so that it can be left within and gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemble.jobs.stopping import StopRequest

SAVE_EVERY = 300.0  # seconds of an epoch's work that may be lost
SAVE_LAST = 60.0  # seconds at its end, as validation comes next, which may take long


@dataclass
class EpochProgress:
    """What an epoch has added up so far, after a whole number of updates."""

    loss: Tensor  # float32 (), sum over its photos
    finite: Tensor  # int64 (), batches until that sum is not finite
    batches: int = 0
    photos: int = 0
    lr: float = 0.0  # of its first update
    seconds: float = 0.0

    @classmethod
    def start(cls, device: torch.device) -> EpochProgress:
        """Of an epoch that begins."""
        return cls(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))

    @classmethod
    def begin(cls, state: dict[str, Any] | None, device: torch.device) -> EpochProgress:
        """Of an epoch that goes on from a `state`, from where torch's random streams then go on, too; without one of an
        epoch that begins."""
        if state is None:
            return cls.start(device)
        torch.set_rng_state(state["streams"]["cpu"])
        if device.type == "cuda" and "cuda" in state["streams"]:
            torch.cuda.set_rng_state(state["streams"]["cuda"], device)
        added = state["progress"]
        return cls(**added | {name: added[name].to(device) for name in ("loss", "finite")})

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, from which `begin` goes on."""
        device = self.loss.device
        on_gpu = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
        return {"progress": dict(vars(self)), "streams": {"cpu": torch.get_rng_state(), **on_gpu}}


def seed_torch(seed: Sequence[int], stage: int) -> None:
    """Seed torch's random streams for one stage of a job: 0 the initial weights, then 1 + epoch."""
    torch.manual_seed(int(np.random.SeedSequence([*seed, stage]).generate_state(1, np.uint64)[0] >> 1))


def save_within_epoch(
    save: Callable[[EpochProgress], None], stop: StopRequest, batches: int
) -> Callable[[EpochProgress], None]:
    """What a trainer calls after each update: saves when much would be lost, and when a signal asks to stop.

    Args:
        batches: of the whole epoch.

    Raises:
        KeyboardInterrupt: from the returned function, once what a stop leaves is saved.
    """
    saved = time.monotonic()

    def on_update(progress: EpochProgress) -> None:
        nonlocal saved
        enough = SAVE_LAST if progress.batches == batches else SAVE_EVERY
        if not stop.made and time.monotonic() - saved < enough:
            return
        if progress.loss.isfinite():  # else what was good stays
            save(progress)
            saved = time.monotonic()
        if stop.made:
            raise KeyboardInterrupt

    return on_update
