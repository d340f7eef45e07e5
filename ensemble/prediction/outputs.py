"""Settings of an inference, and the files that keep what models have predicted so far."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.anytime import Budget
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.models.engine import AS_TRAINED, EngineOptions
from ensemble.models.precision import PrecisionChoice
from ensemble.recipes.views import Tta, TtaSet
from folds.errors import MaskensError
from folds.files import json_text, save_npz, sha256
from folds.labels import IntArray


@dataclass(frozen=True)
class Outputs:
    """What models predicted of photos, and what there is to tell of how."""

    rows: IntArray  # (n,), which photos
    logits: list[Logits]  # of each model, float32 (views, n, width), NaN where a photo was not shown
    chosen: tuple[PrecisionChoice, ...]  # of each model
    compile_seconds: float = 0.0
    notes: tuple[str, ...] = ()  # what could not be made faster
    without_face: int = 0  # photos, of those predicted now
    resumed: int = 0  # photos that were done before
    warning: str = ""
    budget: str = ""  # what came of it


def save_outputs(path: Path, identity: str, outputs: Outputs) -> None:
    """Replace the file that keeps outputs.

    Args:
        identity: hash of all that the logits depend on.

    Raises:
        MaskensError: it can't be written.
    """
    record = {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    arrays = {f"model{n}": values for n, values in enumerate(record.pop("logits"))} | {"rows": record.pop("rows")}
    record["chosen"] = [asdict(c) for c in outputs.chosen]
    save_npz(path, arrays | {"known": json.dumps({"identity": identity, "record": record})})


def read_outputs(path: Path | None, identity: str) -> Outputs | None:
    """What `save_outputs` wrote; None if there is none, or none of this identity."""
    if path is None or not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as z:
            known = json.loads(str(z["known"]))
            if known["identity"] != identity:
                return None
            record = known["record"] | {"notes": tuple(known["record"]["notes"])}
            record["chosen"] = tuple(PrecisionChoice(**c) for c in record["chosen"])
            logits = [z[f"model{n}"] for n in range(len(record["chosen"]))]
            return Outputs(rows=z["rows"], logits=logits, **record)
    except Exception:  # half a file helps nobody: the photos are predicted anew
        return None


EVERY = 20.0  # seconds between two states


class InferenceCheckpoint:
    """The file of one inference, replaced now and then, gone at its end.

    Args:
        identity: all that the logits depend on; a file of another inference is not gone on from.
    """

    def __init__(self, path: Path | None, identity: Any) -> None:
        self.path, self.identity = path, sha256(json_text(identity))
        self.note = ""  # why nothing is kept
        self._saved = time.monotonic()

    def load(self) -> Outputs | None:
        """Of the first photos, what there is to go on from; None if nothing, or nothing that fits."""
        return read_outputs(self.path, self.identity)

    def save(self, outputs: Callable[[], Outputs], now: bool = False) -> None:
        """Keep those of the first photos, if it is time. Where that fails, as on a full disk, the work itself goes
        on."""
        if self.path is None or self.note or not (now or time.monotonic() - self._saved > EVERY):
            return
        try:
            save_outputs(self.path, self.identity, outputs())
        except MaskensError as error:
            self.note = f"progress could not be saved, so an interruption would have lost it: {error}"
        self._saved = time.monotonic()

    def forget(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class InferenceSettings:
    """All that an inference does the same for every photo."""

    tta: Tta | TtaSet  # the name of a shipped set of views, or a set
    hardware: Hardware
    cache: Path | None = None  # folder of decoded photos; None decodes at each access
    engine: EngineOptions = AS_TRAINED
    early_exit: DecisionParams | None = (
        None  # what the joint decision rests on: the age models of a gender are evaluated only
    )
    # where they can change it; None evaluates all models on all photos
    budget: Budget | None = None  # photos leave the ensemble once their class is unlikely to change; it needs
    # `early_exit`, for what the decision rests on; None makes all passes that could change one
    partial: Path | None = None  # a file that keeps what was done; interrupted, the same call goes on from it
    shards: Path | None = None  # folder, with several processes: what each has done; where it is interrupted, likewise
    retries: int = 0  # how often a shard whose process or node is lost is done anew
