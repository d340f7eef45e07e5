"""What an interrupted inference leaves, from which the same command goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.models.precision import PrecisionChoice
from folds.errors import MaskensError
from folds.files import json_text, save_npz, sha256

EVERY = 20.0  # seconds between two states


@dataclass(frozen=True)
class State:
    """The first `done` photos."""

    done: int
    outputs: list[npt.NDArray[np.float32]]  # of each model, (views, done, width)
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
        if self.path is None or not self.path.exists():
            return None
        try:
            with self.path.open("rb") as file, np.load(file) as z:
                record = json.loads(str(z["record"]))
                if record["identity"] != self.identity:
                    return None
                outputs = [z[f"model{n}"] for n in range(record["models"])]
                return State(record["done"], outputs, tuple(PrecisionChoice(**c) for c in record["chosen"]))
        except Exception:  # half a file helps nobody: it is done anew and replaced
            return None

    def save(
        self,
        done: int,
        outputs: Sequence[npt.NDArray[np.float32]],
        chosen: Sequence[PrecisionChoice],
        now: bool = False,
    ) -> None:
        """Keep the first `done` photos, if it is time. Where that fails, as on a full disk, the work itself goes on."""
        if self.path is None or self.note or done == 0 or not (now or time.monotonic() - self._saved > EVERY):
            return
        record = {"identity": self.identity, "done": done, "models": len(outputs)}
        record |= {"chosen": [asdict(c) for c in chosen]}
        arrays: dict[str, Any] = {f"model{n}": values[:, :done] for n, values in enumerate(outputs)}
        try:
            save_npz(self.path, arrays | {"record": json.dumps(record)})
        except MaskensError as error:
            self.note = f"progress could not be saved, so an interruption would have lost it: {error}"
        self._saved = time.monotonic()

    def forget(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
