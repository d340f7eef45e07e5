"""ONNX graphs run by onnxruntime and OpenVINO, on the CPU.

Both run parts of a batch side by side, each on a thread of its own: cores that share the arithmetic of a layer wait for
one another after each.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble.models.autotune import Forward
from ensemble.models.onnx_graph import INPUT, OUTPUT, refuse_without
from ensemble.models.precision import EngineName, Precision
from ensemble.models.process import signal_stack_kept
from folds.errors import MaskensError

PART = 8  # photos in one forward pass
EXPORT = ("onnx", "onnxscript")  # torch's exporter is written in the second
NEEDED: dict[EngineName, tuple[str, ...]] = {
    "torch": (),
    "onnxruntime": (*EXPORT, "onnxruntime"),
    "openvino": (*EXPORT, "openvino"),
}
EXTRAS: dict[EngineName, str] = {"torch": "", "onnxruntime": "onnx", "openvino": "openvino"}
PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
}
"""What each engine computes in."""


def refuse_without_engine(engine: EngineName) -> None:
    """Find out now whether an engine is installed. Raises MaskensError if it is not, and how to install it."""
    refuse_without(NEEDED[engine], EXTRAS[engine], f"--engine {engine}")


def installed_engines() -> list[EngineName]:
    """Torch, and the others that are there."""
    found = []
    for engine in NEEDED:
        try:
            refuse_without_engine(engine)
        except MaskensError:
            continue
        found.append(engine)
    return found


def compile_graph(
    engine: EngineName, graph: bytes, size: tuple[int, int], precision: Precision, threads: int
) -> Forward:
    """A graph of `OnnxGraphs` as an engine's model.

    Args:
        size: (height, width) of its photos.
        precision: one of the engine's PRECISIONS.

    Returns:
        float32 (batch, 3, height, width), on the CPU -> float32 (batch, width).

    Raises:
        Exception: whatever the engine raises on a graph that it does not take.
    """
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
