"""What an engine is, which there are, and how they may be asked to predict. No torch."""

from __future__ import annotations

import contextlib
import math
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from folds.errors import MaskensError, refuse_without

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionOption = Literal["fp32", "bf16", "fp16", "auto"]
EngineName = Literal["torch", "onnxruntime", "openvino"]
EngineOption = Literal[EngineName, "auto"]

PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
}
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}  # maskens[...]
ROUNDS = 3  # in which engines are timed
# assumed seconds, measured on two cores with AVX-512 (benchmarks/startup.py prints those of a machine)
STARTING = 6.0  # to import torch and build models
TRACING = 11.0  # to trace a kind of model
REPAID = 0.05  # of an engine's time for all photos: what trying others may take at most, as none may be faster
BATCH = 32  # photos in one forward pass, where measuring is not worth it
TOLERANCES = {"folded": 1e-4, "fp32": 1e-3, "bf16": 0.05, "fp16": 0.05}
"""How far a logit may be from that of the model as it was trained, as a fraction of the largest logit (at least 1, but
for 16 bits): with folded batch norms, by another engine, in 16 bits."""


def largest_difference(exact: Any, way: str) -> float:
    """By how much logits may differ from `exact`, those of the model as trained (array or tensor); `way` is a key of
    TOLERANCES."""
    scale = float(abs(exact).max())
    return TOLERANCES[way] * (scale if way in ("bf16", "fp16") else max(1.0, scale))


@dataclass(frozen=True)
class PrecisionChoice:
    """How a model predicts, and what that does to its logits."""

    precision: Precision
    difference: float  # largest of a logit from fp32, on the batch that was tried
    note: str  # why it is not the precision asked for
    engine: EngineName = "torch"
    speedup: float = 0.0  # relative to torch in fp32, on that batch; 0 if not measured


FP32 = PrecisionChoice("fp32", 0.0, "")


@dataclass(frozen=True)
class EngineOptions:
    """How the models predict."""

    precision: PrecisionOption = "fp32"
    compile: bool = False  # by torch
    engine: EngineOption = "torch"
    chosen_before: bool = False  # on other photos of the same inference: logits need only be finite
    graphs: bool = True  # graphs are kept beside the checkpoints, and used


AS_TRAINED = EngineOptions()


class Engine(Protocol):
    """A model that predicts."""

    precision: PrecisionChoice
    batch: int  # photos in one forward pass
    notes: tuple[str, ...]  # what could not be made faster, and why
    compile_seconds: float

    def logits(self, x: Any) -> Any:
        """float32 (n, 3, height, width) -> float32 (n, width), arrays or tensors on the model's device."""


def engine_options(
    engine: EngineOption,
    precision: PrecisionOption = "fp32",
    compile_models: bool = False,
    device: str = "cpu",
    graphs: bool = True,
) -> EngineOptions:
    """How the models are to predict. Raises MaskensError: options that exclude each other, or an engine that is not
    installed."""
    if engine == "auto" and (device != "cpu" or installed_engines() == ["torch"]):
        engine = "torch"  # the others run on the CPU
    if device != "cpu" and engine != "torch":
        raise MaskensError(f"--engine {engine} runs on the CPU only. Omit it, or add --device cpu.")
    if compile_models and engine != "torch":
        raise MaskensError(f"--compile needs torch. Omit it, or --engine {engine}.")
    if engine != "auto":
        does = PRECISIONS[engine]
        if precision not in (*does, "auto"):
            able = ", ".join(name for name, others in PRECISIONS.items() if precision in others)
            raise MaskensError(f"--engine {engine} predicts in {', '.join(does)}, not in {precision}; {able} can.")
        _refuse_without_engine(engine)
    return EngineOptions(precision, compile_models, engine, graphs=graphs)


def _refuse_without_engine(engine: EngineName) -> None:
    if engine in EXTRAS:  # torch's exporter is written in onnxscript
        refuse_without(("onnx", "onnxscript", engine), EXTRAS[engine], f"--engine {engine}")


def installed_engines() -> list[EngineName]:
    """Torch, and the others that are installed."""
    found: list[EngineName] = []
    for engine in PRECISIONS:
        with contextlib.suppress(MaskensError):
            _refuse_without_engine(engine)
            found.append(engine)
    return found


def not_repaid(engine: EngineName, each: float, photos: int, others: int, passes: float, setup: float) -> str:
    """Why `auto` takes an engine without trying others: the time that this would take; "" if the photos repay it.

    Args:
        each: seconds of a forward pass of one photo.
        photos: on which engines would be timed.
        others: engines to try.
        passes: of one photo, by all models that will take the same engine.
        setup: seconds before the first of them could be timed.
    """
    if math.isinf(passes):
        return ""
    probing = setup + each * ROUNDS * photos * (others + 2)
    alone = each * passes
    if probing <= REPAID * alone:
        return ""
    return (
        f"engine auto is {engine} here: trying others would take about {probing:.0f} s, "
        f"{engine} {alone:.0f} s for all photos"
    )


def shortest(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the shortest of some calls."""
    return min(timeit.repeat(run, repeat=rounds, number=1))
