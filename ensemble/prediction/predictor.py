"""Models in memory: a batch of decoded photos becomes logits of each model in each view."""

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
from folds.photos import Pixels


class BatchInputs:
    """A batch as models want it: normalised and in all views, made once for all models that want it alike."""

    def __init__(
        self,
        batch: Sequence[Tensor],
        preprocessings: Sequence[Preprocessing],
        views: Sequence[str],
        device: torch.device,
    ) -> None:
        """
        Args:
            batch: for each preprocessing uint8 (photos, height, width, 3).
        """
        self.views = views
        self._photos = dict(zip(preprocessings, batch, strict=True))
        self._device = device
        self._made: dict[object, Tensor] = {}

    def of(self, member: Member, places: IntArray | None = None, view: int | None = None) -> Tensor:
        """float32 (views * photos, 3, height, width): of all photos, or of those at `places`; in all views, or one."""
        made = self.made(member)
        if places is None and view is None:
            return made
        count = len(made) // len(self.views)
        shown = np.arange(count) if places is None else places
        views = range(len(self.views)) if view is None else (view,)
        wanted = torch.from_numpy(np.concatenate([shown + v * count for v in views]))
        if self._device.type == "cuda":
            wanted = wanted.pin_memory()  # else the copy waits for all that the GPU has to do
        return made[wanted.to(self._device, non_blocking=True)].contiguous(memory_format=torch.channels_last)

    def made(self, member: Member) -> Tensor:
        """As `of`, of all photos in all views."""
        card = member.card
        key = (card.preprocessing, card.mean, card.std)
        if key not in self._made:
            normalisation = card.mean, card.std
            x = to_input(self._photos[card.preprocessing], *normalisation, self._device)
            self._made[key] = stack_views(x, self.views, normalisation)
        return self._made[key]


WORTH_MEASURING = 50  # times the usual batch: from then on a faster batch size repays being looked for


def worth_measuring(passes: int) -> bool:
    """Whether the fastest size of a forward pass repays being looked for."""
    return passes >= WORTH_MEASURING * BATCH


def batch_size(device: torch.device) -> int:
    """How many photos to read at a time."""
    return 256 if device.type == "cuda" else 2 * BATCH


def as_batch(photos: Sequence[Sequence[Pixels]]) -> list[Tensor]:
    """Photos, each in some preprocessings, as for each preprocessing uint8 (photos, height, width, 3)."""
    return [torch.from_numpy(np.stack(sizes)) for sizes in zip(*photos, strict=True)]


class Predictor:
    """Models in memory, which turn batches of decoded photos into logits of each model in each view.

    Args:
        views: in which the photos are shown.
        options: how the models predict.
        chosen: in which precision and by which engine each model predicts, if that is known.
    """

    def __init__(
        self,
        ensembles: Sequence[Ensemble],
        views: Sequence[str],
        device: torch.device,
        options: EngineOptions = AS_TRAINED,
        chosen: Sequence[PrecisionChoice] = (),
    ) -> None:
        self.ensembles, self.views, self.device, self.options = ensembles, views, device, options
        self.members = [m for ensemble in ensembles for m in ensemble.members]
        self.preprocessings = preprocessings(self.members)
        self.engines: dict[int, InferenceEngine] = {}  # number of the model -> it, of those that are loaded
        self.precisions: dict[int, PrecisionChoice] = dict(enumerate(chosen))
        self.compile_seconds = 0.0
        self.notes: list[str] = []  # of the engines
        self._kinds = [
            f"{m.card.model} {m.card.model_args} {m.card.preprocessing}" for m in self.members
        ]  # equally fast
        self._batches: dict[str, int] = {}  # kind of model -> photos in one forward pass of torch
        self._fastest: dict[str, PrecisionChoice] = {}  # kind of model -> what was fastest for the first of it
        self._why: dict[str, tuple[str, ...]] = {}  # kind of model -> notes on what was chosen
        self._graphs = OnnxGraphs()

    def inputs(self, photos: Sequence[Tensor]) -> BatchInputs:
        """A batch, for each of `preprocessings` uint8 (photos, height, width, 3)."""
        return BatchInputs(photos, self.preprocessings, self.views, self.device)

    def load(
        self, models: Sequence[int], inputs: BatchInputs, passes: float = math.inf, measure_batch: bool = False
    ) -> None:
        """Load models and make them fast; those of one kind share a batch size and the engine.

        Args:
            inputs: what they are tried on.
            passes: photos times views that each model will see.
            measure_batch: look for the fastest size of a forward pass.

        Raises:
            MaskensError: a damaged checkpoint, too little memory, or another way of predicting than was chosen.
        """
        for number in models:
            member, kind = self.members[number], self._kinds[number]
            size = self._batches.get(kind, 0 if measure_batch else BATCH)
            options = self.options
            if known := self.precisions.get(number):  # an interrupted inference goes on as it began
                options = EngineOptions(known.precision, options.compile, known.engine, chosen_before=True)
            elif options.engine == "auto" and (first := self._fastest.get(kind)):
                precision = first.precision if options.precision == "auto" else options.precision
                options = dataclasses.replace(options, precision=precision, engine=first.engine)
            model = load_checkpoint(member.path, self.device)[0]
            try:
                alike = self._kinds.count(kind)
                engine = choose_engine(model, inputs.of(member), options, size, self._graphs, passes, alike)
            except torch.OutOfMemoryError:
                raise MaskensError(
                    "the GPU's memory is too small for the models; use --device cpu, or infer with --precision fp16"
                ) from None
            if known:
                refuse_another_way(known, engine.precision)
            if engine.precision.engine == "torch":
                self._batches[kind] = engine.batch
            if self.options.precision in ("auto", engine.precision.precision):  # else it is this model's own
                self._fastest.setdefault(kind, engine.precision)
            self.engines[number] = engine
            why = self._why.setdefault(kind, engine.notes) if self.options.engine == "auto" else ()
            self.notes += engine.notes or why  # a choice for all models of a kind has the first one's reasons
            self.precisions.setdefault(number, engine.precision)
            self.compile_seconds += engine.compile_seconds

    def forward(
        self, places: Mapping[int, IntArray | None], inputs: BatchInputs, view: int | None = None
    ) -> list[Logits]:
        """Forward a batch through models. A GPU is waited for once.

        Args:
            places: number of each model -> the places of the photos in the batch that it sees; None for all.
            view: the one view that is shown; None for all.

        Returns:
            Of each of these models float32 (views, photos that it saw, width).

        Raises:
            MaskensError: a model gives no numbers, or not even one photo fits into the GPU's memory.
        """
        members = [self.members[n] for n in places]
        for member in members:
            inputs.made(member)  # first, as what it copies to a GPU would wait for the models before it
        found = [self.engines[n].logits(inputs.of(self.members[n], seen, view)) for n, seen in places.items()]
        views = self.views if view is None else self.views[view : view + 1]
        arrays = [unstack_views(logits, views).cpu().numpy() for logits in found]
        for member, values in zip(members, arrays, strict=True):
            if not np.isfinite(values).all():
                raise MaskensError(
                    f"{member.path} gives logits that are not finite; "
                    "train that job again with --restart, or predict with --precision fp32"
                )
        return arrays


def refuse_another_way(before: PrecisionChoice, now: PrecisionChoice) -> None:
    """Photos of one inference are predicted in one way, after an interruption and on other nodes too. Raises
    MaskensError."""
    ways = [f"{choice.engine} in {choice.precision}" for choice in (before, now)]
    if ways[0] != ways[1]:
        raise MaskensError(
            f"other photos were predicted with {ways[0]}, and these would be with {ways[1]}: install here what "
            "there was then, or delete what that inference left beside its CSV (*.partial.npz or *.shards)"
        )


@dataclass(frozen=True)
class Batch:
    """A batch of photos of an inference, and what was predicted so far."""

    predictor: Predictor
    inputs: BatchInputs
    outputs: list[Logits]  # of each model, float32 (views, photos of the inference, width), NaN where not shown
    rows: slice  # which of these photos the batch holds

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)

    def show(self, places: Mapping[int, IntArray | None], view: int | None = None) -> None:
        """Have models predict. Arguments, raises: as of `Predictor.forward`."""
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


SHARE = 0.5  # of the free memory, for models


def groups_that_fit(members: Sequence[Member], device: torch.device) -> list[list[int]]:
    """Indices of the models, in order, as many at a time as memory takes."""
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
