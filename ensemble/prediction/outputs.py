"""Settings of an inference, and the files that keep what models have predicted so far."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.anytime import Budget
from ensemble.decision.tuning import Fitted
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.models.engine import AS_TRAINED, EngineOptions
from ensemble.models.precision import PrecisionChoice
from ensemble.recipes.views import Tta, TtaSet
from folds.errors import MaskensError
from folds.files import json_text, save_npz, sha256


@dataclass(frozen=True)
class SavedOutputs:
    """What such a file holds."""

    outputs: list[Logits]  # of each model, float32 (views, n, width)
    chosen: tuple[PrecisionChoice, ...]  # of each model
    record: dict[str, Any]  # what else was saved


def save_outputs(
    path: Path, identity: str, outputs: Sequence[Logits], chosen: Sequence[PrecisionChoice], **record: Any
) -> None:
    """Replace the file.

    Args:
        identity: hash of all that the logits depend on.
        record: what JSON can hold.

    Raises:
        MaskensError: it can't be written.
    """
    known = {"identity": identity, "models": len(outputs), "chosen": [asdict(c) for c in chosen], "record": record}
    arrays: dict[str, Any] = {f"model{n}": values for n, values in enumerate(outputs)}
    save_npz(path, arrays | {"known": json.dumps(known)})


def read_outputs(path: Path | None, identity: str) -> SavedOutputs | None:
    """What the file holds; None if there is none, or none of this identity."""
    if path is None or not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as z:
            known = json.loads(str(z["known"]))
            if known["identity"] != identity:
                return None
            outputs = [z[f"model{n}"] for n in range(known["models"])]
            return SavedOutputs(outputs, tuple(PrecisionChoice(**c) for c in known["chosen"]), known["record"])
    except Exception:  # half a file helps nobody: the photos are predicted anew
        return None


EVERY = 20.0  # seconds between two states


@dataclass(frozen=True)
class State:
    """The first `done` photos."""

    done: int
    outputs: list[Logits]  # of each model, (views, done, width)
    chosen: tuple[PrecisionChoice, ...]


class InferenceCheckpoint:
    """The file of one inference, replaced now and then, gone at its end.

    Args:
        identity: all that the logits depend on; a file of another inference is not gone on from.
    """

    def __init__(self, path: Path | None, identity: Any) -> None:
        self.path, self.identity = path, sha256(json_text(identity))
        self.note = ""  # why nothing is kept
        self._saved = time.monotonic()

    def load(self) -> State | None:
        """What there is to go on from; None if nothing, or nothing that fits."""
        found = read_outputs(self.path, self.identity)
        return State(found.record["done"], found.outputs, found.chosen) if found else None

    def save(
        self,
        done: int,
        outputs: Sequence[Logits],
        chosen: Sequence[PrecisionChoice],
        now: bool = False,
    ) -> None:
        """Keep the first `done` photos, if it is time. Where that fails, as on a full disk, the work itself goes on."""
        if self.path is None or self.note or done == 0 or not (now or time.monotonic() - self._saved > EVERY):
            return
        try:
            save_outputs(self.path, self.identity, [values[:, :done] for values in outputs], chosen, done=done)
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
    early_exit: Fitted | None = None  # what the joint decision rests on: the age models of a gender are evaluated only
    # where they can change it; None evaluates all models on all photos
    budget: Budget | None = None  # photos leave the ensemble once their class is unlikely to change; it needs
    # `early_exit`, for what the decision rests on; None makes all passes that could change one
    partial: Path | None = None  # a file that keeps what was done; interrupted, the same call goes on from it
    shards: Path | None = None  # folder, with several processes: what each has done; where it is interrupted, likewise
    retries: int = 0  # how often a shard whose process or node is lost is done anew
