"""Models recorded as CUDA graphs, by stand-ins for the recorder: used where that is right and faster, else not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.models import autotune, engine
from ensemble.models.autotune import Forward
from ensemble.models.cuda_graph import Recorder, capture_graph, record, recorder_for
from ensemble.models.engine import EngineOptions, InferenceEngine, fast_engine
from ensemble.models.precision import EnginePrecision

X = torch.randn(37, 3, 32, 32, generator=torch.Generator().manual_seed(1))
BATCH = 8


class Slow(nn.Module):
    """As the model, but each pass takes a while, as where kernels are launched one by one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = timm.create_model("test_vit", num_classes=3, img_size=32).eval()
        self.pause = 0.03

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            time.sleep(self.pause)
        found: Tensor = self.model(x)
        return found


def replayed(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """In the place of a GPU's graph: it computes again, from the same input into the same output."""
    logits = run()
    return lambda: (logits.copy_(run()), None)[1], logits


def quick(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
    """A recorder whose recording leaves out what is slow in the model."""
    return record(model.model, x, precision, replayed)  # type: ignore[attr-defined]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., InferenceEngine]:
    """An engine made where there is this recorder."""

    def make(recorder: Recorder, options: EngineOptions | None = None) -> InferenceEngine:
        monkeypatch.setattr(engine, "recorder_for", lambda device: recorder)
        return fast_engine(Slow(), X, options or EngineOptions(), BATCH)

    return make


def right(found: InferenceEngine) -> bool:
    with torch.no_grad():
        return torch.allclose(found.logits(X), Slow()(X), atol=1e-5)


def test_there_is_nothing_to_record_on_a_cpu() -> None:
    assert recorder_for(torch.device("cpu")) is None
    assert recorder_for(torch.device("cuda")) is record
    assert fast_engine(Slow(), X, EngineOptions(), BATCH).recorded is None


def test_a_faster_recording_predicts_whole_batches_with_the_same_logits(made: Callable[..., InferenceEngine]) -> None:
    sizes: list[int] = []

    def recorder(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
        recorded = quick(model, x, precision)
        return lambda x: (sizes.append(len(x)), recorded(x))[1]

    found = made(recorder)
    assert found.recorded is not None and not found.notes
    sizes.clear()
    assert right(found)
    assert sizes == [BATCH] * 5, "37 = 4 * 8 + 5: five of eight photos are filled up"
    sizes.clear()
    assert len(found.logits(X[:11])) == 11
    assert sizes == [BATCH], "three of eight are not: most of the pass would be for nothing"


def test_recordings_share_their_input_and_no_answer(made: Callable[..., InferenceEngine]) -> None:
    """As graphs do: the logits of a model must not change when it, or another, predicts other photos."""
    engines = [made(quick) for _ in range(2)]
    assert all(e.recorded is not None for e in engines)
    first = engines[0].logits(X[:BATCH])
    kept = first.clone()
    engines[1].logits(X[BATCH : 2 * BATCH])
    engines[0].logits(X[BATCH : 2 * BATCH])
    assert torch.equal(first, kept)


def test_a_recording_takes_no_other_shape() -> None:
    recorded = quick(Slow(), X[:BATCH], "fp32")
    with pytest.raises(ValueError, match="recorded for"):
        recorded(X[:1])  # it would be spread over the whole batch


def fails(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")


def full(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
    raise torch.OutOfMemoryError("CUDA out of memory")


def wrong(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
    recorded = quick(model, x, precision)
    return lambda x: recorded(x) + 0.5


def stuck(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
    """It goes on answering for the photos that it was recorded with."""
    logits = model(x).detach()
    return lambda x: logits


def no_numbers(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
    recorded = quick(model, x, precision)
    return lambda x: recorded(x) * float("nan")


@pytest.mark.parametrize(
    ("recorder", "why"),
    [
        (fails, "operation not permitted when stream is capturing"),
        (full, "CUDA out of memory"),
        (wrong, "it moves a logit by 0.5"),
        (stuck, "it moves a logit by"),
        (no_numbers, "it moves a logit by nan"),
    ],
)
def test_what_fails_or_differs_is_not_used_and_told(
    made: Callable[..., InferenceEngine], recorder: Recorder, why: str
) -> None:
    found = made(recorder)
    assert found.recorded is None
    (note,) = found.notes
    assert note.startswith(f"no CUDA graph, predicts without: {why}")
    assert "\n" not in note
    assert right(found)


def test_what_is_slower_is_not_used(made: Callable[..., InferenceEngine]) -> None:
    def slower(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
        return lambda x: (time.sleep(0.03), model(x))[1]

    found = made(slower)
    assert found.recorded is None and not found.notes, "nothing is wrong, so nothing is said"
    assert right(found)


def test_a_gpu_that_gets_too_small_drops_the_recording_and_halves_the_batch(
    made: Callable[..., InferenceEngine],
) -> None:
    found = made(quick)
    assert found.recorded is not None

    def no_room(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    found.recorded = no_room
    assert right(found)
    assert (found.recorded, found.batch) == (None, BATCH // 2)


def test_a_compiled_model_is_not_recorded_one_that_could_not_be_is(
    made: Callable[..., InferenceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        if broken:
            raise RuntimeError("no C++ compiler found")
        return graph.forward

    monkeypatch.setattr(autotune, "COMPILER", backend)
    broken = False
    assert made(fails, EngineOptions(compile=True)).notes == ()
    broken = True
    torch._dynamo.reset()  # else it takes what it compiled before
    assert made(quick, EngineOptions(compile=True)).recorded is not None


def test_16_bits_are_recorded_as_such(made: Callable[..., InferenceEngine]) -> None:
    asked: list[EnginePrecision] = []

    def recorder(model: Forward, x: Tensor, precision: EnginePrecision) -> Forward:
        asked.append(precision)
        return quick(model, x, precision)

    found = made(recorder, EngineOptions("bf16"))
    assert found.recorded is not None and asked == ["bf16"]
    plain = InferenceEngine(Slow().model, BATCH, found.precision)
    assert torch.allclose(found.logits(X[:BATCH]), plain.logits(X[:BATCH]), atol=1e-3)


def test_a_recording_that_fails_half_way_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for torch.cuda: what is queued after a failure has to go where it went before."""
    current = ["main"]
    passes: list[str] = []

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    @contextlib.contextmanager
    def stream(chosen: object) -> Iterator[None]:
        before = current[0]
        current[0] = "side"
        try:
            yield
        finally:
            current[0] = before

    class Graph:
        """As torch's: it enters a stream of its own, and does not leave it where the recording can't be ended."""

        def __init__(self, graph: object, pool: object, capture_error_mode: str) -> None: ...

        def __enter__(self) -> None:
            current[0] = "recording"

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    def run() -> Tensor:
        passes.append(current[0])
        return X

    for name, stand_in in {
        "CUDAGraph": object,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": stream,
        "graph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    with pytest.raises(RuntimeError, match="previous error"):
        capture_graph(run)
    assert passes == ["side", "side", "side", "recording"], "warmed up beside the main stream"
    assert current == ["main"]
