"""Engines other than torch (onnxruntime, OpenVINO) and the choice between them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ensemble.models.engine import (
    BATCH,
    CHECKED,
    LARGEST,
    EngineOption,
    EngineOptions,
    InferenceEngine,
    fast_engine,
    fold_conv_bn,
)
from ensemble.models.onnx_graph import INPUT, OUTPUT, OnnxGraphs
from ensemble.models.precision import (
    FASTER,
    TYPES,
    EngineName,
    Forward,
    Precision,
    PrecisionChoice,
    PrecisionOption,
    largest_difference,
    shortest,
)
from ensemble.models.runtime import signal_stack_kept
from folds.errors import MaskensError, first_line, refuse_without

PART = 8  # photos in one forward pass of onnxruntime and OpenVINO
ROUNDS = 3  # in which engines are timed
SETUP = 10.0  # seconds to trace a model and compile it for the engines, on two cores
REPAID = 0.05  # of torch's time for all photos: what probing may take at most, as it may find nothing faster


PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
}
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}  # maskens[...]


def engine_options(
    engine: EngineOption, precision: PrecisionOption, compile_models: bool, device: str
) -> EngineOptions:
    """How the models are to predict. Raises MaskensError: options that exclude each other, or an engine that is not
    installed."""
    if engine == "auto" and device != "cpu":
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
    return EngineOptions(precision, compile_models, engine)


def _refuse_without_engine(engine: EngineName) -> None:
    if engine in EXTRAS:  # torch's exporter is written in onnxscript
        refuse_without(("onnx", "onnxscript", engine), EXTRAS[engine], f"--engine {engine}")


def installed_engines() -> list[EngineName]:
    """Torch, and the others that are installed."""
    found = []
    for engine in PRECISIONS:
        with contextlib.suppress(MaskensError):
            _refuse_without_engine(engine)
            found.append(engine)
    return found


def choose_engine(
    model: nn.Module,
    x: Tensor,
    options: EngineOptions,
    batch: int,
    graphs: OnnxGraphs,
    passes: float = math.inf,
    models: int = 1,
) -> InferenceEngine:
    """The engine asked for; of `auto` the fastest on a first batch, or torch where trying the others costs more than
    the photos can repay. 16 bits have to be FASTER than 32.

    Where bf16 logits are too far from those of torch in fp32, the engine predicts in fp32. Torch replaces an engine
    that does not take the model or whose fp32 logits differ. Notes report it.

    Args:
        model: in eval mode, in channels_last memory, on the CPU unless torch is asked for.
        x: float32 (n, 3, height, width), real photos on the model's device.
        batch: photos in one forward pass of torch; 0 measures which number is fastest.
        graphs: of the models so far.
        passes: photos times views that each model will see.
        models: that will take the same engine.
    """
    auto, why = options.engine == "auto", ""
    names = [n for n in installed_engines() if n != "torch"] if options.engine == "auto" else [options.engine]
    if auto and not names:
        why = "torch is the only engine here; pip install 'maskens[onnx]' or 'maskens[openvino]' for others"
    elif auto:
        why = _not_repaid(model, x, len(names), passes, models)
    if why or options.engine == "torch":
        engine = fast_engine(model, x, options, batch)
        engine.notes = (*engine.notes, *filter(None, [why]))
        return engine
    folded, note = fold_conv_bn(model, x[:CHECKED])
    notes = [note]
    with torch.inference_mode():
        exact: Tensor = model(x[:BATCH]).float()

    def usable(precisions: Sequence[Precision]) -> list[InferenceEngine]:
        found = []
        for name in names:
            for precision in [p for p in precisions if p in PRECISIONS[name]]:
                limit = math.inf if options.chosen_before else largest_difference(exact, precision)
                engine = _other_engine(name, precision, folded, x, exact, limit, graphs)
                if isinstance(engine, InferenceEngine):
                    found.append(engine)
                else:
                    notes.append(f"{engine}: not used")
        return found

    precisions: tuple[Precision, ...] = ("fp32", "bf16") if options.precision == "auto" else (options.precision,)
    engines = usable(precisions) or ([] if auto or "fp32" in precisions else usable(("fp32",)))
    if auto or not engines:
        engines.append(fast_engine(model, x, options, batch))
    best = engines[0]
    if auto or len(engines) > 1:
        best = _fastest(engines, x, fast_engine(model, x, EngineOptions(), batch))
    best.notes = tuple(filter(None, dict.fromkeys([*notes, *best.notes])))
    return best


def _not_repaid(model: nn.Module, x: Tensor, engines: int, passes: float, models: int) -> str:
    """Why other engines are not tried, by the time of one batch; empty if they are."""
    if math.isinf(passes):
        return ""
    first = x[:BATCH]
    each = shortest(lambda: InferenceEngine(model, BATCH).logits(first), 2) / len(first)
    probing = SETUP * models + each * ROUNDS * len(x) * (engines + 2)
    alone = each * passes * models
    if probing <= REPAID * alone:
        return ""
    return (
        f"engine auto is torch here: trying others would take about {probing:.0f} s, torch {alone:.0f} s for all photos"
    )


def _other_engine(
    name: EngineName,
    precision: Precision,
    folded: nn.Module,
    x: Tensor,
    exact: Tensor,
    limit: float,
    graphs: OnnxGraphs,
) -> InferenceEngine | str:
    """The engine, or why its logits of the first photos are not `exact` up to `limit`."""
    problem = ""
    for anew in (False, True):  # a graph traced of another model may not be this one's
        try:
            graph = graphs.of(folded, x, anew)
            forward = compile_graph(name, graph, (x.shape[2], x.shape[3]), precision, torch.get_num_threads())
            engine = InferenceEngine(forward, LARGEST)
            difference = float((engine.logits(x[: len(exact)]) - exact).abs().max())
        except Exception as error:  # exporter and engines may refuse a model in any way they like
            problem = f"engine {name} does not take it ({first_line(error)})"
            continue
        if difference <= limit:  # not NaN
            engine.precision = PrecisionChoice(precision, difference, "", name)
            return engine
        problem = f"engine {name} moves a logit by {difference:.2g} in {precision}"
    return problem


def _fastest(engines: list[InferenceEngine], x: Tensor, torch_fp32: InferenceEngine) -> InferenceEngine:
    """By time, in turns, as the machine may have other work now and then."""
    times = {id(engine): float("inf") for engine in (*engines, torch_fp32)}
    for _ in range(ROUNDS):
        for engine in (*engines, torch_fp32):
            times[id(engine)] = min(times[id(engine)], shortest(lambda: engine.logits(x), 1))  # noqa: B023

    def cost(engine: InferenceEngine) -> float:
        return times[id(engine)] * (FASTER if engine.precision.precision in TYPES else 1)

    best = min(engines, key=cost)
    best.precision = dataclasses.replace(best.precision, speedup=times[id(torch_fp32)] / times[id(best)])
    return best


def compile_graph(
    engine: EngineName, graph: bytes, size: tuple[int, int], precision: Precision, threads: int
) -> Forward:
    """A graph of `OnnxGraphs` for photos of `size` as an engine's model: float32 (batch, 3, height, width), on the CPU
    -> float32 (batch, width). Raises whatever the engine raises on a graph that it does not take."""
    if engine == "onnxruntime":
        return _onnxruntime(graph, threads)
    with signal_stack_kept():
        return _openvino(graph, size, "bf16" if precision == "bf16" else "f32", threads)


def _onnxruntime(graph: bytes, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(part: npt.NDArray[np.float32]) -> Any:
        return session.run([OUTPUT], {INPUT: part})[0]

    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(np.concatenate(list(_pool(threads).map(run, _parts(x)))))

    return forward


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "onnxruntime")


def _openvino(graph: bytes, size: tuple[int, int], precision: str, threads: int) -> Forward:
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape([PART, 3, *size])
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads, "INFERENCE_PRECISION_HINT": precision}
    queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", options), threads)

    def forward(x: Tensor) -> Tensor:
        parts = _parts(x)
        found: list[Any] = [None] * len(parts)
        queue.set_callback(lambda request, place: found.__setitem__(place, request.get_output_tensor().data.copy()))
        for place, part in enumerate(parts):
            missing = PART - len(part)
            queue.start_async({0: np.pad(part, [(0, missing), *[(0, 0)] * 3]) if missing else part}, place)
        queue.wait_all()
        return torch.from_numpy(np.concatenate(found)[: len(x)])

    return forward


def _parts(x: Tensor) -> list[npt.NDArray[np.float32]]:
    photos = x.contiguous().numpy()
    return [photos[start : start + PART] for start in range(0, len(photos), PART)]
