"""Models in memory: from a batch of decoded photos to logits of each model in each view."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ensemble.decision.members import Ensemble, Member, preprocessings
from ensemble.jobs.hardware import free_memory
from ensemble.jobs.oof import Logits
from ensemble.models.build import load_checkpoint, to_input
from ensemble.models.engine import AS_TRAINED, BATCH, EngineOptions, InferenceEngine
from ensemble.models.engine_choice import choose_engine
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.precision import PrecisionChoice
from ensemble.models.tta import stack_views, unstack_views
from ensemble.recipes.schema import Preprocessing
from folds.errors import MaskensError
from folds.labels import IntArray

SHARE = 0.5  # of the free memory, for models
WORTH_MEASURING = 50  # usual batches; with more to predict, the fastest batch size is measured


class BatchInputs:
    """A batch as models take it: normalised and in all views, made once for all models with the same preprocessing.

    Args:
        batch: for each preprocessing uint8 (photos, height, width, 3).
    """

    def __init__(
        self,
        batch: Sequence[Tensor],
        preprocessings: Sequence[Preprocessing],
        views: Sequence[str],
        device: torch.device,
    ) -> None:
        self.views = views
        self._photos = dict(zip(preprocessings, batch, strict=True))
        self._device = device
        self._made: dict[object, Tensor] = {}

    def of(self, member: Member, places: IntArray | None = None, view: int | None = None) -> Tensor:
        """float32 (views * photos, 3, height, width): of all photos, or of those at `places`; in all views, or one."""
        card = member.card
        key = (card.preprocessing, card.mean, card.std)
        if key not in self._made:
            normalisation = card.mean, card.std
            x = to_input(self._photos[card.preprocessing], *normalisation, self._device)
            self._made[key] = stack_views(x, self.views, normalisation)
        made = self._made[key]
        if places is None and view is None:
            return made
        count = len(made) // len(self.views)
        shown = np.arange(count) if places is None else places
        views = range(len(self.views)) if view is None else (view,)
        wanted = torch.from_numpy(np.concatenate([shown + v * count for v in views]))
        if self._device.type == "cuda":
            wanted = wanted.pin_memory()  # else the copy waits for all that the GPU has to do
        return made[wanted.to(self._device, non_blocking=True)].contiguous(memory_format=torch.channels_last)


def batch_size(device: torch.device) -> int:
    """How many photos to read at a time."""
    return 256 if device.type == "cuda" else 2 * BATCH


class Predictor:
    """All models of some runs, which turn batches of decoded photos into logits of each model in each view.

    Models that do not fit into memory together are in several `groups`: `hold` one at a time, for many photos.

    Args:
        views: in which the photos are shown.
        options: how the models predict.
        chosen: precision and engine of each model, if they are known.
        passes: photos times views that each model will predict.
        passes_here: those in this process; where they are many, the fastest batch size is measured.
    """

    def __init__(
        self,
        ensembles: Sequence[Ensemble],
        views: Sequence[str],
        device: torch.device,
        options: EngineOptions = AS_TRAINED,
        chosen: Sequence[PrecisionChoice] = (),
        passes: float = math.inf,
        passes_here: int = 0,
    ) -> None:
        self.ensembles, self.views, self.device, self.options = ensembles, views, device, options
        self.members = [m for ensemble in ensembles for m in ensemble.members]
        self.preprocessings = preprocessings(self.members)
        self.groups = groups_that_fit(self.members, device)
        self.engines: dict[int, InferenceEngine] = {}  # number of the model -> it, of those that are loaded
        self.precisions: dict[int, PrecisionChoice] = dict(enumerate(chosen))
        self.compile_seconds = 0.0
        self._notes: dict[int, tuple[str, ...]] = {}  # of the engines
        self._passes = passes
        self._batch = 0 if passes_here >= WORTH_MEASURING * BATCH else BATCH  # 0: to be measured
        # models of one kind are equally fast
        self._kinds = [f"{m.card.model} {m.card.model_args} {m.card.preprocessing}" for m in self.members]
        self._batches: dict[str, int] = {}  # kind of model -> photos in one forward pass of torch
        self._fastest: dict[str, PrecisionChoice] = {}  # kind of model -> what was fastest for the first of it
        self._why: dict[str, tuple[str, ...]] = {}  # kind of model -> notes on what was chosen
        self._graphs = OnnxGraphs()

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be made faster, of each model."""
        return tuple(note for notes in self._notes.values() for note in notes)

    def inputs(self, photos: Sequence[Tensor]) -> BatchInputs:
        """A batch, for each of `preprocessings` uint8 (photos, height, width, 3)."""
        return BatchInputs(photos, self.preprocessings, self.views, self.device)

    def hold(self, group: Sequence[int], inputs: BatchInputs) -> None:
        """Have these models in memory, and no others; arguments, raises: as `load`."""
        if self.engines.keys() != set(group):
            self.engines.clear()
            self.load(group, inputs)

    def load(self, models: Sequence[int], inputs: BatchInputs) -> None:
        """Load models, by their numbers, and optimise them; those of one kind share a batch size and the engine.

        Args:
            inputs: what their optimised forms are checked on.

        Raises:
            MaskensError: a damaged checkpoint, too little memory, or an engine other than the chosen one.
        """
        for number in models:
            member, kind = self.members[number], self._kinds[number]
            size = self._batches.get(kind, self._batch)
            options = self.options
            if known := self.precisions.get(number):  # a resumed inference keeps its engine
                options = EngineOptions(known.precision, options.compile, known.engine, chosen_before=True)
            elif options.engine == "auto" and (first := self._fastest.get(kind)):
                precision = first.precision if options.precision == "auto" else options.precision
                options = dataclasses.replace(options, precision=precision, engine=first.engine)
            model = load_checkpoint(member.path, self.device)[0]
            try:
                alike = self._kinds.count(kind)
                engine = choose_engine(model, inputs.of(member), options, size, self._graphs, self._passes, alike)
            except torch.OutOfMemoryError:
                raise MaskensError(
                    "the models do not fit into the GPU's memory: use --device cpu, or infer with --precision fp16"
                ) from None
            if known:
                refuse_other_engine(known, engine.precision)
            if engine.precision.engine == "torch":
                self._batches[kind] = engine.batch
            if self.options.precision in ("auto", engine.precision.precision):  # else it is this model's own
                self._fastest.setdefault(kind, engine.precision)
            self.engines[number] = engine
            why = self._why.setdefault(kind, engine.notes) if self.options.engine == "auto" else ()
            self._notes.setdefault(number, engine.notes or why)  # a kind's later models have the first one's reasons
            self.precisions.setdefault(number, engine.precision)
            self.compile_seconds += engine.compile_seconds

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
        views = self.views if view is None else self.views[view : view + 1]
        found = [unstack_views(x, views).cpu().numpy() for x in logits]
        for number, values in zip(places, found, strict=True):
            if not np.isfinite(values).all():
                raise MaskensError(
                    f"{self.members[number].path} gives logits that are not finite: "
                    "train that job again with --restart, or predict with --precision fp32"
                )
        return found


def groups_that_fit(members: Sequence[Member], device: torch.device) -> list[list[int]]:
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


def _free_memory(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


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
        """Forward the batch through models; arguments, raises: as `Predictor.forward`."""
        views = slice(None) if view is None else slice(view, view + 1)
        found = self.predictor.forward(places, self.inputs, view)
        for (number, seen), values in zip(places.items(), found, strict=True):
            self.outputs[number][views, self.rows if seen is None else self.rows.start + seen] = values

    def by_task(self, rows: slice | None = None) -> list[dict[str, Logits]]:
        """`by_task` of these photos of the inference, NaN where a photo was not shown; None is the batch."""
        return by_task(self.predictor.ensembles, [values[:, rows or self.rows] for values in self.outputs])


def by_task(ensembles: Sequence[Ensemble], outputs: Sequence[Logits]) -> list[dict[str, Logits]]:
    """Of each run, task -> float32 (folds, views, photos, width).

    Args:
        outputs: of each model of each run in turn, float32 (views, photos, width).
    """
    left = iter(outputs)
    found = []
    for ensemble in ensembles:
        own: dict[str, list[Logits]] = {}
        for member in ensemble.members:
            own.setdefault(member.task, []).append(next(left))
        found.append({task: np.stack(values) for task, values in own.items()})
    return found
