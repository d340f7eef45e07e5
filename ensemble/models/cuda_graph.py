"""CUDA graphs: a forward pass recorded once and replayed, so that the CPU need not launch kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import Tensor

from ensemble.models.autotune import Forward
from ensemble.models.precision import TYPES, EnginePrecision, forward_seconds
from folds.errors import first_line

WARM_UP = 3  # passes before one is recorded, as torch's documentation of CUDA graphs advises
FP32_TOLERANCE = 1e-3  # largest difference of a logit, of the largest logit: the same kernels run in both ways
TOLERANCE = 1e-2  # likewise, in 16 bits

Recorder = Callable[[Forward, Tensor, EnginePrecision], Forward]
"""As `record`."""

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""As `capture_graph`."""

# Graphs run one after the other and their logits are copied at once, so they share memory: twenty models need the
# activations of one. It is given back with the last of them.
_graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
_inputs: WeakValueDictionary[tuple[torch.device, torch.Size], Tensor] = WeakValueDictionary()


def recorder_for(device: torch.device) -> Recorder | None:
    """What records models on this device; None where there is nothing to record, as on a CPU."""
    return record if device.type == "cuda" else None


def recorded_if_faster(
    model: Forward, x: Tensor, precision: EnginePrecision, recorder: Recorder
) -> tuple[Forward | None, str]:
    """The model recorded, if it is faster so and its logits are the same, also on photos it was not recorded with.

    Args:
        x: float32 (batch, 3, height, width), the only shape that the recorded model takes.

    Returns:
        (what was recorded, or None; why it can't be used, "" if it can or is merely not faster).
    """
    try:
        recorded = recorder(model, x, precision)
        mirrored = x.flip(3).contiguous(memory_format=torch.channels_last)
        exact, plain = forward_seconds(model, x, precision)
        found, replayed = forward_seconds(recorded, x, precision)
        others = forward_seconds(model, mirrored, precision, 1)[0], forward_seconds(recorded, mirrored, precision, 1)[0]
    except Exception as error:  # an operation that can't be recorded, or no memory: CUDA says so in many ways
        return None, f"no CUDA graph, predicts without: {first_line(error)}"
    difference = max(float((a - b).abs().max()) for a, b in ((exact, found), others))
    limit = (TOLERANCE if precision in TYPES else FP32_TOLERANCE) * float(exact.abs().max())
    if not difference <= limit:  # nor may it be NaN
        return None, f"no CUDA graph, predicts without: it moves a logit by {difference:.2g}"
    return (recorded if replayed < plain else None), ""


def capture_graph(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """(what runs it again, the tensor that holds what it gives), by the current GPU."""
    graph = torch.cuda.CUDAGraph()
    others = next(iter(_graphs), None)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # also brings the current stream back where recording fails
        for _ in range(WARM_UP):
            run()
        # thread_local: a loader's thread may allocate pinned memory meanwhile
        with torch.cuda.graph(graph, others.pool() if others else None, capture_error_mode="thread_local"):
            logits = run()
    torch.cuda.current_stream().wait_stream(side)
    _graphs.add(graph)
    return graph.replay, logits


def record(model: Forward, x: Tensor, precision: EnginePrecision, capture: Capture = capture_graph) -> Forward:
    """Record the model's forward pass over batches like `x`.

    Not for two threads at once: recorded models share memory.

    Args:
        model: in eval mode; its weights have to stay where they are.
        x: float32 (batch, 3, height, width), on the GPU.
        capture: what runs the pass again; tests have one for the CPU.

    Returns:
        As the model, for batches of the shape of `x` only; raises ValueError for others.

    Raises:
        RuntimeError: of many kinds, where the pass can't be recorded.
    """
    key = x.device, x.shape
    with torch.inference_mode():
        shown = _inputs.get(key)
        if shown is None:
            shown = _inputs[key] = torch.empty_like(x, memory_format=torch.channels_last)
        shown.copy_(x)

        def forward() -> Tensor:
            kind = TYPES.get(precision)
            # weights that autocast caches are freed at the context's end, and the graph would still read them
            with torch.autocast(x.device.type, dtype=kind, enabled=kind is not None, cache_enabled=False):
                logits: Tensor = model(shown)
                return logits

        replay, logits = capture(forward)

    def recorded(x: Tensor) -> Tensor:
        if x.shape != shown.shape:
            raise ValueError(f"recorded for {tuple(shown.shape)}, got {tuple(x.shape)}")
        with torch.inference_mode():
            shown.copy_(x)
            replay()
            return logits.clone()

    return recorded
