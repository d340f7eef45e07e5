"""Files of what models have said of photos so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.jobs.oof import Logits
from ensemble.models.precision import PrecisionChoice
from folds.files import save_npz


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
