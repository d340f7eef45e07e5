"""Inference: logits of many photos by every model, resumable, by one process or several; an estimate of its time."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.backends.backend import Call, WorkerLost, call_with_retries, run_in_threads
from ensemble.backends.choose import open_backend
from ensemble.data.cache import DecodedPhotos, PhotoBatch, missing_bytes, no_face_note, open_photos
from ensemble.decision.early_exit import Budget
from ensemble.decision.members import Ensemble, all_members, preprocessings
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.models.engine import AS_TRAINED, BATCH, EngineOptions, PrecisionChoice, shortest
from ensemble.models.runtime import configure_process
from ensemble.prediction.predictor import Batch, Predictor, batch_size, by_task
from ensemble.prediction.strategies import EarlyExit, Strategy, WithinBudget
from ensemble.recipes.tasks import ONLY_GENDER
from folds.errors import MaskensError
from folds.files import json_text, load_npz, save_npz, sha256
from folds.labels import IntArray
from folds.people import PhotoSet
from folds.photos import Progress

SAVE_EVERY = 20.0  # seconds
EVALUATED = 0.6  # assumed fraction of the photos that age models of one gender predict
EACH = 4  # shards for each process, so that none waits long for the last
SMALLEST, LARGEST = 256, 8192  # photos of a shard: loading the models has to pay, and little may be lost


@dataclass(frozen=True)
class InferenceSettings:
    """What is the same for every photo of an inference."""

    hardware: Hardware
    cache: Path | None = None  # folder of decoded photos; None decodes at each access
    engine: EngineOptions = AS_TRAINED
    early_exit: DecisionParams | None = None  # of the joint decision: skip age models that can't change it; None: none
    budget: Budget | None = None  # limits the forward passes; needs `early_exit`
    partial: Path | None = None  # file that an interrupted inference resumes from
    shards: Path | None = None  # folder of finished shards, needed for several processes; resumed from likewise
    retries: int = 0  # how often a shard whose worker crashed is predicted again


@dataclass(frozen=True)
class Prediction:
    """Logits of photos by each model, and how they were computed."""

    rows: IntArray  # (n,), which photos
    logits: list[Logits]  # of each model, float32 (views, n, width), NaN where a photo was not shown
    no_face: npt.NDArray[np.bool_]  # (n,), photos that are resized whole although a crop around the face is wanted
    chosen: tuple[PrecisionChoice, ...]  # of each model
    done: tuple[int, ...] = ()  # of an unfinished one: how many of the photos each model has predicted
    compile_seconds: float = 0.0
    slow: tuple[str, ...] = ()  # what could not be made faster, a note a model
    graphs: tuple[str, ...] = ()  # which of the models were kept
    resumed: int = 0  # photos that were predicted before an interruption
    warning: str = ""
    skipped: str = ""  # which forward passes early exit or a budget skipped

    def by_run(self, ensembles: Sequence[Ensemble], photos: int) -> list[dict[str, Logits]]:
        """Of each run, task -> float32 (folds, views, photos, width), NaN for those of all `photos` not in `rows`."""
        spread = []
        for values in self.logits:
            every = np.full((values.shape[0], photos, values.shape[2]), np.nan, np.float32)
            every[:, self.rows] = values
            spread.append(every)
        return by_task(ensembles, spread)

    @property
    def notes(self) -> list[str]:
        """What the user should know of this inference, a line each."""
        chosen = self.chosen
        lines = [f"resumed after {self.resumed} photos"] if self.resumed else []
        lines += [self.warning] if self.warning else []
        if without := int(self.no_face.sum()):
            lines.append(no_face_note(without, len(self.rows)))
        if self.compile_seconds:
            lines.append(f"compiled in {self.compile_seconds:.0f} s")
        lines += [f"{count} of {len(chosen)} models: {note}" for note, count in Counter(self.slow).items()]
        if any(c.note or c.precision != "fp32" or c.engine != "torch" or c.speedup for c in chosen):
            counts = Counter(f"{c.engine} in {c.precision}" for c in chosen)
            line = ", ".join(f"{name} for {count} of {len(chosen)} models" for name, count in counts.items())
            line += f", largest difference of a logit to fp32 {max(c.difference for c in chosen):.2g} on a first batch"
            if measured := [c.speedup for c in chosen if c.speedup]:
                line += f", {np.mean(measured):.1f} times as fast as torch in fp32"
            lines.append("; ".join(dict.fromkeys([line, *(c.note for c in chosen if c.note)])))
        return [*lines, *self.graphs, *([self.skipped] if self.skipped else [])]


def infer(
    ensembles: Sequence[Ensemble],
    photos: PhotoSet,
    settings: InferenceSettings,
    on_decode: Progress | None = None,
    on_predict: Progress | None = None,
) -> Prediction:
    """Logits of every model of every run.

    Args:
        photos: those that are skipped get no logits.
        on_decode: called while the cache is filled.

    Raises:
        MaskensError: as `predict_photos`; a shard whose worker crashed too often.
    """
    threads = settings.hardware.decoding_threads
    decoded = open_photos(photos, preprocessings(ensembles), settings.cache, threads, on_decode)
    identity = inference_identity(ensembles, photos, settings)
    predict = _predict_in_shards if settings.hardware.several_processes else predict_photos
    found = predict(ensembles, decoded, settings, identity, on_predict)
    evaluated = [
        np.isfinite(values[0, :, 0]).mean()
        for values, member in zip(found.logits, all_members(ensembles), strict=True)
        if member.card.output_spec.predicts in ONLY_GENDER
    ]
    if found.skipped or not evaluated or np.mean(evaluated) == 1:
        return found
    skipped = f"{1 - np.mean(evaluated):.0%} of the forward passes of age models of one gender"
    return dataclasses.replace(found, skipped=f"early exit skipped {skipped}; no class changed")


def inference_identity(ensembles: Sequence[Ensemble], photos: PhotoSet, settings: InferenceSettings) -> str:
    """A hash of all that the logits of an inference depend on."""
    paths = [member.path for member in all_members(ensembles)]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    temperatures = [{task: list(found) for task, found in e.temperatures.items()} for e in ensembles]
    rule, budget = settings.early_exit, settings.budget
    return sha256(
        json_text(
            [
                [photos.version, *sorted(photos.skipped)],
                files,
                ensembles[0].tta.model_dump(mode="json"),
                settings.hardware.device,
                asdict(dataclasses.replace(settings.engine, graphs=True)),
                [rule.weights.tolist(), list(rule.offsets), temperatures] if rule else None,
                asdict(budget) if budget else None,
            ]
        )
    )


def predict_photos(
    ensembles: Sequence[Ensemble],
    photos: DecodedPhotos,
    settings: InferenceSettings,
    identity: str = "",
    on_predict: Progress | None = None,
    rows: IntArray | None = None,
    chosen: Sequence[PrecisionChoice] = (),
) -> Prediction:
    """Predict photos with every model, in this process. Models that do not fit into memory together take turns: each
    group of them predicts all photos.

    Args:
        photos: in the preprocessings of the models, without repeats.
        identity: an interrupted inference of another identity is not resumed.
        rows: int64 (n,), which photos; None for all that can be read.
        chosen: in which precision and by which engine each model predicts, if that is known.

    Raises:
        MaskensError: a photo that can't be read, a model whose logits are not finite, or out of memory.
    """
    hardware, partial = settings.hardware, settings.partial
    configure_process(hardware.job_threads)
    rows = np.flatnonzero(photos.photos.readable) if rows is None else rows
    in_all_shards = int(photos.photos.readable.sum())  # which do as the first
    predictor = Predictor(ensembles, hardware, settings.engine, chosen, in_all_shards, len(rows))
    members, groups = predictor.members, predictor.groups
    strategy = _strategy(settings, predictor, len(rows))
    rows, size = strategy.order(rows), strategy.batch_size(batch_size(hardware.device))
    shapes = [(len(predictor.views), len(rows), member.card.output_spec.width) for member in members]
    begun = (read_prediction(partial, identity) if partial else None) or Prediction(
        rows, [np.full(s, np.nan, np.float32) for s in shapes], np.zeros(len(rows), bool), (), (0,) * len(members)
    )
    predictor.precisions.update(enumerate(begun.chosen))
    logits, no_face, done = begun.logits, begun.no_face, list(begun.done)
    kept, saved, warning = sum(done), time.monotonic(), ""

    def found() -> Prediction:
        return dataclasses.replace(
            begun,
            chosen=tuple(choice for _, choice in sorted(predictor.precisions.items())),
            done=tuple(done),
            compile_seconds=predictor.compile_seconds,
            slow=predictor.notes,
            graphs=predictor.graph_notes,
            resumed=kept // len(members),
        )

    def save() -> None:  # a full disk does not end the inference
        nonlocal saved, warning
        if partial is None or warning:
            return
        try:
            save_prediction(partial, identity, found())
        except MaskensError as error:
            warning = f"progress could not be saved, an interruption would have lost it: {error}"
        saved = time.monotonic()

    try:
        for turn, group in enumerate(groups):
            first = min(done[n] for n in group)
            for batch in _batches(photos, rows[first:].tolist(), size, hardware):
                inputs, places = predictor.inputs(batch.photos), slice(first, first + len(batch.faces))
                predictor.hold(group, inputs)
                strategy(Batch(predictor, inputs, logits, places))  # which fills `logits`
                no_face[places] = ~batch.faces
                first = places.stop
                done[group[0] : group[-1] + 1] = [first] * len(group)
                if time.monotonic() - saved > SAVE_EVERY:
                    save()
                if on_predict:
                    on_predict((turn * len(rows) + first) // len(groups), len(rows))
    except BaseException:
        if sum(done) > kept:
            save()
        raise
    if partial:
        partial.unlink(missing_ok=True)
    return dataclasses.replace(found(), warning=warning, skipped=strategy.describe(logits))


def _strategy(settings: InferenceSettings, predictor: Predictor, photos: int) -> Strategy:
    """What the settings ask for; early exit only where all models are in memory. Raises MaskensError: a budget where
    they do not fit."""
    fitted, budget = settings.early_exit, settings.budget
    if len(predictor.groups) == 1 and fitted:
        return WithinBudget(budget, fitted, predictor, photos) if budget else EarlyExit(fitted)
    if budget:
        raise MaskensError(f"{budget.option} needs all models in memory together, and they do not fit.")
    return Strategy()


def _batches(photos: DecodedPhotos, rows: Sequence[int], size: int, hardware: Hardware) -> Iterator[PhotoBatch]:
    """Arrays; for a GPU tensors in pinned memory, loaded by processes while it works."""
    if hardware.device == "cpu":
        return photos.batches(rows, size, hardware.decoding_threads)
    from ensemble.data.loader import plain_batches

    return plain_batches(photos, rows, size, hardware.job_workers, pin=True)


def save_prediction(path: Path, identity: str, found: Prediction) -> None:
    """Replace the file that keeps a prediction, or a part of one; `identity` is of all that the logits depend on.
    Raises MaskensError: it can't be written."""
    record = asdict(dataclasses.replace(found, logits=[], rows=found.rows[:0], no_face=found.no_face[:0]))
    record = {name: value for name, value in record.items() if name not in ("logits", "rows", "no_face")}
    arrays: dict[str, Any] = {f"model{n}": values for n, values in enumerate(found.logits)}
    arrays |= {"rows": found.rows, "no_face": found.no_face}
    save_npz(path, arrays | {"record": json.dumps(record | {"identity": identity})})


def read_prediction(path: Path, identity: str) -> Prediction | None:
    """What `save_prediction` wrote; None if there is none, or none of this identity."""
    try:
        z = load_npz(path)
        record = json.loads(str(z["record"]))
        if record.pop("identity") != identity:
            return None
        chosen = tuple(PrecisionChoice(**c) for c in record.pop("chosen"))
        logits = [z[f"model{n}"] for n in range(len(record["done"]))]
        record |= {name: tuple(record[name]) for name in ("done", "slow", "graphs")}
        return Prediction(z["rows"], logits, z["no_face"], chosen, **record)
    except Exception:  # a damaged file: the photos are predicted again
        return None


def _predict_in_shards(
    ensembles: Sequence[Ensemble],
    photos: DecodedPhotos,
    settings: InferenceSettings,
    identity: str,
    on_predict: Progress | None = None,
) -> Prediction:
    """Predict photos several shards at a time; finished shards of an interrupted call are kept."""
    folder = settings.shards
    assert folder is not None
    rows = np.flatnonzero(photos.photos.readable)
    found = [shard for file in sorted(folder.glob("*.npz")) if (shard := read_prediction(file, identity))]
    left = np.setdiff1d(rows, np.concatenate([rows[:0], *(shard.rows for shard in found)]))
    resumed = done = len(rows) - len(left)
    size = min(max(-(-len(rows) // (EACH * settings.hardware.jobs)), SMALLEST), LARGEST)
    shards = [left[start : start + size] for start in range(0, len(left), size)]
    chosen = found[0].chosen if found else ()
    needs = (folder, photos.photos.root, *sorted({member.run for member in all_members(ensembles)}))
    lock = threading.Lock()

    def run(shard: IntArray) -> None:
        nonlocal done
        name, file = f"photos {shard[0] + 1} to {shard[-1] + 1}", folder / f"{shard[0]}-{shard[-1]}.npz"
        args = (ensembles, photos.photos, settings, shard, chosen, file, identity)
        try:
            call_with_retries(
                backend,
                lambda: Call(name, _predict_shard, args, file.with_suffix(".log"), folder, needs),
                settings.retries,
            )
        except WorkerLost as lost:
            raise MaskensError(f"{name}: {lost}. Finished shards are kept; resume with the same command.") from lost
        predicted = read_prediction(file, identity)
        if predicted is None:
            raise MaskensError(f"{file} is gone or damaged: run the same command again.")
        with lock:
            found.append(predicted)
            done += len(shard)
            if on_predict:
                on_predict(done, len(rows))

    if shards:
        with open_backend(settings.hardware) as backend:
            if settings.engine.precision == "auto" or settings.engine.engine != "torch":  # the first chooses for all
                run(shards.pop(0))
                chosen = found[0].chosen
            run_in_threads(run, shards, backend.slots)
    shutil.rmtree(folder, ignore_errors=True)
    together = np.concatenate([shard.rows for shard in found])
    order = np.argsort(together)
    return dataclasses.replace(
        found[0],
        rows=together[order],
        logits=[np.concatenate(same, axis=1)[:, order] for same in zip(*(s.logits for s in found), strict=True)],
        no_face=np.concatenate([shard.no_face for shard in found])[order],
        compile_seconds=max(shard.compile_seconds for shard in found),
        resumed=resumed,
    )


def _predict_shard(
    ensembles: Sequence[Ensemble],
    photos: PhotoSet,
    settings: InferenceSettings,
    shard: IntArray,
    chosen: Sequence[PrecisionChoice],
    file: Path,
    identity: str,
) -> None:
    """In a process of its own: predict a shard and save the prediction."""
    opened = open_photos(photos, preprocessings(ensembles), settings.cache, settings.hardware.decoding_threads)
    settings = dataclasses.replace(settings, partial=file.with_suffix(".partial.npz"))
    part = f"{identity} {shard[0]} {shard[-1]}"
    found = predict_photos(ensembles, opened, settings, part, rows=shard, chosen=chosen)
    save_prediction(file, identity, found)


def estimate_inference(
    ensembles: Sequence[Ensemble], photos: PhotoSet, settings: InferenceSettings
) -> tuple[float, int]:
    """(seconds, bytes of disk for the photo cache) that `infer` would take, from a few photos by one model of each
    task. How many forward passes early exit skips depends on the photos; EVALUATED is assumed. Raises MaskensError: a
    photo of the probe that can't be read, a damaged checkpoint."""
    hardware = settings.hardware
    configure_process(hardware.job_threads)
    rows = np.flatnonzero(photos.readable)
    count = len(rows)
    predictor = Predictor(ensembles, hardware, settings.engine, photos=count)
    if not predictor.all_kept:
        predictor.options = dataclasses.replace(settings.engine, graphs=False)  # none is written
    some = photos.some(rows[np.linspace(0, count - 1, min(2 * BATCH, count)).astype(np.int64)])
    probed = len(some.files)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        decoded = open_photos(some, predictor.preprocessings, Path(scratch), hardware.decoding_threads)
        decoding = (time.perf_counter() - started) / probed * count
        inputs = predictor.inputs(
            next(_batches(decoded, range(probed), probed, dataclasses.replace(hardware, workers=0))).photos
        )
    predicting = 0.0
    alike = Counter(m.path.parent.parent for m in predictor.members)
    probes = {m.path.parent.parent: n for n, m in reversed(list(enumerate(predictor.members)))}
    for task, number in probes.items():
        predicts = predictor.members[number].card.output_spec.predicts
        started = time.perf_counter()
        predictor.load([number], inputs)
        load = time.perf_counter() - started
        each = shortest(lambda: predictor.forward({number: None}, inputs), 2) / probed  # noqa: B023
        predictor.engines.clear()
        fraction = EVALUATED if settings.early_exit and predicts in ONLY_GENDER else 1.0
        predicting += alike[task] * (load + count * fraction * each)
    missing = missing_bytes(photos, predictor.preprocessings, settings.cache)
    if settings.cache is not None:
        return predicting + (decoding if missing else 0.0), missing
    if hardware.device == "cpu" or not hardware.job_workers:
        return predicting + decoding, missing
    # loader processes decode while the GPU works
    return max(predicting, decoding * max(1.0, hardware.decoding_threads / hardware.job_workers)), missing
