"""A trained model made as fast as it gets without another answer: norms folded, batch size by measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.models.conv_bn import fused
from ensemble.models.precision import Asked, Chosen, autocast, choose_precision
from ensemble.models.process import quiet
from folds.errors import MaskensError, first_line

BATCH = 32  # photos in one forward pass, where it is not worth measuring

SMALLEST, LARGEST = 8, 512

GAIN = 1.03  # how many times faster twice the batch must be

BACKEND: Any = "inductor"  # of torch.compile

CHECKED = 4  # photos on which a folded model is held against the model as it was trained


@dataclass(frozen=True)
class Execution:
    """How the models predict."""

    precision: Asked = "fp32"
    compile: bool = False


AS_TRAINED = Execution()


class Ready:
    """A model that predicts; `logits` is all it is for."""

    def __init__(self, model: nn.Module, x: Tensor, execution: Execution, batch: int) -> None:
        """
        Args:
            model: in eval mode, in channels_last memory.
            x: float32 (n, 3, height, width), real photos on the model's device.
            batch: photos in one forward pass; 0 measures which number is fastest.
        """
        self.model = fused(model, x[:CHECKED])
        self.chosen: Chosen = choose_precision(self.model, x[:BATCH], execution.precision)
        self.compiled = execution.compile
        self.batch = batch or self._fastest(x)
        self.warm_up = self._compile(x) if execution.compile else 0.0  # seconds

    def logits(self, x: Tensor) -> Tensor:
        """Forward passes of `batch` photos each, of half as many from where the GPU's memory was too small on.

        Args:
            x: float32 (n, 3, height, width), on the model's device.

        Returns:
            float32 (n, width), on that device.

        Raises:
            MaskensError: not even one photo fits.
        """
        full = self._filled_up(x) if self.compiled else x
        try:
            with torch.inference_mode(), autocast(x.device, self.chosen.precision):
                return torch.cat([self.model(part).float() for part in torch.split(full, self.batch)])[: len(x)]
        except torch.OutOfMemoryError:
            if self.batch == 1:
                raise MaskensError("the GPU's memory is too small for one photo; use --device cpu") from None
        torch.cuda.empty_cache()
        self.batch = -(-self.batch // 2)
        return self.logits(x)

    def _filled_up(self, x: Tensor) -> Tensor:
        """With copies of its first photo up to whole batches: one of another size would be compiled anew."""
        return torch.cat([x, x[:1].expand(-len(x) % self.batch, -1, -1, -1)])

    def _fastest(self, x: Tensor) -> int:
        """Double the batch for as long as that pays."""
        best, speed = SMALLEST, 0.0
        size = min(SMALLEST, len(x))
        while size <= min(len(x), LARGEST):
            try:
                found = size / self._seconds(x[:size])
            except torch.OutOfMemoryError:
                break
            if found < GAIN * speed:
                break
            best, speed = size, found
            size *= 2
        return best

    def _seconds(self, x: Tensor) -> float:
        times = []
        with torch.inference_mode(), autocast(x.device, self.chosen.precision):
            for _ in range(3):  # the first warms up
                started = time.perf_counter()
                self.model(x).float().cpu()  # waits for a GPU
                times.append(time.perf_counter() - started)
        return min(times[1:])

    def _compile(self, x: Tensor) -> float:
        started = time.perf_counter()
        self.model.compile(backend=BACKEND)
        try:
            with quiet():
                self.logits(x[:1])
        except Exception as error:  # of many kinds: no C++ compiler, a layer that can't be compiled
            raise MaskensError(f"a model can't be compiled here ({first_line(error)}); leave out --compile") from error
        return time.perf_counter() - started
