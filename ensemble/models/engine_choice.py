"""The choice of an engine where torch is needed: it predicts itself, or other engines are compared with it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

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
    path: Path,
    device: str,
    threads: int,
    x: Array | Tensor,
    options: EngineOptions,
    batch: int,
    graphs: OnnxGraphs,
    passes: float = math.inf,
    kept: KeptGraph | None = None,
) -> Engine:
    """The engine of a checkpoint, as `choose_engine` chooses it. Raises MaskensError: a damaged checkpoint, or one that
    does not fit into the GPU's memory.

    Args:
        device, threads: of torch.
        batch: as of `choose_engine`; what was measured is kept in the run.
        x: as of `choose_engine`; an array on the CPU.
    """
    torch.set_num_threads(threads)
    (model, card), run = load_checkpoint(path, torch.device(device)), path.parent.parent.parent
    kind = f"{card.model} {card.model_args} {card.preprocessing} in {options.precision}"
    key = f"batch of {kind}, {machine(device, threads)}"
    known = batch or kept_batch(run, key)
    try:
        engine = choose_engine(model, torch.as_tensor(x), options, known, graphs, passes, kept)
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
            x = kept.stand_ins
            notes += load_engine(kept.checkpoint, "cpu", threads, x, options, BATCH, graphs, kept=kept).notes
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
    folded, note = fold_conv_bn(model, x[:CHECKED])
    notes, new = [note], list[tuple[GraphEngine, bytes]]()
    with torch.inference_mode():
        exact: Array = model(x[:BATCH]).float().numpy()

    def usable(precisions: Sequence[Precision]) -> list[Engine]:
        found: list[Engine] = []
        for name in names:
            for precision in [p for p in precisions if p in PRECISIONS[name]]:
                limit = math.inf if options.chosen_before else largest_difference(exact, precision)
                tried = _other_engine(name, precision, folded, x, exact, limit, graphs, kept)
                if isinstance(tried, str):
                    notes.append(f"{tried}: not used")
                    continue
                engine, graph = tried
                found.append(engine)
                if graph is not None and precision == "fp32":
                    new.append((engine, graph))
        return found

    precisions: tuple[Precision, ...] = ("fp32", "bf16") if options.precision == "auto" else (options.precision,)
    engines = usable(precisions) or ([] if auto or "fp32" in precisions else usable(("fp32",)))
    if auto or not engines:
        engines.append(fast_engine(folded, x, options, batch))
    best = engines[0]
    if auto or len(engines) > 1:
        plain = engines[-1].precision
        in_fp32 = auto and (plain.engine, plain.precision) == ("torch", "fp32")
        torch_fp32 = engines[-1] if in_fp32 else fast_engine(folded, x, EngineOptions(), batch)
        times = _seconds([*engines, torch_fp32], x)
        best = min(engines, key=lambda e: times[id(e)] * (FASTER if e.precision.precision in TYPES else 1))
        best.precision = dataclasses.replace(best.precision, speedup=times[id(torch_fp32)] / times[id(best)])
        new.sort(key=lambda pair: times[id(pair[0])])
        if new and len(x) >= len(_photos_at_a_time(x)):
            seconds = times[id(new[0][0])] / len(x), times[id(torch_fp32)] / len(x)
            graphs.seconds.setdefault(_kind(new[0][0], folded, x), seconds)
    if kept and new:  # the graph of all, with the times of the fastest
        engine, graph = new[0]
        graphs.keep(kept, graph, _record(kept, graph, engine, model, folded, x, graphs))
    if auto and not math.isinf(passes):
        notes.append(f"engine auto took {time.perf_counter() - began:.0f} s to compare {', '.join(names)} with torch")
    best.notes = tuple(filter(None, dict.fromkeys([*notes, *best.notes])))
    return best


def _other_engine(
    name: EngineName,
    precision: Precision,
    folded: nn.Module,
    x: Tensor,
    exact: Array,
    limit: float,
    graphs: OnnxGraphs,
    kept: KeptGraph | None,
) -> tuple[GraphEngine, bytes | None] | str:
    """(the engine, its graph if that isn't the kept one), or why its logits of the first photos are not `exact` up to
    `limit`."""
    problem, size, photos = "", (x.shape[2], x.shape[3]), x[: len(exact)].numpy()

    def candidates() -> Iterator[tuple[Callable[[], bytes], bool]]:
        if kept and (record := kept.record()):
            yield lambda: kept.read(record), False
        yield lambda: graphs.of(folded, x), True
        yield lambda: graphs.of(folded, x, anew=True), True  # one traced of another model may not be this one's

    for make, new in candidates():
        try:
            graph = make()
            forward = compile_graph(name, graph, size, precision, torch.get_num_threads())
            difference = float(np.abs(forward(photos) - exact).max())
        except Exception as error:  # exporter and engines may refuse a model in any way they like
            problem = f"engine {name} does not take it ({first_line(error)})"
            continue
        if difference <= limit:  # not NaN
            return GraphEngine(forward, PrecisionChoice(precision, difference, "", name)), graph if new else None
        problem = f"engine {name} moves a logit by {difference:.2g} in {precision}"
    return problem


def _seconds(engines: Sequence[Engine], x: Tensor) -> dict[int, float]:
    """id of each engine -> of its shortest call for these photos, in turns, as the machine may have other work now and
    then."""
    photos, every = x.numpy(), {id(engine): engine for engine in engines}
    rounds = [[shortest(partial(engine.logits, photos), 1) for engine in every.values()] for _ in range(ROUNDS)]
    return dict(zip(every, map(min, zip(*rounds, strict=True)), strict=True))


def _photos_at_a_time(x: Tensor) -> Tensor:
    """As many photos as the threads predict at a time, of these."""
    return x[torch.arange(min(PART * torch.get_num_threads(), 4 * BATCH)) % len(x)]


def _kind(engine: GraphEngine, folded: nn.Module, x: Tensor) -> str:
    """Of an engine and a model: others of the kind are as fast."""
    return f"{engine.precision.engine} {folded} {tuple(x.shape[1:])}"


def _record(
    kept: KeptGraph,
    graph: bytes,
    engine: GraphEngine,
    model: nn.Module,
    folded: nn.Module,
    x: Tensor,
    graphs: OnnxGraphs,
) -> GraphRecord:
    """What is known of a graph that agrees with torch. Engine and torch are timed once for a kind of model."""
    name, kind = engine.precision.engine, _kind(engine, folded, x)
    if kind not in graphs.seconds:
        some = _photos_at_a_time(x)
        first, second = (each / len(some) for each in _seconds((engine, TorchEngine(folded, BATCH)), some).values())
        graphs.seconds[kind] = first, second
    seconds, torch_seconds = graphs.seconds[kind]
    with torch.inference_mode():
        logits = model(torch.from_numpy(kept.stand_ins)).float().tolist()
    return GraphRecord(
        model=kept.model,
        graph=sha256(graph),
        bytes=len(graph),
        logits=tuple(map(tuple, logits)),
        difference=engine.precision.difference,
        photos=len(x[:BATCH]),
        engine=name,
        seconds=seconds,
        torch_seconds=torch_seconds,
        machine=machine("cpu", torch.get_num_threads()),
        versions={package: metadata.version(package) for package in ("torch", "timm", name)},
    )
