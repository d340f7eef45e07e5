"""Models as ONNX graphs, for the engines that run one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.models.graph_engine import INPUT, OUTPUT
from ensemble.models.kept_graphs import GraphRecord, KeptGraph
from ensemble.models.runtime import quiet
from folds.errors import MaskensError

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.onnx import ONNXProgram

OPSET = 18  # read by onnxruntime from 1.14 on


class OnnxGraphs:
    """Graphs of models. Tracing takes seconds, so models that differ only in their weights share what was traced."""

    def __init__(self) -> None:
        self._traced: dict[str, ModelProto] = {}
        self.seconds: dict[str, tuple[float, float]] = {}  # engine and kind of model -> of a photo, by it and by torch
        self.kept: dict[Path, int] = {}  # file -> its bytes, of those that were written
        self.problem = ""  # why one was not

    def of(self, model: nn.Module, x: Tensor, anew: bool = False) -> bytes:
        """The graph of a model: float32 `photos` (batch, 3, height, width) -> float32 `logits` (batch, width).

        Models that print alike share a graph unless it is to be traced `anew`: the caller checks its logits on photos.
        An architecture may defy tracing with any exception.

        Args:
            model: in eval mode, on the CPU.
            x: float32 (batch, 3, height, width) of the height and width that the graph is for.
        """
        kind = f"{model} {tuple(x.shape[1:])}"
        found = None if anew or kind not in self._traced else _with_weights(self._traced[kind], model)
        if found is None:
            found = self._traced[kind] = trace(model, x).model_proto
        return bytes(found.SerializeToString())

    def keep(self, place: KeptGraph, graph: bytes, record: GraphRecord) -> None:
        """Keep a model's graph. Where that fails, `problem` says why."""
        try:
            place.keep(graph, record)
            self.kept[place.file] = len(graph)
        except MaskensError as error:
            self.problem = str(error)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was kept, and what could not be."""
        megabytes = sum(self.kept.values()) / 1e6
        kept = f"graphs of {len(self.kept)} models kept beside their checkpoints for the next time, {megabytes:.0f} MB"
        return (
            *([f"{kept}; --no-graphs keeps none"] if self.kept else []),
            *([f"graphs are not kept: {self.problem}"] if self.problem else []),
        )


def trace(model: nn.Module, x: Tensor) -> ONNXProgram:
    """A model, in eval mode and on the CPU, as an ONNX program `photos` -> `logits` for batches of any size; `x` is an
    example of its input."""
    with quiet():
        # The older exporter (dynamo=False) applies to_input's in-place arithmetic on constants twice: wrong logits.
        program = torch.onnx.export(
            model,
            (x[:1].expand(2, -1, -1, -1).contiguous(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine, as many bytes as a small model
    return program


def _with_weights(graph: ModelProto, model: nn.Module) -> ModelProto | None:
    """The graph with another model's weights; None if it does not hold all of them as they are."""
    from onnx import numpy_helper

    found = type(graph)()
    found.CopyFrom(graph)
    own = {tensor.name: tensor for tensor in found.graph.initializer}
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if name not in own or tuple(own[name].dims) != tuple(value.shape):
            return None
        own[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name))
    return found
