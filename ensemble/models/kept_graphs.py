"""Graphs that lie beside their checkpoints, so that a model is traced and compared with torch once. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict

from ensemble.jobs.card import ModelCard
from ensemble.jobs.job import GRAPH, GRAPH_RECORD
from ensemble.models.array_views import Array, array_views
from ensemble.models.engine import STARTING, EngineName, Precision, PrecisionChoice, largest_difference
from ensemble.models.graph_engine import PART, ArrayForward, GraphEngine, compile_graph
from ensemble.recipes.views import IDENTITY
from folds.errors import MaskensError, first_line
from folds.files import replacing, sha256
from folds.records import read_record, write_record

STAND_INS = 2  # generated photos that each engine is checked on when it loads a kept graph
LARGEST = 1_500_000_000  # bytes; protobuf ends at 2 GiB, and what lies in other files is not read
ELSEWHERE = b"location"  # the key under which ONNX names another file: the word is nowhere in a graph that is read


@dataclass(frozen=True)
class GraphRecord:
    """What is known of a kept graph."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str  # sha256 of the checkpoint
    graph: str  # its own
    bytes: int
    logits: tuple[tuple[float, ...], ...]  # torch's of the stand-ins, in fp32
    difference: float  # largest of a logit from torch's
    photos: int  # that were compared, of the first inference
    engine: EngineName  # that compared them
    seconds: float  # of a photo by that engine
    torch_seconds: float  # of the same by torch
    machine: str  # on which both were timed, as `machine` names it
    versions: dict[str, str]


@dataclass(frozen=True)
class KeptGraph:
    """Where the graph of a model is kept: in the folder of its checkpoint."""

    checkpoint: Path
    model: str  # sha256 of the checkpoint
    card: ModelCard

    @property
    def file(self) -> Path:
        return self.checkpoint.with_name(GRAPH)

    @property
    def stand_ins(self) -> Array:
        """float32 (STAND_INS, 3, height, width), the same always: noise, as the model takes it."""
        shape = (STAND_INS, *self.card.preprocessing.shape)
        numbers = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(2654435761)  # multiplicative hashing
        photos = (numbers >> np.uint64(24)).astype(np.uint8).reshape(shape)
        return array_views(photos, [IDENTITY], self.card.normalisation).transpose(0, 3, 1, 2)

    def record(self) -> GraphRecord | None:
        """Of the graph of this very checkpoint; None if there is none or it is damaged."""
        try:
            record = read_record(self.checkpoint.with_name(GRAPH_RECORD), GraphRecord)
        except MaskensError:
            return None
        return record if record.model == self.model else None

    def read(self, record: GraphRecord) -> bytes:
        """Raises OSError, or ValueError: it is damaged, or names other files."""
        if self.file.stat().st_size != record.bytes:
            raise ValueError("its size is not the recorded one")
        graph = self.file.read_bytes()
        if sha256(graph) != record.graph:
            raise ValueError("its sha256 is not the recorded one")
        _refuse_foreign(graph)
        return graph

    def engine(
        self,
        record: GraphRecord,
        name: EngineName,
        threads: int,
        part: int = PART,
        in_bf16: Array | None = None,
        any_difference: bool = False,
    ) -> GraphEngine | str:
        """The graph in an engine, or why it can't be used: damaged, or other logits of the stand-ins than torch had.

        Args:
            part: photos in one forward pass, at most.
            in_bf16: the photos, float32 (n, 3, height, width), on which bf16 is compared with fp32; where it differs
                too much the engine is in fp32, and notes report it. None: fp32.
            any_difference: in bf16 logits need only be finite.
        """

        def compiled(precision: Precision) -> ArrayForward:
            return compile_graph(name, graph, self.card.preprocessing.shape[:2], precision, threads, part)

        try:
            graph = self.read(record)
            forward, rough = compiled("fp32"), None if in_bf16 is None else compiled("bf16")
            exact, found = np.array(record.logits, np.float32), forward(self.stand_ins)
            if not exact.shape == found.shape == (STAND_INS, self.card.output_spec.width):
                raise ValueError(f"its logits are {found.shape}")
            difference = float(np.abs(found - exact).max())
        except Exception as error:  # engines may refuse a graph in any way they like
            return first_line(error)
        if not difference <= largest_difference(exact, "fp32"):  # nor may it be NaN
            return f"{name} moves a logit by {difference:.2g}"
        whole = GraphEngine(forward, PrecisionChoice("fp32", max(difference, record.difference), "", name))
        if in_bf16 is None or rough is None:
            return whole
        exact = forward(in_bf16)
        difference = float(np.abs(rough(in_bf16) - exact).max())
        if difference <= (math.inf if any_difference else largest_difference(exact, "bf16")):  # not NaN
            return GraphEngine(rough, PrecisionChoice("bf16", difference, "", name))
        whole.notes = (f"engine {name} moves a logit by {difference:.2g} in bf16: not used",)
        return whole

    def keep(self, graph: bytes, record: GraphRecord) -> None:
        """Replace the kept graph. Raises MaskensError: it can't be written, or is no graph that `read` takes."""
        try:
            _refuse_foreign(graph)
        except ValueError as error:
            raise MaskensError(f"{self.file} is not written: {error}") from error
        with replacing(self.file) as handle:
            handle.write(graph)
        write_record(self.checkpoint.with_name(GRAPH_RECORD), record)


def torch_is_faster(records: Sequence[GraphRecord], engines: Collection[str], machine: str, passes: float) -> bool:
    """Whether torch is faster than the engines that graphs were compared with, by the times in their records: its start
    included, for so many passes of one photo by each model. False where they were not all timed on this machine, or by
    an engine that is not among `engines`."""
    timed = all(r.machine == machine and r.engine in engines for r in records)
    return timed and sum(r.seconds - r.torch_seconds for r in records) * passes > STARTING


def _refuse_foreign(graph: bytes) -> None:
    if not graph.startswith(b"\x08") or ELSEWHERE in graph or len(graph) > LARGEST:  # ONNX begins with its version
        raise ValueError("it is not one ONNX file, or names others")
