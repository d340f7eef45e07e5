"""The choice of an engine where torch is needed: it predicts itself, or other engines are compared with it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.models.array_views import Array
from ensemble.models.build import load_checkpoint
from ensemble.models.engine import (
    BATCH,
    COMPILING,
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
from ensemble.models.graph_engine import GraphEngine, compile_graph
from ensemble.models.kept_graphs import KeptGraph
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.precision import FASTER, TYPES, keep_batch, kept_batch, machine
from ensemble.models.torch_engine import CHECKED, TorchEngine, fast_engine, fold_conv_bn
from folds.errors import MaskensError, first_line
from folds.photos import Progress


def load_engine(
    path: Path,
    device: str,
    threads: int,
    x: Array | Tensor,
    options: EngineOptions,
    batch: int,
    graphs: OnnxGraphs,
    passes: float,
    models: int,
    kept: KeptGraph | None,
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
    key = f"batch of {kind}, {machine(torch.device(device), threads)}"
    known = batch or kept_batch(run, key)
    try:
        engine = choose_engine(model, torch.as_tensor(x), options, known, graphs, passes, models, kept)
        if not known and isinstance(engine, TorchEngine):
            keep_batch(run, key, engine.batch)
        return engine
    except torch.OutOfMemoryError:
        raise MaskensError(
            "the models do not fit into the GPU's memory: use --device cpu, or infer with --precision fp16"
        ) from None


def keep_graphs(models: Sequence[KeptGraph], threads: int, on_progress: Progress | None = None) -> list[str]:
    """Keep the graphs of models that have none yet, compared with torch on the stand-ins; returns notes. An engine
    other than torch has to be installed. Raises MaskensError: a damaged checkpoint.

    Args:
        on_progress: called with (models done, models in all).
    """
    graphs, notes = OnnxGraphs(), list[str]()
    options = EngineOptions(engine=next(name for name in installed_engines() if name != "torch"))
    for done, kept in enumerate(models, start=1):
        if not kept.record():
            path, x = kept.checkpoint, kept.stand_ins
            notes += load_engine(path, "cpu", threads, x, options, BATCH, graphs, math.inf, 1, kept).notes
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
    models: int = 1,
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
        passes: photos times views that each model will see.
        models: that will take the same engine.
        kept: where the model's graph is kept; None keeps none.
    """
    auto, why, began = options.engine == "auto", "", time.perf_counter()
    names = [n for n in installed_engines() if n != "torch"] if options.engine == "auto" else [options.engine]
    if auto and not names:
        why = "torch is the only engine here; pip install 'maskens[onnx]' or 'maskens[openvino]' for others"
    elif auto:
        # what loads kept graphs without torch comes here only if trying is repaid
        first, setup = x[:BATCH], 0.0 if kept and kept.record() else TRACING + COMPILING * models
        each = 0.0 if math.isinf(passes) else shortest(lambda: TorchEngine(model, BATCH).logits(first), 2) / len(first)
        why = not_repaid("torch", each, len(x), len(names), passes, models, setup)
    if why or options.engine == "torch":
        engine = fast_engine(model, x, options, batch)
        engine.notes = (*engine.notes, *filter(None, [why]))
        return engine
    folded, note = fold_conv_bn(model, x[:CHECKED])
    notes = [note]
    with torch.inference_mode():
        exact: Array = model(x[:BATCH]).float().numpy()

    def usable(precisions: Sequence[Precision]) -> list[Engine]:
        found: list[Engine] = []
        for name in names:
            for precision in [p for p in precisions if p in PRECISIONS[name]]:
                limit = math.inf if options.chosen_before else largest_difference(exact, precision)
                engine = _other_engine(name, precision, model, folded, x, exact, limit, graphs, kept)
                if isinstance(engine, GraphEngine):
                    found.append(engine)
                else:
                    notes.append(f"{engine}: not used")
        return found

    precisions: tuple[Precision, ...] = ("fp32", "bf16") if options.precision == "auto" else (options.precision,)
    engines = usable(precisions) or ([] if auto or "fp32" in precisions else usable(("fp32",)))
    if auto or not engines:
        engines.append(fast_engine(folded, x, options, batch))
    best = engines[0]
    if auto or len(engines) > 1:
        plain = engines[-1].precision
        in_fp32 = auto and (plain.engine, plain.precision) == ("torch", "fp32")
        best = _fastest(engines, x, engines[-1] if in_fp32 else fast_engine(folded, x, EngineOptions(), batch))
    if auto and not math.isinf(passes):
        notes.append(f"engine auto took {time.perf_counter() - began:.0f} s to try {', '.join(names)} beside torch")
    best.notes = tuple(filter(None, dict.fromkeys([*notes, *best.notes])))
    return best


def _other_engine(
    name: EngineName,
    precision: Precision,
    model: nn.Module,
    folded: nn.Module,
    x: Tensor,
    exact: Array,
    limit: float,
    graphs: OnnxGraphs,
    kept: KeptGraph | None,
) -> GraphEngine | str:
    """The engine, or why its logits of the first photos are not `exact` up to `limit`. A graph that agrees in fp32 is
    kept."""
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
            if kept and new and precision == "fp32":
                graphs.keep(kept, graph, model, difference, len(photos), name)
            return GraphEngine(forward, PrecisionChoice(precision, difference, "", name))
        problem = f"engine {name} moves a logit by {difference:.2g} in {precision}"
    return problem


def _fastest(engines: Sequence[Engine], x: Tensor, torch_fp32: Engine) -> Engine:
    """By time, in turns, as the machine may have other work now and then."""
    photos, every = x.numpy(), list({id(engine): engine for engine in (*engines, torch_fp32)}.values())
    times = {id(engine): float("inf") for engine in every}
    for _ in range(ROUNDS):
        for engine in every:
            times[id(engine)] = min(times[id(engine)], shortest(lambda: engine.logits(photos), 1))  # noqa: B023

    def cost(engine: Engine) -> float:
        return times[id(engine)] * (FASTER if engine.precision.precision in TYPES else 1)

    best = min(engines, key=cost)
    best.precision = dataclasses.replace(best.precision, speedup=times[id(torch_fp32)] / times[id(best)])
    return best
