"""Photos anywhere, outside of a data folder."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from folds.errors import MaskensError, refuse
from folds.files import unescape_cell
from folds.people import PhotoSet, on_disk
from folds.photos import SUFFIXES, read_photo
from folds.run_folder import Run
from folds.table import read_table

ASPECT = 1.25  # how many times flatter or steeper than the models' photos before it is worth a word


def find_photos(named: Sequence[Path]) -> tuple[PhotoSet, tuple[str, ...]]:
    """The photos named, and those in the folders named and below them, each once, without hidden files.

    Their files are as the user would name them; the fingerprint is empty, as nothing of them is cached.

    Returns:
        (the photos, a note on the other files in the folders if there are any).

    Raises:
        MaskensError: what does not exist, and folders without a photo, all listed.
    """
    found: dict[str, None] = {}
    others: Counter[str] = Counter()
    problems = []
    for path in named:
        if path.is_dir():
            inside, rest = _below(path)
            if not inside:
                holds = f"; it holds {_counted(rest)}" if rest else ""
                problems.append(f"{path} holds no photo ({', '.join(SUFFIXES)}){holds}")
            found |= dict.fromkeys(sorted(inside))
            others += rest
        elif path.exists():
            found[str(path)] = None
        else:
            problems.append(f"{path} does not exist")
    problems += [f"{f!a} has a name that is not UTF-8: rename it" for f in found if not _is_text(f)]
    refuse(problems, "these can't be predicted")
    note = f"skipped in folders: {_counted(others)}. Photos end in {', '.join(SUFFIXES)}"
    return PhotoSet(Path(), tuple(found), ""), (note,) if others else ()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def training_aspect(run: Run) -> float | None:
    """Height / width of a photo that a run was trained on; None if its data are not at hand."""
    with contextlib.suppress(MaskensError, OSError, IndexError):
        row = read_table(run.folds_file, ("path",))[0]
        files, _ = _below(on_disk(run.data_folder(), f"train/images/{unescape_cell(row['path'])}"))
        height, width, _ = read_photo(Path(sorted(files)[0])).shape
        return float(height / width)
    return None


def _below(folder: Path) -> tuple[list[str], Counter[str]]:
    """(photos in a folder and below it, how many other files by suffix), without hidden ones and what macOS zips."""
    found: list[str] = []
    others: Counter[str] = Counter()
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__MACOSX"]
        for name in (n for n in names if not n.startswith(".")):
            suffix = Path(name).suffix.lower()
            if suffix in SUFFIXES:
                found.append(str(Path(where) / name))
            else:
                others[suffix or "without a suffix"] += 1
    return found, others


def _counted(others: Counter[str]) -> str:
    return ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(others.items(), key=lambda o: (-o[1], o[0])))


def is_distorted(height: int, width: int, aspect: float) -> bool:
    """Whether a photo's shape is so different that bringing it to the models' size distorts it.

    Args:
        height, width: of the photo, in pixels.
        aspect: height / width of the photos that the models were trained on.
    """
    return not 1 / ASPECT <= height / width / aspect <= ASPECT
