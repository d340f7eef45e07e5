"""Engines other than torch: the same logits, or torch itself with a note."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from cards import model_card
from torch import Tensor, nn

from ensemble.models import engine, engine_choice, kept_graphs, onnx_graph
from ensemble.models.array_views import Array
from ensemble.models.engine import Engine, EngineOptions, engine_options
from ensemble.models.engine_choice import choose_engine
from ensemble.models.graph_engine import GraphEngine
from ensemble.models.kept_graphs import GraphRecord, KeptGraph, torch_is_faster
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.torch_engine import TorchEngine
from folds.errors import MaskensError

X = torch.randn(37, 3, 32, 32, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)
OTHERS = ("onnxruntime", "openvino")


def agrees(engine: Engine, model: nn.Module, x: Tensor = X, atol: float = 1e-4) -> bool:
    with torch.no_grad():
        return np.allclose(engine.logits(x.numpy()), model(x).numpy(), atol=atol)


def tiny(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model("test_resnet", num_classes=3)
    for module in model.modules():  # as after training
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return model.eval().to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny(0)


@pytest.fixture(scope="module")
def graphs() -> OnnxGraphs:
    return OnnxGraphs()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("engine", OTHERS)
def test_logits_are_those_of_torch(engine: str, seed: int, graphs: OnnxGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    if graphs._traced:
        monkeypatch.setattr(onnx_graph, "trace", None)  # tracing takes seconds: once for models that are alike
    model = tiny(seed)
    found = choose_engine(model, X, EngineOptions(engine=engine), 8, graphs)  # type: ignore[arg-type]
    assert (found.precision.engine, found.notes) == (engine, ())
    assert all(agrees(found, model, X[:count]) for count in (37, 8, 1))


class Scaled(nn.Module):
    """Prints alike whatever the factor is."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.layer = factor, nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.layer(x).mean((2, 3))  # type: ignore[no-any-return]


def test_models_that_only_look_alike_do_not_share_a_graph() -> None:
    graphs, options = OnnxGraphs(), EngineOptions(engine="onnxruntime")
    for factor in (1.0, -3.0):
        model = Scaled(factor).eval()
        found = choose_engine(model, X, options, 8, graphs)
        assert agrees(found, model)
        assert found.precision.engine == "onnxruntime"


def test_an_engine_that_fails_or_differs_leaves_it_to_torch(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> bytes:
        raise RuntimeError("no such operator\nand more")

    plain = TorchEngine(model, 64)
    monkeypatch.setattr(engine_choice, "compile_graph", lambda *args: lambda x: plain.logits(x) + 0.1)
    for graph, note in (
        (lambda *args, **options: b"", "engine openvino moves a logit by 0.1 in fp32: not used"),
        (broken, "engine openvino does not take it (no such operator): not used"),
    ):
        monkeypatch.setattr(OnnxGraphs, "of", graph)
        found = choose_engine(model, X, EngineOptions(engine="openvino"), 8, OnnxGraphs())
        assert (found.precision.engine, found.notes) == ("torch", (note,))
        assert agrees(found, model)


def record(engine: str = "onnxruntime", seconds: float = 1.0, torch: float = 1.0, machine: str = "here") -> GraphRecord:
    """Of a kept graph, with seconds of a photo."""
    logits = ((1.0, 1.0), (1.0, 1.0))
    return GraphRecord("", "", 0, logits, 0.0, 2, engine, seconds, torch, machine, {})  # type: ignore[arg-type]


def fakes(model: nn.Module, monkeypatch: pytest.MonkeyPatch, error: dict[tuple[str, str], float]) -> None:
    """Engines that are so far from torch, the faster the later they come."""
    plain = TorchEngine(model, 64)

    def compiled(engine: str, graph: bytes, size: object, precision: str, threads: int) -> Callable[[Array], Array]:
        def forward(x: Array) -> Array:
            time.sleep(0.02 * (len(error) - list(error).index((engine, precision))))
            return plain.logits(x) + np.float32(error[engine, precision])

        return forward

    monkeypatch.setattr(OnnxGraphs, "of", lambda *args, **options: b"")
    monkeypatch.setattr(engine_choice, "compile_graph", compiled)


def test_auto_takes_the_fastest_that_agrees(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(model, monkeypatch, {("onnxruntime", "fp32"): 0.0, ("openvino", "fp32"): 5.0})
    slow = engine_choice.fast_engine

    def torch_engine(*args: object) -> object:
        found = slow(*args)  # type: ignore[arg-type]
        plain = found.model
        found.model = lambda x: (time.sleep(0.2), plain(x))[1]
        return found

    monkeypatch.setattr(engine_choice, "fast_engine", torch_engine)
    found = choose_engine(model, X, EngineOptions(engine="auto"), 64, OnnxGraphs())
    assert found.precision.engine == "onnxruntime", "openvino is faster and wrong"
    assert found.precision.speedup > 1.2
    assert found.notes == ("engine openvino moves a logit by 5 in fp32: not used",)


@pytest.mark.parametrize(
    ("error", "chosen_before", "precision"),
    [(0.001, False, "bf16"), (5.0, False, "fp32"), (5.0, True, "bf16"), (float("nan"), True, "fp32")],
)
def test_bf16_that_moves_logits_too_far_gives_way_to_fp32_unless_chosen_on_other_photos(
    error: float, chosen_before: bool, precision: str, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of an inference whose first photos differ a little more is no other inference."""
    fakes(model, monkeypatch, {("openvino", "fp32"): 0.0, ("openvino", "bf16"): error})
    options = EngineOptions("bf16", engine="openvino", chosen_before=chosen_before)
    found = choose_engine(model, X, options, 8, OnnxGraphs())
    assert (found.precision.engine, found.precision.precision) == ("openvino", precision)

    def compiled(engine: str, graph: bytes, size: object, precision: str, *args: object) -> Callable[[Array], Array]:
        return lambda x: np.full((len(x), 2), 1 + (error if precision == "bf16" else 0), np.float32)

    monkeypatch.setattr(kept_graphs, "compile_graph", compiled)
    monkeypatch.setattr(KeptGraph, "read", lambda *args: b"")
    kept = KeptGraph(Path("model.safetensors"), "", model_card())
    same = kept.engine(record(), "openvino", 1, in_bf16=X.numpy(), any_difference=chosen_before)
    assert isinstance(same, GraphEngine) and same.precision.precision == precision


def test_auto_keeps_to_the_precision_that_is_asked_for(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(model, monkeypatch, {("onnxruntime", "fp32"): 0.0, ("openvino", "fp32"): 0.0, ("openvino", "bf16"): 100.0})
    for asked in ("fp16", "bf16"):
        found = choose_engine(model, X, EngineOptions(asked, engine="auto"), 8, OnnxGraphs())  # type: ignore[arg-type]
        assert (found.precision.engine, found.precision.precision) == ("torch", asked)


def test_auto_times_engines_once_and_records_the_fastest(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fakes(model, monkeypatch, {("onnxruntime", "fp32"): 0.0, ("openvino", "fp32"): 0.0})
    monkeypatch.setattr(OnnxGraphs, "of", lambda *args, **options: b"\x08")
    timed = []

    def seconds(engines: Sequence[Engine], x: Tensor) -> dict[int, float]:
        timed.append(x)
        return {id(e): {"onnxruntime": 2.0, "openvino": 1.0, "torch": 3.0}[e.precision.engine] for e in engines}

    monkeypatch.setattr(engine_choice, "_seconds", seconds)
    kept = KeptGraph(tmp_path / "model.safetensors", "", model_card())
    choose_engine(model, X, EngineOptions(engine="auto"), 8, OnnxGraphs(), kept=kept)
    found = kept.record()
    assert len(timed) == 1
    assert found and (found.engine, found.seconds, found.torch_seconds) == ("openvino", 1 / len(X), 3 / len(X))


def test_auto_tries_no_other_engine_for_a_few_photos(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(model, monkeypatch, {("onnxruntime", "fp32"): 0.0, ("openvino", "fp32"): 0.0})
    tried: list[object] = []
    compiled = engine_choice.compile_graph
    monkeypatch.setattr(engine_choice, "compile_graph", lambda *args: (tried.append(args), compiled(*args))[1])
    found = choose_engine(model, X, EngineOptions(engine="auto"), 8, OnnxGraphs(), passes=2000)
    assert (found.precision.engine, tried) == ("torch", [])
    assert "engine auto is torch here" in found.notes[-1]
    choose_engine(model, X, EngineOptions(engine="auto"), 8, OnnxGraphs(), passes=500_000_000)
    assert tried
    tried.clear()  # a kept graph has not to be traced
    kept = KeptGraph(Path("model.safetensors"), "", model_card())
    monkeypatch.setattr(KeptGraph, "record", lambda self: True)
    monkeypatch.setattr(KeptGraph, "read", lambda *args: b"")
    for place, expected in ((None, False), (kept, True)):
        choose_engine(model, X, EngineOptions(engine="auto"), 8, OnnxGraphs(), passes=10_000, kept=place)
        assert bool(tried) == expected
    named = choose_engine(model, X, EngineOptions(engine="onnxruntime"), 8, OnnxGraphs(), passes=400)
    assert named.precision.engine == "onnxruntime", "it was asked for"


@pytest.mark.parametrize(
    ("records", "passes", "faster"),
    [
        ([record(seconds=0.02, torch=0.01)], 100, False),  # torch's start takes longer
        ([record(seconds=0.02, torch=0.01)], 10_000, True),
        ([record(seconds=0.02, torch=0.01)] * 100, 100, True),  # it starts once for all models
        ([record(seconds=0.01, torch=0.02)], 10_000, False),
        ([record(seconds=0.02, torch=0.01), record(seconds=0.01, torch=0.03)], 10_000, False),  # together
        ([record(seconds=0.02, torch=0.01, machine="there")], 10_000, False),
        ([record(seconds=0.02, torch=0.01), record(machine="there")], 10_000, False),
        ([record("openvino", seconds=0.02, torch=0.01)], 10_000, False),  # not installed any more
        ([record(seconds=0.02, torch=0.01)], math.inf, True),  # a server
        ([record(seconds=0.01, torch=0.01)], math.inf, False),
    ],
)
def test_torch_is_faster_by_times_of_this_machine_only(records: list[GraphRecord], passes: float, faster: bool) -> None:
    assert torch_is_faster(records, ["torch", "onnxruntime"], "here", passes) == faster


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("onnxruntime", "bf16", False, "cpu"), "predicts in fp32, not in bf16; torch, openvino can"),
        (("openvino", "fp16", False, "cpu"), "not in fp16; torch can"),
        (("openvino", "fp32", True, "cpu"), "--compile needs torch"),
        (("openvino", "fp32", False, "cuda"), "--engine openvino runs on the CPU only"),
    ],
)
def test_options_that_exclude_each_other_are_refused(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(MaskensError, match=words):
        engine_options(*arguments)  # type: ignore[arg-type]


def test_an_engine_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MaskensError, match=r"openvino.*Install: pip install 'maskens\[openvino\]'"):
        engine_options("openvino", "fp32", False, "cpu")
    assert engine_options("torch", "fp32", False, "cpu") == engine_options("auto") == EngineOptions()
    assert engine.installed_engines() == ["torch"]
