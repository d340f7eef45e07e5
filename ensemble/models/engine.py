"""The inference engine: a model that predicts, made as fast as it gets without another answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ensemble.models.autotune import Forward, compile_model
from ensemble.models.conv_bn import fold_conv_bn
from ensemble.models.precision import (
    FP32,
    EngineName,
    PrecisionChoice,
    PrecisionOption,
    autocast,
    choose_precision,
    forward_seconds,
)
from folds.errors import MaskensError

BATCH = 32  # photos in one forward pass, where it is not worth measuring

SMALLEST, LARGEST = 8, 512

GAIN = 1.03  # how many times faster twice the batch must be


CHECKED = 4  # photos on which a folded model is held against the model as it was trained


EngineOption = Literal[EngineName, "auto"]


@dataclass(frozen=True)
class EngineOptions:
    """How the models predict."""

    precision: PrecisionOption = "fp32"
    compile: bool = False  # by torch
    engine: EngineOption = "torch"
    chosen_before: bool = False  # on other photos of the same inference: only numbers are asked for


AS_TRAINED = EngineOptions()


class InferenceEngine:
    """A model that predicts: the one place where batches become logits, in training and inference alike."""

    def __init__(self, model: Forward, batch: int, precision: PrecisionChoice = FP32) -> None:
        """
        Args:
            model: in eval mode, in channels_last memory; or another engine's.
            batch: photos in one forward pass.
        """
        self.model = model
        self.batch, self.precision = batch, precision
        self.fixed_size = False  # whether a batch of another size would be compiled anew
        self.notes: tuple[str, ...] = ()  # what could not be made faster, and why
        self.compile_seconds = 0.0

    def logits(self, x: Tensor) -> Tensor:
        """Forward passes of `batch` photos each, of half as many from where the GPU's memory was too small on.

        Args:
            x: float32 (n, 3, height, width), on the model's device.

        Returns:
            float32 (n, width), on that device.

        Raises:
            MaskensError: not even one photo fits.
        """
        full = self.filled_up(x) if self.fixed_size else x
        try:
            with torch.inference_mode(), autocast(x.device, self.precision.precision):
                return torch.cat([self.model(part).float() for part in torch.split(full, self.batch)])[: len(x)]
        except torch.OutOfMemoryError:
            if self.batch == 1:
                raise MaskensError("the GPU's memory is too small for one photo; use --device cpu") from None
        torch.cuda.empty_cache()
        self.batch = -(-self.batch // 2)
        return self.logits(x)

    def filled_up(self, x: Tensor) -> Tensor:
        """With copies of its first photo up to whole batches: others would be compiled anew."""
        return torch.cat([x, x[:1].expand(-len(x) % self.batch, -1, -1, -1)])


def fast_engine(model: nn.Module, x: Tensor, options: EngineOptions, batch: int) -> InferenceEngine:
    """Torch, that gives the same answer sooner: batch norms folded, batch size by measurement, compiled if asked.

    Args:
        model: in eval mode, in channels_last memory.
        x: float32 (n, 3, height, width), real photos on the model's device.
        batch: photos in one forward pass; 0 measures which number is fastest.
    """
    folded, note = fold_conv_bn(model, x[:CHECKED])
    chosen = choose_precision(folded, x[:BATCH], options.precision, any_difference=options.chosen_before)
    engine = InferenceEngine(folded, batch or BATCH, chosen)
    if not batch:
        precision = engine.precision.precision
        engine.batch = fastest_batch(len(x), lambda size: forward_seconds(folded, x[:size], precision)[1])
    notes = [note]
    if options.compile:
        whole = engine.filled_up(x[:1])

        def trial(forward: Forward) -> None:
            with torch.inference_mode(), autocast(x.device, engine.precision.precision):
                forward(whole)

        engine.model, engine.compile_seconds, failure = compile_model(folded, trial, predicts=True)
        engine.fixed_size = not failure
        notes.append(failure and f"not compiled, predicts as without --compile: {failure}")
    engine.notes = tuple(filter(None, notes))
    return engine


def fastest_batch(photos: int, seconds: Callable[[int], float]) -> int:
    """Double the batch for as long as that pays.

    Args:
        photos: that there are to measure with.
        seconds: of a forward pass of so many photos; may raise torch.OutOfMemoryError.
    """
    best, speed = SMALLEST, 0.0
    size = min(SMALLEST, photos)
    while size <= min(photos, LARGEST):
        try:
            found = size / seconds(size)
        except torch.OutOfMemoryError:
            break
        if found < GAIN * speed:
            break
        best, speed = size, found
        size *= 2
    return best
