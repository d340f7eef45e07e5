"""The choice of an engine where torch is needed: it predicts itself, or other engines are compared with it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.jobs.hardware import machine
from ensemble.models.array_views import Array
from ensemble.models.build import load_checkpoint
from ensemble.models.engine import (
    BATCH,
    PRECISIONS,
    ROUNDS,
    TRACING,
    Engine,
    EngineName,
    EngineOptions,
    Precision,
    PrecisionChoice,
    installed_engines,
    largest_difference,
    not_repaid,
    shortest,
)
from ensemble.models.graph_engine import PART, GraphEngine, compile_graph
from ensemble.models.kept_graphs import GraphRecord, KeptGraph
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.precision import FASTER, TYPES, keep_batch, kept_batch
from ensemble.models.torch_engine import CHECKED, TorchEngine, fast_engine, fold_conv_bn
from folds.errors import MaskensError, first_line
from folds.files import sha256
from folds.photos import Progress


def load_engine(
    kept: KeptGraph,
    device: str,
    threads: int,
    x: Array | Tensor,
    options: EngineOptions,
    batch: int,
    graphs: OnnxGraphs,
    passes: float = math.inf,
) -> Engine:
    """The engine that `choose_engine` chooses for a checkpoint; a batch size that it measures is kept in the run.

    Args:
        kept: the checkpoint, and where its graph is kept.
        device, threads: of torch.
        x: photos, as for `choose_engine`; an array on the CPU.
        batch: photos in one forward pass of torch; 0 takes what the run keeps, or measures which number is fastest.

    Raises:
        MaskensError: a damaged checkpoint, or one that does not fit into the GPU's memory.
    """
    torch.set_num_threads(threads)
    (model, card), run = load_checkpoint(kept.checkpoint, torch.device(device)), kept.checkpoint.parents[2]
    kind = f"{card.model} {card.model_args} {card.preprocessing} in {options.precision}"
    key = f"batch of {kind}, {machine(device, threads)}"
    known = batch or kept_batch(run, key)
    try:
        engine = choose_engine(
            model, torch.as_tensor(x), options, known, graphs, passes, kept if options.graphs else None
        )
        if not known and isinstance(engine, TorchEngine):
            keep_batch(run, key, engine.batch)
        return engine
    except torch.OutOfMemoryError:
        raise MaskensError(
            "the models do not fit into the GPU's memory: use --device cpu, or infer with --precision fp16"
        ) from None


def keep_graphs(models: Sequence[KeptGraph], threads: int, on_progress: Progress | None = None) -> list[str]:
    """Keep the graphs of models that have none yet, compared with torch on the stand-ins; returns notes. An engine
    other than torch has to be installed. Raises MaskensError: a damaged checkpoint."""
    graphs, notes = OnnxGraphs(), list[str]()
    options = EngineOptions(engine=next(name for name in installed_engines() if name != "torch"))
    for done, kept in enumerate(models, start=1):
        if not kept.record():
            notes += load_engine(kept, "cpu", threads, kept.stand_ins, options, BATCH, graphs).notes
        if on_progress:
            on_progress(done, len(models))
    return [*graphs.notes, *dict.fromkeys(notes)]


def choose_engine(
    model: nn.Module,
    x: Tensor,
    options: EngineOptions,
    batch: int,
    graphs: OnnxGraphs,
    passes: float = math.inf,
    kept: KeptGraph | None = None,
) -> Engine:
    """The engine asked for; of `auto` the fastest on a first batch, or torch where trying the others costs more than
    the photos can repay. 16 bits have to be FASTER than 32.

    Where bf16 logits are too far from those of torch in fp32, the engine predicts in fp32. Torch replaces an engine
    that does not take the model or whose fp32 logits differ. Notes report it.

    Args:
        model: in eval mode, in channels_last memory, on the CPU unless torch is asked for.
        x: float32 (n, 3, height, width), real photos on the model's device.
        batch: photos in one forward pass of torch; 0 measures which number is fastest.
        graphs: of the models so far.
        passes: of one photo, by all models that will take the same engine.
        kept: where the model's graph is kept; None keeps none.
    """
    auto, why, began = options.engine == "auto", "", time.perf_counter()
    names = [n for n in (installed_engines() if options.engine == "auto" else [options.engine]) if n != "torch"]
    if auto and names:
        first, setup = x[:BATCH], 0.0 if kept and kept.record() else TRACING
        each = 0.0 if math.isinf(passes) else shortest(lambda: TorchEngine(model, BATCH).logits(first), 2) / len(first)
        why = not_repaid("torch", each, len(x), len(names), passes, setup)
    if why or not names:
        by_torch = fast_engine(model, x, options, batch)
        by_torch.notes = (*by_torch.notes, *filter(None, [why]))
        return by_torch
    others = _OtherEngines(names, model, x, graphs, kept, options.chosen_before)
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if options.precision == "auto" else (options.precision,)
    engines = others.usable(precisions) or ([] if auto or "fp32" in precisions else others.usable(("fp32",)))
    if auto or not engines:
        engines.append(fast_engine(others.folded, x, options, batch))
    best = engines[0]
    if auto or len(engines) > 1:
        plain = engines[-1].precision
        in_fp32 = auto and (plain.engine, plain.precision) == ("torch", "fp32")
        torch_fp32 = engines[-1] if in_fp32 else fast_engine(others.folded, x, EngineOptions(), batch)
        times = _seconds([*engines, torch_fp32], x)
        best = min(engines, key=lambda e: times[id(e)] * (FASTER if e.precision.precision in TYPES else 1))
        best.precision = dataclasses.replace(best.precision, speedup=times[id(torch_fp32)] / times[id(best)])
        others.traced.sort(key=lambda pair: times[id(pair[0])])
        if others.traced and len(x) >= len(_photos_at_a_time(x)):
            fastest = others.traced[0][0]
            per_photo = times[id(fastest)] / len(x), times[id(torch_fp32)] / len(x)
            graphs.seconds.setdefault(others.kind(fastest), per_photo)
    if kept and others.traced:  # the graph of all, with the times of the fastest
        engine, graph = others.traced[0]
        graphs.keep(kept, graph, others.record(kept, engine, graph))
    if auto and not math.isinf(passes):
        seconds = time.perf_counter() - began
        others.notes.append(f"engine auto took {seconds:.0f} s to compare {', '.join(names)} with torch")
    best.notes = tuple(filter(None, dict.fromkeys([*others.notes, *best.notes])))
    return best


class _OtherEngines:
    """The engines other than torch that may run a model, compared with it on the first photos.

    Args:
        x: photos, as for `choose_engine`.
        kept: where the model's graph is kept; None keeps none.
        any_difference: logits need only be finite.
    """

    def __init__(
        self,
        names: Sequence[EngineName],
        model: nn.Module,
        x: Tensor,
        graphs: OnnxGraphs,
        kept: KeptGraph | None,
        any_difference: bool,
    ) -> None:
        self.folded, note = fold_conv_bn(model, x[:CHECKED])
        self.notes = [note]  # why some are not used
        self.traced: list[tuple[GraphEngine, bytes]] = []  # those in fp32 whose graph is not the kept one, and it
        self._names, self._model, self._x, self._graphs, self._kept = names, model, x, graphs, kept
        self._any_difference = any_difference
        with torch.inference_mode():
            self._exact: Array = model(x[:BATCH]).float().numpy()

    def usable(self, precisions: Sequence[Precision]) -> list[Engine]:
        """Those that take the model and agree with torch, in each of these precisions that they have."""
        ways = [(name, way) for name in self._names for way in precisions if way in PRECISIONS[name]]
        return [engine for name, way in ways if (engine := self._tried(name, way))]

    def _tried(self, name: EngineName, precision: Precision) -> GraphEngine | None:
        """An engine; None where it does not take the model or its logits are too far from torch's, which is noted."""
        limit = math.inf if self._any_difference else largest_difference(self._exact, precision)
        problem, photos, size = "", self._x[: len(self._exact)].numpy(), (self._x.shape[2], self._x.shape[3])
        for make, new in self._candidates():
            try:
                graph = make()
                forward = compile_graph(name, graph, size, precision, torch.get_num_threads())
                difference = float(np.abs(forward(photos) - self._exact).max())
            except Exception as error:  # exporter and engines may refuse a model in any way they like
                problem = f"engine {name} does not take it ({first_line(error)})"
                continue
            if difference <= limit:  # not NaN
                engine = GraphEngine(forward, PrecisionChoice(precision, difference, "", name))
                if new and precision == "fp32":
                    self.traced.append((engine, graph))
                return engine
            problem = f"engine {name} moves a logit by {difference:.2g} in {precision}"
        self.notes.append(f"{problem}: not used")
        return None

    def _candidates(self) -> Iterator[tuple[Callable[[], bytes], bool]]:
        """Graphs to try in turn, each with whether it is another than the kept one."""
        if (kept := self._kept) and (record := kept.record()):
            yield lambda: kept.read(record), False
        yield lambda: self._graphs.of(self.folded, self._x), True
        # one traced of another model may not be this one's
        yield lambda: self._graphs.of(self.folded, self._x, anew=True), True

    def kind(self, engine: GraphEngine) -> str:
        """Of an engine and this model: others of the kind are as fast."""
        return f"{engine.precision.engine} {self.folded} {tuple(self._x.shape[1:])}"

    def record(self, kept: KeptGraph, engine: GraphEngine, graph: bytes) -> GraphRecord:
        """What is known of a graph that agrees with torch. Engine and torch are timed once for a kind of model."""
        name, kind = engine.precision.engine, self.kind(engine)
        if kind not in self._graphs.seconds:
            some = _photos_at_a_time(self._x)
            times = _seconds((engine, TorchEngine(self.folded, BATCH)), some).values()
            first, second = (each / len(some) for each in times)
            self._graphs.seconds[kind] = first, second
        seconds, torch_seconds = self._graphs.seconds[kind]
        with torch.inference_mode():
            logits = self._model(torch.from_numpy(kept.stand_ins)).float().tolist()
        return GraphRecord(
            model=kept.model,
            graph=sha256(graph),
            bytes=len(graph),
            logits=tuple(map(tuple, logits)),
            difference=engine.precision.difference,
            photos=len(self._exact),
            engine=name,
            seconds=seconds,
            torch_seconds=torch_seconds,
            machine=machine("cpu", torch.get_num_threads()),
            versions={package: metadata.version(package) for package in ("torch", "timm", name)},
        )


def _seconds(engines: Sequence[Engine], x: Tensor) -> dict[int, float]:
    """id of each engine -> of its shortest call for these photos, in turns, as the machine may have other work now and
    then."""
    photos, every = x.numpy(), {id(engine): engine for engine in engines}
    rounds = [[shortest(partial(engine.logits, photos), 1) for engine in every.values()] for _ in range(ROUNDS)]
    return dict(zip(every, map(min, zip(*rounds, strict=True)), strict=True))


def _photos_at_a_time(x: Tensor) -> Tensor:
    """As many photos as the threads predict at a time, of these."""
    return x[torch.arange(min(PART * torch.get_num_threads(), 4 * BATCH)) % len(x)]
