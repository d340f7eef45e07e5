"""What a job has logged with its trackers, read back from their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edits import rows_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

BOTH = ("tensorboard", "wandb")


def history(folder: Path) -> list[dict[str, float]]:
    return [{k: float(v) for k, v in row.items()} for row in rows_of(folder / "history.csv")]


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def wandb_records(file: Path) -> Iterator[Record]:
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB, behind 7 bytes of W&B's own."""
    data, at, parts = file.read_bytes(), 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def wandb_history(folder: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows of the history, and the run records, of all that a job has logged with W&B, in order."""
    rows, runs = [], []
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in wandb_records(file):
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                rows.append(items | {"step": record.history.step.num})
            if record.HasField("run"):
                runs.append(record.run)
    return rows, runs
