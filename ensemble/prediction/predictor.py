"""Predicting photos with many models: each batch is read once for every model that fits into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.data.cache import DecodedPhotos
from ensemble.data.loader import plain_batches
from ensemble.decision.early_exit import gender_to_evaluate, upper_bounds
from ensemble.decision.members import Ensemble, Member
from ensemble.decision.tuning import Fitted
from ensemble.jobs.hardware import free_memory
from ensemble.jobs.oof import Logits
from ensemble.models.build import load_checkpoint, to_input
from ensemble.models.engine import BATCH, EngineOptions, InferenceEngine
from ensemble.models.engine_choice import choose_engine
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.precision import PrecisionChoice
from ensemble.models.tta import stack_views, unstack_views
from ensemble.prediction.outputs import InferenceCheckpoint, InferenceSettings
from ensemble.recipes.schema import Geometry
from ensemble.recipes.tasks import ONLY_GENDER
from ensemble.recipes.views import as_set
from folds.errors import MaskensError
from folds.labels import GENDERS, IntArray
from folds.photos import Progress


class BatchInputs:
    """A batch as models want it: normalised and in all views, made once for all models that want it alike."""

    def __init__(
        self, batch: Sequence[Tensor], geometries: Sequence[Geometry], views: Sequence[str], device: torch.device
    ) -> None:
        """
        Args:
            batch: for each geometry uint8 (photos, height, width, 3).
        """
        self.views = views
        self._photos = dict(zip(geometries, batch, strict=True))
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
        key = (card.geometry, card.mean, card.std)
        if key not in self._made:
            normalisation = card.mean, card.std
            x = to_input(self._photos[card.geometry], *normalisation, self._device)
            self._made[key] = stack_views(x, self.views, normalisation)
        return self._made[key]


def forward(
    chosen: Sequence[tuple[Member, InferenceEngine, IntArray | None]],
    inputs: BatchInputs,
    view: int | None = None,
) -> list[Logits]:
    """Forward a batch through models. A GPU is waited for once.

    Args:
        chosen: models, each with the places of the photos in the batch that it sees; None for all.
        view: the one view that is shown; None for all.

    Returns:
        Of each model float32 (views, photos that it saw, width).

    Raises:
        MaskensError: a model gives no numbers, or not even one photo fits into the GPU's memory.
    """
    for member, _, _ in chosen:
        inputs.made(member)  # first, as what it copies to a GPU would wait for the models before it
    found = [engine.logits(inputs.of(member, places, view)) for member, engine, places in chosen]
    views = inputs.views if view is None else inputs.views[view : view + 1]
    arrays = [unstack_views(logits, views).cpu().numpy() for logits in found]
    for (member, _, _), values in zip(chosen, arrays, strict=True):
        if not np.isfinite(values).all():
            raise MaskensError(
                f"{member.path} gives logits that are not finite; "
                "train that job again with --restart, or predict with --precision fp32"
            )
    return arrays


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


WORTH_MEASURING = 50  # times the usual batch: from then on a faster batch size repays being looked for
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


class EnsemblePredictor:
    """Predicts photos with many models; `outputs` is what came of it, without the photos that are skipped.

    Args:
        photos: in the geometries of the models, without repeats.
        rows: int64 (n,), those that are predicted; None for all that can be read.
        chosen: in which precision and by which engine each model predicts, if that is known.
    """

    def __init__(
        self,
        ensembles: Sequence[Ensemble],
        photos: DecodedPhotos,
        settings: InferenceSettings,
        rows: IntArray | None = None,
        chosen: Sequence[PrecisionChoice] = (),
    ) -> None:
        self.ensembles, self.photos, self.settings = ensembles, photos, settings
        self.views = as_set(settings.tta).views
        self.device = torch.device(settings.hardware.device)
        self.members = [m for ensemble in ensembles for m in ensemble.members]
        wanted = np.flatnonzero(photos.photos.readable) if rows is None else rows
        self.rows = self._order(wanted)  # index in `photos` of each that is predicted
        shape = (len(self.views), len(self.rows))
        self.outputs: list[Logits] = [np.full((*shape, m.card.target.width), np.nan, np.float32) for m in self.members]
        self.engines: dict[int, InferenceEngine] = {}
        self.precisions: dict[int, PrecisionChoice] = dict(enumerate(chosen))
        self.compile_seconds = 0.0
        self.notes: list[str] = []  # of the engines
        self.without_face = np.zeros(len(self.rows), np.bool_)  # of those predicted now: it was to be cut out
        self._batches: dict[str, int] = {}  # kind of model -> photos in one forward pass of torch
        self._fastest: dict[str, PrecisionChoice] = {}  # kind of model -> what was fastest for the first of it
        self._why: dict[str, tuple[str, ...]] = {}  # kind of model -> notes on what was chosen
        self._graphs = OnnxGraphs()

    def _order(self, rows: IntArray) -> IntArray:
        """In which order the photos are predicted."""
        return rows

    def run(self, kept: InferenceCheckpoint, on_predict: Progress | None) -> int:
        """Predict all photos, as many models at a time as fit.

        Args:
            kept: where to go on from, and what is kept if this is interrupted.

        Returns:
            How many photos were done before.

        Raises:
            MaskensError: a photo that can't be read, a model that gives no numbers, or more than memory takes.
        """
        groups = groups_that_fit(self.members, self.device)
        if len(groups) == 1:
            return self._predict_all(groups[0], self.settings.early_exit, kept, on_predict)
        for group in groups:  # without early exit, which needs all models at hand
            self._predict_all(group, None, InferenceCheckpoint(None, None), on_predict)
            self.engines.clear()
        return 0

    def by_task(self, rows: slice) -> list[dict[str, Logits]]:
        """`forward.by_task` of the photos at `rows`, NaN where a photo was not shown."""
        return by_task(self.ensembles, [values[:, rows] for values in self.outputs])

    def _predict_all(
        self, group: list[int], early_exit: Fitted | None, kept: InferenceCheckpoint, on_predict: Progress | None
    ) -> int:
        before = kept.load()
        start = before.done if before else 0
        if before:
            for ours, theirs in zip(self.outputs, before.outputs, strict=True):
                ours[:, :start] = theirs
            self.precisions = dict(enumerate(before.chosen))
        first, total = start, len(self.rows)
        try:
            for faces, inputs in self._inputs(start):
                rows = slice(start, start + len(faces))
                self.without_face[rows] = ~faces.numpy()
                if start == first:
                    self._prepare(group, inputs)
                self._predict_batch(group, early_exit, inputs, rows)
                start = rows.stop
                kept.save(start, self.outputs, [self.precisions[n] for n in group])
                if on_predict:
                    on_predict(start, total)
        except BaseException:
            if start > first:
                kept.save(start, self.outputs, [self.precisions[n] for n in group], now=True)
            raise
        return first

    def _inputs(self, start: int) -> Iterator[tuple[Tensor, BatchInputs]]:
        """Batches from this row on: where a face was found, bool (photos,), and the photos as
        inputs."""
        rows, workers = self.rows[start:].tolist(), self.settings.hardware.job_workers
        pin = self.device.type == "cuda"
        for batch in plain_batches(self.photos, rows, self._photos_together, workers, pin=pin):
            yield batch.faces, BatchInputs(batch.photos, self.photos.geometries, self.views, self.device)

    @property
    def _photos_together(self) -> int:
        """How many photos are read at a time."""
        return 256 if self.device.type == "cuda" else 2 * BATCH

    def _prepare(self, group: Sequence[int], inputs: BatchInputs) -> None:
        """Load the models and make them fast; models of one kind share a batch size and the engine."""
        worth = len(self.rows) * len(self.views) >= WORTH_MEASURING * BATCH
        passes = int(self.photos.photos.readable.sum()) * len(self.views)  # of all shards, which do as the first
        kinds = {n: self._kind(self.members[n]) for n in group}
        for number in group:
            member, kind = self.members[number], kinds[number]
            size = self._batches.get(kind, 0 if worth else BATCH)
            options = self.settings.engine
            if known := self.precisions.get(number):  # an interrupted inference goes on as it began
                options = EngineOptions(known.precision, options.compile, known.engine, chosen_before=True)
            elif options.engine == "auto" and (first := self._fastest.get(kind)):
                precision = first.precision if options.precision == "auto" else options.precision
                options = dataclasses.replace(options, precision=precision, engine=first.engine)
            model = load_checkpoint(member.path, self.device)[0]
            try:
                alike = list(kinds.values()).count(kind)
                engine = choose_engine(model, inputs.of(member), options, size, self._graphs, passes, alike)
            except torch.OutOfMemoryError:
                raise MaskensError(
                    "the GPU's memory is too small for the models; use --device cpu, or --precision fp16"
                ) from None
            if number in self.precisions:
                self._refuse_another(self.precisions[number], engine.precision)
            if engine.precision.engine == "torch":
                self._batches[kind] = engine.batch
            if self.settings.engine.precision in ("auto", engine.precision.precision):  # else it is this model's own
                self._fastest.setdefault(kind, engine.precision)
            self.engines[number] = engine
            why = self._why.setdefault(kind, engine.notes) if self.settings.engine.engine == "auto" else ()
            self.notes += engine.notes or why  # a choice for all models of a kind has the first one's reasons
            self.precisions.setdefault(number, engine.precision)
            self.compile_seconds += engine.compile_seconds

    def _kind(self, member: Member) -> str:
        """The same for models that are equally fast."""
        card = member.card
        return f"{card.model} {card.model_args} {card.geometry}"

    def _refuse_another(self, before: PrecisionChoice, now: PrecisionChoice) -> None:
        """Photos of one inference are predicted in one way, after an interruption and on other nodes too."""
        ways = [f"{choice.engine} in {choice.precision}" for choice in (before, now)]
        if ways[0] != ways[1]:
            raise MaskensError(
                f"other photos were predicted with {ways[0]}, and these would be with {ways[1]}: install here what "
                "there was then, or delete what that inference left beside its CSV (*.partial.npz or *.shards)"
            )

    def _predict_batch(self, group: Sequence[int], early_exit: Fitted | None, inputs: BatchInputs, rows: slice) -> None:
        """Predict a batch with the models, or with those that can change a class."""
        only = {n: ONLY_GENDER.get(self.members[n].card.predicts) if early_exit else None for n in group}
        self._forward([(n, None) for n in group if only[n] is None], inputs, rows)
        if early_exit is None:
            return
        evaluated = np.array([[g not in only.values() for g in range(len(GENDERS))]] * (rows.stop - rows.start))
        for _ in GENDERS:
            gender = gender_to_evaluate(upper_bounds(self.ensembles, self.by_task(rows), early_exit), evaluated)
            here = {g: np.flatnonzero(gender == g) for g in range(len(GENDERS))}
            self._forward([(n, here[g]) for n, g in only.items() if g is not None and len(here[g])], inputs, rows)
            for g, places in here.items():
                evaluated[places, g] = True

    def _forward(
        self, chosen: Sequence[tuple[int, IntArray | None]], inputs: BatchInputs, rows: slice, view: int | None = None
    ) -> None:
        """Forward a batch, or those of its photos that are named, through models, in all views or in one."""
        found = forward([(self.members[n], self.engines[n], places) for n, places in chosen], inputs, view)
        views = slice(None) if view is None else slice(view, view + 1)
        for (number, places), values in zip(chosen, found, strict=True):
            self.outputs[number][views, rows if places is None else rows.start + places] = values
