"""Models in memory: from a batch of decoded photos to logits of each model in each view."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ensemble.decision.members import Ensemble, Member, all_members, preprocessings
from ensemble.jobs.card import Normalisation
from ensemble.jobs.hardware import Hardware, free_memory, machine
from ensemble.jobs.oof import Logits
from ensemble.models.array_views import array_views
from ensemble.models.engine import (
    AS_TRAINED,
    BATCH,
    PRECISIONS,
    STARTING,
    Engine,
    EngineOptions,
    PrecisionChoice,
    installed_engines,
    not_repaid,
    shortest,
)
from ensemble.models.graph_engine import PART
from ensemble.models.kept_graphs import GraphRecord, KeptGraph, torch_is_faster
from ensemble.recipes.schema import Preprocessing
from folds.errors import MaskensError
from folds.labels import IntArray

if TYPE_CHECKING:
    from ensemble.models.onnx_graph import OnnxGraphs

SHARE = 0.5  # of the free memory, for models
WORTH_MEASURING = 50  # usual batches; with more to predict, the fastest batch size is measured


class BatchInputs:
    """A batch as models take it: normalised and in all views, made once for all models with the same preprocessing.

    Args:
        batch: for each preprocessing uint8 (photos, height, width, 3): arrays, for a GPU tensors.
    """

    def __init__(
        self, batch: Sequence[Any], preprocessings: Sequence[Preprocessing], views: Sequence[str], device: str
    ) -> None:
        self.views = views
        self._photos = dict(zip(preprocessings, batch, strict=True))
        self._device = device
        self._made: dict[object, Any] = {}

    def of(self, member: Member, places: IntArray | None = None, view: int | None = None) -> Any:
        """float32 (views * photos, 3, height, width), in the photos' order in memory (channels_last): of all photos, or
        of those at `places`; in all views, or one. An array, for a GPU a tensor there."""
        card = member.card
        key = (card.preprocessing, card.normalisation)
        if key not in self._made:
            self._made[key] = self._make(self._photos[card.preprocessing], card.normalisation)
        made = self._made[key]
        if places is not None or view is not None:
            count = len(made) // len(self.views)
            shown = np.arange(count) if places is None else places
            views = range(len(self.views)) if view is None else (view,)
            wanted = np.concatenate([shown + v * count for v in views])
            if self._device == "cpu":
                made = made[wanted]
            else:
                from ensemble.models.tta import at_places

                made = at_places(made, wanted)
        return made.transpose(0, 3, 1, 2) if self._device == "cpu" else made

    def _make(self, photos: Any, normalisation: Normalisation) -> Any:
        if self._device == "cpu":
            return array_views(photos, self.views, normalisation)
        from ensemble.models.tta import device_views

        return device_views(photos, self.views, normalisation, self._device)


def batch_size(device: str) -> int:
    """How many photos to read at a time."""
    return 256 if device == "cuda" else 2 * BATCH


class Predictor:
    """All models of some runs, which turn batches of decoded photos into logits of each model in each view.

    Models that do not fit into memory together are in several `groups`: `hold` one at a time, for many photos. Torch is
    imported where it predicts, or compares other engines with itself: not where an engine's graphs are kept.

    Args:
        ensembles: all with the same views.
        options: how the models predict.
        chosen: precision and engine of each model, if they are known.
        photos: how many each model will predict.
        photos_here: those in this process; where they are many, the fastest batch size is measured.
    """

    def __init__(
        self,
        ensembles: Sequence[Ensemble],
        hardware: Hardware,
        options: EngineOptions = AS_TRAINED,
        chosen: Sequence[PrecisionChoice] = (),
        photos: float = math.inf,
        photos_here: int = 0,
    ) -> None:
        self.ensembles, self.views, self.options = ensembles, ensembles[0].tta.views, options
        self.members, self.preprocessings = all_members(ensembles), preprocessings(ensembles)
        self.groups = groups_that_fit(self.members, hardware.device)
        self.engines: dict[int, Engine] = {}  # number of the model -> it, of those that are loaded
        self.precisions: dict[int, PrecisionChoice] = dict(enumerate(chosen))
        self.compile_seconds = 0.0
        self._device, self._threads = hardware.device, hardware.job_threads
        self._notes: dict[int, tuple[str, ...]] = {}  # of the engines
        self._passes = photos * len(self.views)
        passes_here = photos_here * len(self.views)
        self._batch = 0 if passes_here >= WORTH_MEASURING * BATCH else BATCH  # 0: to be measured
        self._part = min(PART, -(-(passes_here or len(self.views)) // self._threads))
        # models of one kind are equally fast
        self._kinds = [f"{m.card.model} {m.card.model_args} {m.card.preprocessing}" for m in self.members]
        self._batches: dict[str, int] = {}  # kind of model -> photos in one forward pass of torch
        self._fastest: dict[str, PrecisionChoice] = {}  # kind of model -> what was fastest for the first of it
        self._why: dict[str, tuple[str, ...]] = {}  # kind of model -> notes on what was chosen
        self._graphs: OnnxGraphs | None = None
        self._kept = kept_graphs(self.members)
        self._unusable: list[str] = []  # kept graphs, and why

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be made faster, of each model."""
        return tuple(note for notes in self._notes.values() for note in notes)

    @property
    def graph_notes(self) -> tuple[str, ...]:
        """Which graphs could not be used, and which were kept."""
        return (*self._unusable, *(self._graphs.notes if self._graphs else ()))

    def inputs(self, photos: Sequence[Any]) -> BatchInputs:
        """A batch, for each of `preprocessings` uint8 (photos, height, width, 3): arrays, for a GPU tensors."""
        return BatchInputs(photos, self.preprocessings, self.views, self._device)

    def hold(self, group: Sequence[int], inputs: BatchInputs) -> None:
        """`load` these models unless they are in memory, and drop all others."""
        if self.engines.keys() != set(group):
            self.engines.clear()
            self.load(group, inputs)

    def load(self, models: Sequence[int], inputs: BatchInputs) -> None:
        """Load models, by their numbers, and optimise them; those of one kind share a batch size and the engine. Their
        optimised forms are checked on `inputs`. Raises MaskensError: a damaged checkpoint, too little memory, or an
        engine other than the chosen one."""
        for number in models:
            kind, options, known = self._kinds[number], self.options, self.precisions.get(number)
            engine: Engine | None = None
            if known:  # a resumed inference keeps its engine
                options = dataclasses.replace(
                    options, precision=known.precision, engine=known.engine, chosen_before=True
                )
            elif options.engine == "auto" and (first := self._fastest.get(kind)):
                precision = first.precision if options.precision == "auto" else options.precision
                options = dataclasses.replace(options, precision=precision, engine=first.engine)
            elif options.engine == "auto" and self.all_kept:
                engine = self._auto_with_kept(number, inputs)
            engine = engine or self._with_kept_graph(number, options, inputs) or self._by_torch(number, options, inputs)
            if known:
                refuse_other_engine(known, engine.precision)
            if self.options.precision in ("auto", engine.precision.precision):  # else it is this model's own
                self._fastest.setdefault(kind, engine.precision)
            if engine.precision.engine == "torch":
                self._batches[kind] = engine.batch
            self.engines[number] = engine
            why = self._why.setdefault(kind, engine.notes) if self.options.engine == "auto" else ()
            self._notes.setdefault(number, engine.notes or why)  # a kind's later models have the first one's reasons
            self.precisions.setdefault(number, engine.precision)
            self.compile_seconds += engine.compile_seconds

    def _with_kept_graph(self, number: int, options: EngineOptions, inputs: BatchInputs) -> Engine | None:
        """The engine asked for with the graph that is kept of a model; None where there is none to use."""
        if not options.graphs or options.engine == "torch" or options.engine == "auto":
            return None
        if options.precision == "auto" and PRECISIONS[options.engine] != ("fp32",):
            return None  # what is fastest is compared with torch
        kept, record = self._kept[number], self._records[number]
        if record is None:
            return None
        photos = inputs.of(self.members[number])[:BATCH] if options.precision == "bf16" else None
        found = kept.engine(record, options.engine, self._threads, self._part, photos, options.chosen_before)
        if isinstance(found, str):
            self._records[number] = None
            self._unusable.append(f"{kept.file} can't be used and is made anew: {found}")
            return None
        return found

    def _auto_with_kept(self, number: int, inputs: BatchInputs) -> Engine | None:
        """An engine for a model whose graph is kept, or torch where its record says that it is faster; None where the
        photos are so many that they repay trying every engine, or it can't be used."""
        record, others = self._records[number], [engine for engine in installed_engines() if engine != "torch"]
        if record is None:
            return None
        x, passes = inputs.of(self.members[number]), self._passes_of_kind(number)
        if self._torch_is_faster:
            if not not_repaid("torch", record.torch_seconds, len(x), len(others), passes, 0.0):
                return None
            by_torch = self._by_torch(number, dataclasses.replace(self.options, engine="torch"), inputs)
            why = f"engine auto is torch here: faster than {record.engine}, by the times kept with the graphs"
            by_torch.notes = (*by_torch.notes, why)
            return by_torch
        name = record.engine if record.engine in others else others[0]
        found = self._with_kept_graph(number, dataclasses.replace(self.options, engine=name), inputs)
        if found is None or math.isinf(passes):
            return found
        each = shortest(lambda: found.logits(x[:BATCH]), 1) / len(x[:BATCH])
        found.notes = tuple(filter(None, [not_repaid(name, each, len(x), len(others), passes, STARTING)]))
        return found if found.notes else None

    @functools.cached_property
    def _torch_is_faster(self) -> bool:
        """By what kept graphs record, where every model has one."""
        records = [record for record in self._records if record]
        return torch_is_faster(records, installed_engines(), machine(self._device, self._threads), self._passes)

    def _passes_of_kind(self, number: int) -> float:
        """Photos times views times models of the same kind."""
        return self._passes * self._kinds.count(self._kinds[number])

    @property
    def all_kept(self) -> bool:
        """Whether another engine can predict with a kept graph of every model."""
        able = self.options.graphs and self.options.precision == "fp32" and len(installed_engines()) > 1
        return able and all(self._records)

    @functools.cached_property
    def _records(self) -> list[GraphRecord | None]:
        """Of each model's kept graph, None where there is none to use."""
        return [kept.record() for kept in self._kept]

    def _by_torch(self, number: int, options: EngineOptions, inputs: BatchInputs) -> Engine:
        """The engine of a checkpoint, chosen with torch; raises as `load`."""
        from ensemble.models.engine_choice import load_engine
        from ensemble.models.onnx_graph import OnnxGraphs

        self._graphs = self._graphs or OnnxGraphs()
        return load_engine(
            self._kept[number],
            self._device,
            self._threads,
            inputs.of(self.members[number]),
            options,
            self._batches.get(self._kinds[number], self._batch),
            self._graphs,
            self._passes_of_kind(number),
        )

    def forward(
        self, places: Mapping[int, IntArray | None], inputs: BatchInputs, view: int | None = None
    ) -> list[Logits]:
        """Forward a batch through models that are in memory. A GPU is synchronised once.

        Args:
            places: number of each model -> the places of the photos in the batch that it sees; None for all.
            view: the one view that is shown; None for all.

        Returns:
            Of each of these models float32 (views, photos that it saw, width).

        Raises:
            MaskensError: a model gives logits that are not finite, or not even one photo fits into the GPU's memory.
        """
        for number in places:
            inputs.of(self.members[number])  # first, as what it copies to a GPU would wait for the models before it
        logits = [self.engines[n].logits(inputs.of(self.members[n], seen, view)) for n, seen in places.items()]
        arrays = [x if isinstance(x, np.ndarray) else x.cpu().numpy() for x in logits]
        views = len(self.views) if view is None else 1
        for number, values in zip(places, arrays, strict=True):
            if not np.isfinite(values).all():
                raise MaskensError(
                    f"{self.members[number].path} gives logits that are not finite: "
                    "train that job again with --restart, or predict with --precision fp32"
                )
        return [values.reshape(views, len(values) // views, -1) for values in arrays]


def kept_graphs(members: Iterable[Member]) -> list[KeptGraph]:
    """Where the graphs of an ensemble's models are kept."""
    return [KeptGraph(m.path, m.sha256, m.card) for m in members]


def groups_that_fit(members: Sequence[Member], device: str) -> list[list[int]]:
    """Numbers of the models, in order, as many in a group as fit into memory together."""
    room = SHARE * _free_memory(device)
    groups: list[list[int]] = [[]]
    used = 0.0
    for number, member in enumerate(members):
        size = member.path.stat().st_size
        if groups[-1] and used + size > room:
            groups.append([])
            used = 0.0
        groups[-1].append(number)
        used += size
    return groups


def _free_memory(device: str) -> int:
    """Bytes."""
    if device == "cpu":
        return free_memory()
    import torch

    return torch.cuda.mem_get_info(device)[0]


def refuse_other_engine(before: PrecisionChoice, now: PrecisionChoice) -> None:
    """All photos of an inference are predicted by one engine in one precision, after an interruption and on other nodes
    too. Raises MaskensError."""
    was, would_be = (f"{choice.engine} in {choice.precision}" for choice in (before, now))
    if was != would_be:
        raise MaskensError(
            f"other photos were predicted with {was}, these would be with {would_be}: install the same packages here, "
            "or delete what that inference left beside its CSV (*.partial.npz or *.shards)"
        )


@dataclass(frozen=True)
class Batch:
    """A batch of photos of an inference, and the logits so far."""

    predictor: Predictor
    inputs: BatchInputs
    outputs: list[Logits]  # of each model, float32 (views, photos of the inference, width), NaN where not shown
    rows: slice  # which of these photos the batch holds

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)

    def show(self, places: Mapping[int, IntArray | None], view: int | None = None) -> None:
        """`Predictor.forward` of the batch, its logits among `outputs`."""
        views = slice(None) if view is None else slice(view, view + 1)
        found = self.predictor.forward(places, self.inputs, view)
        for (number, seen), values in zip(places.items(), found, strict=True):
            self.outputs[number][views, self.rows if seen is None else self.rows.start + seen] = values

    def by_task(self, rows: slice | None = None) -> list[dict[str, Logits]]:
        """`by_task` of these photos of the inference, NaN where a photo was not shown; None is the batch."""
        return by_task(self.predictor.ensembles, [values[:, rows or self.rows] for values in self.outputs])


def by_task(ensembles: Sequence[Ensemble], outputs: Sequence[Logits]) -> list[dict[str, Logits]]:
    """Of each run, task -> float32 (folds, views, photos, width), from the outputs of each model of each run in turn,
    float32 (views, photos, width)."""
    left = iter(outputs)
    found = []
    for ensemble in ensembles:
        own: dict[str, list[Logits]] = {}
        for member in ensemble.members:
            own.setdefault(member.task, []).append(next(left))
        found.append({task: np.stack(values) for task, values in own.items()})
    return found
