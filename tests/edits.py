"""What files hold, and changes of files and of the environment that no command of maskens makes."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folds.records import sealed


def contents(folder: Path) -> dict[str, bytes]:
    """Path in the folder -> bytes, of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows_of(file: Path | str) -> list[dict[str, str]]:
    """The rows of a CSV by their columns."""
    with Path(file).open() as table:
        return list(csv.DictReader(table))


def hide_package(patch: pytest.MonkeyPatch, package: str) -> None:
    """As if the package were not installed."""
    find = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


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
