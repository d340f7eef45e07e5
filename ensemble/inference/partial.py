"""What an interrupted inference leaves, from which the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.inference.output_files import read_outputs, save_outputs
from ensemble.jobs.oof import Logits
from ensemble.models.precision import PrecisionChoice
from folds.errors import MaskensError
from folds.files import json_text, sha256

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
