"""Models in int8, each measured on the people that it never saw."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.decision.blend import Blend
from ensemble.decision.members import Member
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.int8_files import (
    GRAPH,
    LOGITS,
    EngineScore,
    Int8Record,
    int8_folder,
    read_int8_record,
    write_int8_record,
)
from ensemble.jobs.oof import Logits, select_views
from ensemble.jobs.spec import JobSpec, learned_rows
from ensemble.metrics.heads import head_decisions
from ensemble.metrics.scores import macro_f1, task_scores
from ensemble.models.checkpoint import load_checkpoint
from ensemble.models.conv_bn import fold_conv_bn
from ensemble.models.engine import BATCH, CHECKED, LARGEST, InferenceEngine
from ensemble.models.inputs import to_input
from ensemble.models.int8 import quantize_graph
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.precision import EngineName
from ensemble.models.predict import view_logits
from ensemble.models.runtimes import compile_graph
from ensemble.recipes.tasks import learns_from, true_labels
from ensemble.recipes.tta_sets import TtaSet
from folds.data.decode import Progress
from folds.data.labels import CLASSES, IntArray
from folds.errors import MaskensError, first_line
from folds.files import save_npz, sha256_of_file
from folds.replacing import replacing

CPU = torch.device("cpu")


@dataclass(frozen=True)
class QuantizeSettings:
    """How models are quantized and measured."""

    bound: float  # largest drop of a model's macro F1 with which its int8 model is used
    calibration: int  # photos
    tta: TtaSet
    engines: tuple[EngineName, ...]  # that are measured
    hardware: Hardware
    cache: Path | None


@dataclass(frozen=True)
class QuantizedModel:
    """One model of the run in int8."""

    task: str
    fold: int
    record: Int8Record
    before: bool  # it was quantized by an earlier call


@dataclass(frozen=True)
class EnsembleScore:
    """The run's models together, some of them in int8."""

    f1: float  # macro over the 18 classes, out-of-fold
    changed: int  # photos of another class than in fp32


@dataclass(frozen=True)
class EngineResult:
    """What int8 by one engine does to the ensemble."""

    engine: EngineName
    accepted: EnsembleScore  # those models in int8 that may be; they were chosen on these photos
    every: EnsembleScore  # all models in int8


@dataclass(frozen=True)
class Quantization:
    """What came of quantizing a run."""

    models: tuple[QuantizedModel, ...]
    f1: float  # of the whole in fp32: macro over the 18 classes, out-of-fold, untuned
    photos: int
    ensemble: tuple[EngineResult, ...]


def quantize(
    blend: Blend, members: Sequence[Member], settings: QuantizeSettings, on_progress: Progress | None = None
) -> Quantization:
    """Quantize the models of a run and measure each on its held-out fold; what was done before is kept.

    Args:
        blend: of this run alone.
        members: of folds of which every task is trained.
        on_progress: called with (models done, models in all).

    Raises:
        MaskensError: a model that can't be exported, a photo that can't be read, a full disk.
    """
    graphs, done, logits = OnnxGraphs(), [], dict[tuple[str, int], dict[EngineName, Logits]]()
    for member in members:
        job = _Job(blend, member, settings)
        record = job.kept()
        before = record is not None
        record = dataclasses.replace(record, bound=settings.bound) if record else job.quantize(graphs)
        write_int8_record(job.folder, record)
        done.append(QuantizedModel(member.task, member.fold, record, before))
        logits[member.task, member.fold] = job.logits()
        if on_progress:
            on_progress(len(done), len(members))
    return _whole(blend, done, logits, settings)


class _Job:
    """One model, the photos that calibrate it, and those that it never saw."""

    def __init__(self, blend: Blend, member: Member, settings: QuantizeSettings) -> None:
        self.run, self.oof = blend.runs[0].run, blend.runs[0]
        self.data, self.blend, self.member, self.settings = blend.data, blend, member, settings
        self.folder = int8_folder(self.run, member.task, member.fold)
        held_out = blend.fold == member.fold
        self.rows = blend.rows[held_out]
        self.exact = select_views(self.oof.logits[member.task], self.oof.views, settings.tta.views)[:, held_out]

    def kept(self) -> Int8Record | None:
        """What an earlier call measured, if it is what this one would."""
        try:
            record = read_int8_record(self.run, self.member.task, self.member.fold)
        except MaskensError:  # damaged, or of another checkpoint: it is made anew
            return None
        same = record is not None and (record.calibration, record.views, record.versions) == (
            self.settings.calibration,
            self.settings.tta.views,
            self._versions,
        )
        return record if same else None

    def quantize(self, graphs: OnnxGraphs) -> Int8Record:
        """Write the int8 model and what it says of the photos that the model never saw."""
        card, member = self.member.card, self.member
        where = f"{member.task} fold {member.fold}"
        shown = self._open()
        model = load_checkpoint(member.path, CPU)[0]
        photos = torch.from_numpy(np.stack([shown[row][0] for row in self._calibration_rows()]))
        x = to_input(photos, card.mean, card.std, CPU)
        try:
            graph = quantize_graph(graphs.of(fold_conv_bn(model, x[:CHECKED])[0], x), x)
        except Exception as error:  # exporter and quantizer may refuse an architecture in any way they like
            raise MaskensError(f"{where}: {card.model} can't be quantized: {first_line(error)}") from error
        logits = self._by_each_engine(graph, shown)
        with replacing(self.folder / GRAPH) as file:
            file.write(graph)
        save_npz(self.folder / LOGITS, {str(engine): values for engine, values in logits.items()})
        return Int8Record(
            checkpoint=sha256_of_file(member.path),
            calibration=self.settings.calibration,
            views=self.settings.tta.views,
            f1=self._f1(self.exact),
            photos=len(self.rows),
            bound=self.settings.bound,
            engines={engine: self._score(values) for engine, values in logits.items()},
            files={name: sha256_of_file(self.folder / name) for name in (GRAPH, LOGITS)},
            versions=self._versions,
        )

    def _by_each_engine(self, graph: bytes, shown: DecodedPhotos) -> dict[EngineName, Logits]:
        """What each engine says of the held-out fold."""
        found = {}
        for engine in self.settings.engines:
            try:
                found[engine] = self._predict(engine, graph, shown)
            except MaskensError:  # of a photo
                raise
            except Exception as error:  # an engine may fail to load, or refuse a model, in any way it likes
                where = f"{self.member.task} fold {self.member.fold}"
                raise MaskensError(
                    f"{where}: engine {engine} does not take it ({first_line(error)}). Mend or uninstall that engine."
                ) from error
        return found

    def logits(self) -> dict[EngineName, Logits]:
        """What is kept of the int8 model: engine -> float32 (views, photos, width)."""
        with np.load(io.BytesIO((self.folder / LOGITS).read_bytes())) as z:
            return {engine: z[engine] for engine in self.settings.engines}

    @property
    def _versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("torch", *self.settings.engines)}

    def _open(self) -> DecodedPhotos:
        settings = self.settings
        geometries = [self.member.card.geometry]
        return open_photos(self.data.photos, geometries, settings.cache, settings.hardware.decoding_threads)

    def _calibration_rows(self) -> IntArray:
        """Photos that the model learned from, drawn by the run's seed."""
        member = self.member
        spec = JobSpec(self.run, self.oof.recipe, member.task, member.fold, "cpu", 0, 1, None)
        rows = learned_rows(spec, self.data, self.blend.folds)
        rows = rows[self.data.photos.readable[rows]]
        rng = np.random.default_rng([self.run.seed, zlib.crc32(member.task.encode()), member.fold])
        return rng.choice(rows, min(self.settings.calibration, len(rows)), replace=False)

    def _predict(self, engine: EngineName, graph: bytes, shown: DecodedPhotos) -> Logits:
        card, (height, width, _) = self.member.card, self.member.card.geometry.shape
        forward = compile_graph(engine, graph, (height, width), "int8", self.settings.hardware.job_threads)
        found = InferenceEngine(forward, LARGEST)
        return view_logits(found, (card.mean, card.std), CPU, shown, self.rows, self.settings.tta.views, 2 * BATCH)

    def _score(self, logits: Logits) -> EngineScore:
        heads = self.member.card.target.heads
        pairs = zip(*(head_decisions(self._merged(values), heads) for values in (self.exact, logits)), strict=True)
        changed = np.logical_or.reduce([ours != theirs for ours, theirs in pairs])
        return EngineScore(self._f1(logits), float(np.abs(logits - self.exact).max()), int(changed.sum()))

    def _f1(self, logits: Logits) -> float:
        """Macro F1 of the task on those photos of the held-out fold that it is about."""
        target = self.member.card.target
        mine = learns_from(target.predicts, self.data)[self.rows]
        return task_scores(target, self._merged(logits)[mine], true_labels(target, self.data)[self.rows][mine])[0]

    def _merged(self, logits: Logits) -> Logits:
        return np.average(logits, axis=0, weights=self.settings.tta.weights or None).astype(np.float32)


def _whole(
    blend: Blend,
    models: Sequence[QuantizedModel],
    logits: Mapping[tuple[str, int], Mapping[EngineName, Logits]],
    settings: QuantizeSettings,
) -> Quantization:
    """The ensemble in fp32, and by each engine with models in int8."""
    member, views = blend.runs[0], settings.tta.views
    exact = {task: select_views(values, member.views, views) for task, values in member.logits.items()}

    def classes(values: Mapping[str, Logits]) -> IntArray:
        oof = dataclasses.replace(member, logits=values, views=views)
        return dataclasses.replace(blend, runs=(oof,)).decide(blend.plain("", settings.tta)).classes

    def score(engine: EngineName, chosen: Sequence[QuantizedModel]) -> EnsembleScore:
        values = {task: each.copy() for task, each in exact.items()}
        for model in chosen:
            values[model.task][:, blend.fold == model.fold] = logits[model.task, model.fold][engine]
        after = classes(values)
        return EnsembleScore(macro_f1(blend.truth, after, CLASSES), int((after != before).sum()))

    before = classes(exact)
    results = []
    for engine in settings.engines:
        accepted = [model for model in models if engine in model.record.accepted]
        results.append(EngineResult(engine, score(engine, accepted), score(engine, models)))
    return Quantization(tuple(models), macro_f1(blend.truth, before, CLASSES), len(before), tuple(results))
