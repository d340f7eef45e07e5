"""What `maskens quantize` leaves of each job: its int8 model, and what that is worth on people it never saw."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from ensemble.jobs.checksums import verified_sha256
from folds.errors import MaskensError
from folds.files import read_json, sealed, sha256_of_file, unsealed, write_json
from folds.run import Run

GRAPH, LOGITS, RECORD = "model.onnx", "oof.npz", "int8.json"


@dataclass(frozen=True)
class EngineScore:
    """How an engine did with an int8 model on the photos of its held-out fold."""

    f1: float  # macro, of the task
    difference: float  # largest of a logit to fp32
    changed: int  # photos of which a head's label is another


@dataclass(frozen=True)
class Int8Record:
    """What int8.json says of a job's int8 model."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    checkpoint: str  # sha256 of the model.safetensors that was quantized
    calibration: int  # photos that it was calibrated on, if there are as many
    views: tuple[str, ...]  # in which it was measured
    f1: float  # macro, of the task, in fp32 on the photos of the held-out fold
    photos: int  # of that fold
    bound: float  # largest drop of `f1` with which it is used
    engines: dict[str, EngineScore] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # file -> sha256
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries

    def drop(self, engine: str) -> float:
        """Of macro F1, with an engine."""
        return self.f1 - self.engines[engine].f1

    @property
    def accepted(self) -> list[str]:
        """The engines with which it is used."""
        return [engine for engine in self.engines if self.drop(engine) <= self.bound]


@dataclass(frozen=True)
class Int8Graph:
    """An int8 model that may be used."""

    path: Path
    sha256: str
    engines: Mapping[str, float]  # engine -> largest difference of a logit to fp32 that was seen


def int8_folder(run: Run, task: str, fold: int) -> Path:
    """Where a job's int8 model is.

    Raises:
        MaskensError: a link leads out of the run's folder.
    """
    found = run.folder / "int8" / task / f"fold{fold}"
    if not Path(os.path.realpath(found)).is_relative_to(os.path.realpath(run.folder)):
        raise MaskensError(f"{found} leads out of the run's folder through a link. Put a folder in its place.")
    return found


def write_int8_record(folder: Path, record: Int8Record) -> None:
    """Replace int8.json, atomically."""
    write_json(folder / RECORD, sealed(asdict(record)))


def read_int8_record(run: Run, task: str, fold: int) -> Int8Record | None:
    """What is known of a job's int8 model, whose files are as they were left; None if there is none.

    Raises:
        MaskensError: a file was edited or damaged, or the checkpoint is another by now.
    """
    folder = int8_folder(run, task, fold)
    if not (folder / RECORD).exists():
        return None
    try:
        record = _adapter().validate_python(unsealed(read_json(folder / RECORD)))
        changed = [name for name, digest in record.files.items() if sha256_of_file(folder / name) != digest]
    except (OSError, ValueError) as error:
        raise MaskensError(f"{folder} can't be used ({error}). {again(run)}") from error
    if changed:
        raise MaskensError(f"{folder / changed[0]} is damaged or was replaced. {again(run)}")
    if record.checkpoint != verified_sha256(run, task, fold, "model.safetensors"):
        raise MaskensError(f"{folder} was quantized from another checkpoint of {task} fold {fold}. {again(run)}")
    return record


def int8_graphs(jobs: Iterable[tuple[Run, str, int, bool]]) -> dict[Path, Int8Graph]:
    """Checkpoint -> its int8 model, of these jobs those that may be used.

    Args:
        jobs: (run, task, fold, whether it has to be quantized: a fold that lacks a task can't be measured).

    Raises:
        MaskensError: some that are needed were not quantized, or as of `read_int8_record`.
    """
    found = {}
    for run, task, fold, needed in jobs:
        record = read_int8_record(run, task, fold)
        if record is None:
            if not needed:
                continue
            raise MaskensError(
                f"--precision int8: {task} fold {fold} of {run.folder} is not quantized yet. "
                f"First: maskens quantize --run {run.folder}"
            )
        if record.accepted:
            engines = {engine: record.engines[engine].difference for engine in record.accepted}
            path = int8_folder(run, task, fold) / GRAPH
            found[run.job_folder(task, fold) / "model.safetensors"] = Int8Graph(path, record.files[GRAPH], engines)
    return found


def again(run: Run) -> str:
    """What makes int8 models anew."""
    return f"Quantize again: maskens quantize --run {run.folder}"


@functools.cache
def _adapter() -> TypeAdapter[Int8Record]:
    return TypeAdapter(Int8Record)
