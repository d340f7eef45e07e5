"""Files of a folder: what they hold, and changes that no command of maskens makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from folds.records import sealed


def contents(folder: Path) -> dict[str, bytes]:
    """Path in the folder -> bytes, of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit_record(file: Path, **changes: object) -> None:
    """Change keys of a record; its checksum fits afterwards."""
    file.write_text(json.dumps(sealed(json.loads(file.read_text()) | changes)))


def edit_arrays(file: Path, **changes: Any) -> None:
    """Change arrays of an .npz file; a change is the array, or a function of the earlier one."""
    with np.load(file) as kept:
        arrays = dict(kept)
    for name, change in changes.items():
        arrays[name] = change(arrays[name]) if callable(change) else change
    np.savez(file, **arrays)
