"""Mixed precision: arithmetic in 16 bits where the model stands it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]

PrecisionOption = Literal["fp32", "bf16", "fp16", "auto"]

EngineName = Literal["torch", "onnxruntime", "openvino"]

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 0.05  # of the largest logit
FASTER = 1.1  # how many times, before auto takes 16 bits


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which a model's forward pass runs. It is nothing to engines other than torch."""
    if precision not in TYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=TYPES[precision])


def usable_precision(
    model: nn.Module, x: Tensor, wanted: Precision, any_difference: bool = False
) -> tuple[Precision, str]:
    """The precision asked for if the model stands it, else fp32 with the reason.

    Both ways predict one real batch; they must be finite and agree to 5 % of the largest logit. The model
    is in eval mode meanwhile, so that nothing of it changes.

    Args:
        x: float32 (batch, 3, height, width), on the model's device.
        any_difference: they need not agree.

    Returns:
        (precision, message): the message is "" if all is well.
    """
    if wanted == "fp32":
        return wanted, ""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            exact = model(x).float()
            with autocast(x.device, wanted):
                rough = model(x).float()
    except torch.OutOfMemoryError:
        raise  # fp32 needs more still
    except RuntimeError as error:  # a layer without a kernel for this type
        return "fp32", f"precision {wanted} falls back to fp32: {str(error).splitlines()[0]}"
    finally:
        model.train(training)
    if not bool(rough.isfinite().all()):
        return "fp32", f"precision {wanted} falls back to fp32: its logits overflow"
    difference, scale = float((rough - exact).abs().max()), float(exact.abs().max())
    if not difference <= (math.inf if any_difference else TOLERANCE * scale):
        return "fp32", f"precision {wanted} falls back to fp32: its logits differ by {difference:.2g} of {scale:.2g}"
    return wanted, ""


@dataclass(frozen=True)
class PrecisionChoice:
    """How a model will predict, and what that does to its logits."""

    precision: Precision
    difference: float  # largest of a logit against fp32, on the batch that was tried
    note: str  # why it is not the precision asked for
    engine: EngineName = "torch"
    speedup: float = 0.0  # how many times as fast as torch in fp32, on that batch; 0 if that was not measured


FP32 = PrecisionChoice("fp32", 0.0, "")
Benchmark = Callable[[nn.Module, Tensor, Precision], tuple[Tensor, float]]


def choose_precision(
    model: nn.Module,
    x: Tensor,
    wanted: PrecisionOption,
    benchmark: Benchmark | None = None,
    any_difference: bool = False,
) -> PrecisionChoice:
    """The precision to predict in, tried on one real batch.

    `auto` is bf16 (on a GPU fp16) where the model stands it and is FASTER with it, else fp32.

    Args:
        model: in eval mode.
        x: float32 (batch, 3, height, width), on the model's device.
        benchmark: as `forward_seconds`, which it is by default.
        any_difference: as of `usable_precision`.
    """
    benchmark = benchmark or forward_seconds
    if wanted == "fp32":
        return FP32
    small: Precision = wanted if wanted != "auto" else "fp16" if x.device.type == "cuda" else "bf16"
    precision, note = usable_precision(model, x, small, any_difference)
    if precision == "fp32":
        return PrecisionChoice(precision, 0.0, note)
    exact, slow = benchmark(model, x, "fp32")
    rough, fast = benchmark(model, x, precision)
    if wanted == "auto" and slow < FASTER * fast:
        return PrecisionChoice("fp32", 0.0, "")
    return PrecisionChoice(precision, float((rough - exact).abs().max()), "")


def forward_seconds(
    model: Callable[[Tensor], Any], x: Tensor, precision: Precision, rounds: int = 2
) -> tuple[Tensor, float]:
    """(logits float32, the shortest of a few forward passes in seconds), after one that warms up."""

    def forward() -> Tensor:
        with torch.inference_mode(), autocast(x.device, precision):
            logits: Tensor = model(x).float().cpu()  # waits for a GPU
            return logits

    logits = forward()
    return logits, shortest(forward, rounds)


def shortest(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the shortest of some calls."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
