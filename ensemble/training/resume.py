"""The state of a job between two epochs, or within one, from which it can go on."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ensemble.jobs.oof import Logits
from folds.errors import MaskensError, typed
from folds.replacing import replacing

Identity = dict[str, Any]
"""What must be equal for two halves of a job to belong together: hashes, seed, `task` and `fold`."""


def save_last(
    folder: Path,
    identity: Identity,
    trained: dict[str, Any],
    history: list[dict[str, float]],
    unfinished: dict[str, Any] | None = None,
    logits: Sequence[Logits] = (),
) -> None:
    """Replace last.pt by the state after a whole epoch, or within one, atomically.

    Args:
        trained: state of the trainer; tensors and plain types only, as it must load with `weights_only`.
        history: of the epochs that are finished.
        unfinished: what else there is of an epoch that is not; None between two epochs.
        logits: out-of-fold, of each finished epoch.
    """
    state: dict[str, Any] = {
        "identity": identity,
        "trained": trained,
        "history": history,
        "unfinished": unfinished,
        "logits": [torch.from_numpy(its) for its in logits],
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(folder / "last.pt") as handle:
        handle.write(buffer.getbuffer())


def load_last(folder: Path, identity: Identity) -> dict[str, Any] | None:
    """The state to continue from, or None where there is none.

    Raises:
        MaskensError: damaged, or of another recipe, seed or folds, or other pseudo-labels or soft targets.
    """
    path = folder / "last.pt"
    job = f"--task {identity['task']} --fold {identity['fold']}"
    advice = f"start this job over: maskens train --run {typed(folder.parent.parent)} {job} --restart"
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, and does not look at them
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(damaged)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = state["identity"]
    except Exception as error:
        raise MaskensError(f"{path} is damaged ({type(error).__name__}); {advice}") from error
    if before != identity:
        others = "another recipe, seed or folds, or other pseudo-labels or soft targets"
        raise MaskensError(f"{path} comes from {others}; {advice}")
    return state
