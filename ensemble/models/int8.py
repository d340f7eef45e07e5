"""Models in int8: static quantization after training, calibrated on photos."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble.models.onnx_graph import INPUT
from ensemble.models.process import quiet

BATCH = 8  # calibration photos in one forward pass


def quantize_graph(graph: bytes, photos: Tensor) -> bytes:
    """A graph of `OnnxGraphs` in int8, by onnxruntime.quantization: weights with a scale for each output channel,
    activations in the range that the photos give them (Jacob et al. 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference"). In QDQ form, which OpenVINO runs as well.

    The first convolution and the last matrix product stay in fp32, as in the original of many such schemes (Zhou et al.
    2016, "DoReFa-Net", section 2.7): on EfficientNet-Lite0 that takes an eighth off the error of the logits.

    Args:
        photos: float32 (n, 3, height, width), as the model sees them.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet(), contextlib.redirect_stdout(io.StringIO()):
        plain, prepared, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        plain.write_bytes(graph)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared, load_external_data=False).graph.node
        ends = [n.name for n in nodes if n.op_type == "Conv"][:1]
        ends += [n.name for n in nodes if n.op_type in ("Gemm", "MatMul")][-1:]
        quantize_static(
            prepared,
            done,
            _Calibration(photos),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=ends,
        )
        return done.read_bytes()


class _Calibration:
    """A `CalibrationDataReader`, which is onnxruntime's name for it."""

    def __init__(self, photos: Tensor) -> None:
        self._batches = iter(torch.split(photos, BATCH))

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """The next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.contiguous().numpy()}
