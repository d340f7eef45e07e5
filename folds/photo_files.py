"""Photos anywhere, outside of a data folder."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from folds.errors import MaskensError, refuse
from folds.files import unescape_cell
from folds.layout import LIST
from folds.people import EvalData, PhotoSet, on_disk
from folds.photo_list import photos_to_predict, read_eval_list
from folds.photos import SUFFIXES, read_photo
from folds.run_folder import Run
from folds.table import read_table

ASPECT = 1.25  # how many times flatter or steeper than the models' photos before it counts as distorted


def find_photos(named: Sequence[Path]) -> tuple[PhotoSet, tuple[str, ...]]:
    """The photos named and those below the folders named, without hidden files, and a note on other files if any.

    The fingerprint is empty, as nothing of them is cached. Raises MaskensError: what does not exist, and folders
    without a photo, all listed.
    """
    found: dict[str, None] = {}
    others: Counter[str] = Counter()
    problems = []
    for path in named:
        files = _below(path) if path.is_dir() else [str(path)] if path.exists() else []
        photos = [f for f in files if not path.is_dir() or Path(f).suffix.lower() in SUFFIXES]
        found |= dict.fromkeys(photos)
        rest = Counter(Path(f).suffix.lower() or "without a suffix" for f in files if f not in found)
        others += rest
        if not path.exists():
            problems.append(f"{path} does not exist")
        elif not photos:
            problems.append(f"{path} holds no photo ({', '.join(SUFFIXES)}); other files: {_counted(rest) or 'none'}")
    not_text = [f for f in found if f.encode(errors="replace") != os.fsencode(f)]
    problems += [f"{f!a} has a name that is not UTF-8: rename it" for f in not_text]
    refuse(problems, "these can't be predicted")
    note = f"skipped in folders: {_counted(others)}. Photos end in {', '.join(SUFFIXES)}"
    return PhotoSet(Path(), tuple(found), ""), (note,) if others else ()


def read_to_predict(named: Path, skip_bad: bool = False) -> tuple[EvalData, tuple[str, ...]]:
    """The photos below a folder, or those of a CSV with a column `photo`, by their paths relative to it; and a note on
    other files in the folder if any. `skip_bad` skips photos whose files are missing or empty. Raises MaskensError: a
    folder without a photo, an unusable CSV, or rows without a photo (all listed).
    """
    if not named.is_dir():
        return read_eval_list(named, skip_bad), ()
    found, note = find_photos([named])
    names = [PurePath(file).relative_to(named).as_posix() for file in found.files]
    rows = [(str(n), name, Path(file)) for n, (name, file) in enumerate(zip(names, found.files, strict=True), start=1)]
    return photos_to_predict(named, "photo", rows, named, "", skip_bad), note


def _counted(others: Counter[str]) -> str:
    return ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(others.items(), key=lambda o: (-o[1], o[0])))


def training_aspect(run: Run) -> float | None:
    """Height / width of a photo that a run was trained on; None if its data are missing."""
    with contextlib.suppress(MaskensError, OSError, StopIteration):
        path = unescape_cell(read_table(run.folds_file, ("path",))[0]["path"])
        root, table = run.data_folder(), run.lists.photos
        photo = on_disk((table or root / LIST).parent, path)
        files = [str(photo)] if photo.is_file() else _below(on_disk(root, f"train/images/{path}"))
        height, width, _ = read_photo(Path(next(f for f in files if f.lower().endswith(SUFFIXES)))).shape
        return float(height / width)
    return None


def _below(folder: Path) -> list[str]:
    """Files in a folder and below it, sorted, without hidden ones and what macOS zips."""
    found: list[str] = []
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__MACOSX"]
        found += [str(Path(where) / name) for name in names if not name.startswith(".")]
    return sorted(found)


def is_distorted(height: int, width: int, aspect: float) -> bool:
    """Whether resizing a photo distorts it, as its shape differs from `aspect`, height / width of training photos."""
    return not 1 / ASPECT <= height / width / aspect <= ASPECT
