"""Torch as an engine: batch norms folded into convolutions, and the batch size measured."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ensemble.models.engine import BATCH, FP32, EngineOptions, PrecisionChoice, largest_difference
from ensemble.models.precision import Forward, autocast, choose_precision, compile_model, forward_seconds
from folds.errors import MaskensError, first_line

Photos = TypeVar("Photos", npt.NDArray[np.float32], Tensor)

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)  # not their other subclasses: some change their weights as they run
SMALLEST, LARGEST = 8, 512
GAIN = 1.03  # minimum speed-up of a doubled batch
CHECKED = 2  # photos on which a folded model is compared with the model as it was trained


def fold_conv_bn(model: nn.Module, x: Tensor) -> tuple[nn.Module, str]:
    """A copy of the model in which each batch norm is part of the convolution that feeds it, where there is one.

    In eval mode a batch norm is a scale and a shift of each channel, and so is the end of a convolution (Jacob et al.
    2018, section 3.2). One forward pass shows which convolution feeds which norm, as torch's own tracer can't follow
    all of timm's models. The copy must give the same logits on `x`; it doesn't where a convolution's output is used
    twice.

    Args:
        model: in eval mode.
        x: float32 (batch, 3, height, width), on the model's device.

    Returns:
        (the copy, "") or (the model itself, why); without batch norms (the model, "").
    """
    if not any(map(_foldable, model.modules())):
        return model, ""
    # in whole fp32: the TF32 that cuDNN takes for convolutions rounds to 10 bits, which is above the tolerance
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact, pairs = _pairs(model, x)
        ours = copy.deepcopy(model)
        try:
            for convolution, name in pairs:
                source: Any = ours.get_submodule(convolution)
                norm: Any = ours.get_submodule(name)
                # in float64, so that the logits differ by no more than fp32 arithmetic does anyway
                whole = fuse_conv_bn_eval(source.double(), copy.deepcopy(norm).double())
                ours.set_submodule(convolution, whole.to(torch.float32, memory_format=torch.channels_last))
                rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]  # timm's also activate
                ours.set_submodule(name, nn.Sequential(*(r for r in rest if not isinstance(r, nn.Identity))))
            found = ours(x)
        except (RuntimeError, AttributeError, TypeError) as error:  # the model reads attributes of a removed norm
            return model, f"batch norms stay as they are: {first_line(error)}"
        if not pairs:
            return model, ""
        difference = float((found - exact).abs().max())
    if difference <= largest_difference(exact, "folded"):
        return ours, ""
    return model, f"batch norms stay as they are: folded into convolutions they move a logit by {difference:.2g}"


def _foldable(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and not module.training


def _pairs(model: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[str, str]]]:
    """(the logits, the names of each convolution that runs once and of the norm, run once, that takes its output)."""
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept, so that its id is not given again
    norms: list[tuple[nn.Module, int]] = []
    runs: Counter[nn.Module] = Counter()

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] += 1
        if isinstance(module, nn.BatchNorm2d):
            norms.append((module, id(inputs[0])))
        else:
            outputs[id(output)] = (module, output)

    names = {m: name for name, m in model.named_modules() if type(m) in CONVOLUTIONS or _foldable(m)}
    handles = [m.register_forward_hook(after) for m in names]
    try:
        logits: Tensor = model(x)
    finally:
        for handle in handles:
            handle.remove()
    found = [(outputs[source][0], norm) for norm, source in norms if source in outputs]
    return logits, [(names[c], names[norm]) for c, norm in found if runs[c] == runs[norm] == 1]


class TorchEngine:
    """A model that predicts: the one place where batches become logits, in training and inference alike."""

    def __init__(self, model: Forward, batch: int, precision: PrecisionChoice = FP32) -> None:
        """
        Args:
            model: in eval mode, in channels_last memory; or another engine's.
            batch: photos in one forward pass.
        """
        self.model, self.batch, self.precision = model, batch, precision
        self.fixed_size = False  # compiled for this batch size: others would be compiled, too
        self.notes: tuple[str, ...] = ()  # what could not be made faster, and why
        self.compile_seconds = 0.0

    def logits(self, x: Photos) -> Photos:
        """float32 (n, 3, height, width) -> float32 (n, width), both tensors on the model's device, or arrays.

        Forward passes take `batch` photos each, half as many from where the GPU runs out of memory. Raises MaskensError
        where not even one photo fits.
        """
        if isinstance(x, np.ndarray):
            return self.logits(torch.from_numpy(x)).numpy()
        full = self.padded(x) if self.fixed_size else x
        try:
            with torch.inference_mode(), autocast(x.device, self.precision.precision):
                return torch.cat([self.model(part).float() for part in torch.split(full, self.batch)])[: len(x)]
        except torch.OutOfMemoryError:
            if self.batch == 1:
                raise MaskensError("the GPU's memory is too small for one photo; use --device cpu") from None
        torch.cuda.empty_cache()
        self.batch = -(-self.batch // 2)
        return self.logits(x)

    def padded(self, x: Tensor) -> Tensor:
        """Whole batches: copies of the first photo fill the last one."""
        return torch.cat([x, x[:1].expand(-len(x) % self.batch, -1, -1, -1)])


def fast_engine(model: nn.Module, x: Tensor, options: EngineOptions, batch: int) -> TorchEngine:
    """Torch with the same logits, faster: batch norms folded, batch size by measurement, compiled if asked.

    Args:
        model: in eval mode, in channels_last memory.
        x: float32 (n, 3, height, width), real photos on the model's device.
        batch: photos in one forward pass; 0 measures which number is fastest.
    """
    folded, note = fold_conv_bn(model, x[:CHECKED])
    chosen = choose_precision(folded, x[:BATCH], options.precision, any_difference=options.chosen_before)
    engine = TorchEngine(folded, batch, chosen)
    if not batch:
        engine.batch = fastest_batch(len(x), lambda size: forward_seconds(folded, x[:size], chosen.precision))
    failure = ""
    if options.compile:
        whole = engine.padded(x[:1])

        def trial(forward: Forward) -> None:
            with torch.inference_mode(), autocast(x.device, chosen.precision):
                forward(whole)

        engine.model, engine.compile_seconds, failure = compile_model(folded, trial)
        engine.fixed_size = not failure
    failure = failure and f"not compiled, predicts as without --compile: {failure}"
    engine.notes = tuple(filter(None, (note, failure)))
    return engine


def fastest_batch(photos: int, seconds: Callable[[int], float]) -> int:
    """Double the batch while that pays, up to `photos`; `seconds` of a forward pass may raise OutOfMemoryError."""
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
