"""onnxruntime and OpenVINO: a model's graph as an engine on the CPU. No torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ensemble.models.array_views import Array
from ensemble.models.engine import EngineName, Precision, PrecisionChoice
from ensemble.models.runtime import signal_stack_kept

INPUT, OUTPUT = "photos", "logits"  # of a graph
PART = 8  # photos in one forward pass

ArrayForward = Callable[[Array], Array]


class GraphEngine:
    """A graph that predicts."""

    batch = PART

    def __init__(self, forward: ArrayForward, precision: PrecisionChoice) -> None:
        self.logits, self.precision = forward, precision
        self.notes: tuple[str, ...] = ()
        self.compile_seconds = 0.0


def compile_graph(
    engine: EngineName, graph: bytes, size: tuple[int, int], precision: Precision, threads: int, part: int = PART
) -> ArrayForward:
    """A graph, float32 `photos` (batch, 3, height, width) -> float32 `logits` (batch, width), as a function of arrays.

    Parts of a batch run side by side, one thread each. Raises whatever the engine raises on a graph that it does not
    take, and ValueError for one with other inputs or outputs.

    Args:
        size: height and width of the photos.
        part: photos in one forward pass, at most.
    """
    if engine == "onnxruntime":
        return _onnxruntime(graph, threads, part)
    with signal_stack_kept():
        return _openvino(graph, size, "bf16" if precision == "bf16" else "f32", threads, part)


def _onnxruntime(graph: bytes, threads: int, part: int) -> ArrayForward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.load_model_format", "ONNX")  # and no other format that it knows
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    _check_ends([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()])

    def run(photos: Array) -> Any:
        return session.run([OUTPUT], {INPUT: np.ascontiguousarray(photos)})[0]

    def forward(x: Array) -> Array:
        return np.concatenate(list(_pool(threads).map(run, _parts(x, min(part, -(-len(x) // threads))))))

    return forward


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "onnxruntime")


def _openvino(graph: bytes, size: tuple[int, int], precision: str, threads: int, part: int) -> ArrayForward:
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    _check_ends(*([name for end in ends for name in end.get_names()] for ends in (model.inputs, model.outputs)))
    model.reshape([part, 3, *size])
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads, "INFERENCE_PRECISION_HINT": precision}
    queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", options), threads)

    def forward(x: Array) -> Array:
        parts = _parts(x, part)
        found: list[Any] = [None] * len(parts)
        queue.set_callback(lambda request, place: found.__setitem__(place, request.get_output_tensor().data.copy()))
        for place, photos in enumerate(parts):
            filled = np.pad(photos, [(0, part - len(photos)), *[(0, 0)] * 3])
            queue.start_async({0: np.ascontiguousarray(filled)}, place)
        queue.wait_all()
        return np.concatenate(found)[: len(x)]

    return forward


def _check_ends(inputs: list[str], outputs: list[str]) -> None:
    if (inputs, outputs) != ([INPUT], [OUTPUT]):
        raise ValueError(f"its inputs are {inputs} and its outputs {outputs}, not {INPUT} and {OUTPUT}")


def _parts(x: Array, size: int) -> list[Array]:
    return [x[start : start + size] for start in range(0, len(x), size)]
