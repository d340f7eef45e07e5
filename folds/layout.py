"""Reading a data folder: who is in it and which file is which photo. Opens no photo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from folds.errors import MaskensError, counted, did_you_mean, did_you_mean_folder, refuse, typed
from folds.files import sha256_of_lines
from folds.labels import GENDERS, SHOT_MASK, SHOTS, IntArray
from folds.people import EXTENSIONS, OLDEST, EvalData, Person, TrainData, fingerprint_of, on_disk
from folds.table import LINE, composed, read_table, whole_number, with_zeros

if TYPE_CHECKING:
    from folds.corrections import Merge
    from folds.people import Fix


LINKED_OUT = "is a link that leads out of the folder of photos: copy what it leads to"


def read_train(root: Path, fixes: Sequence[Fix] = (), merges: Sequence[Merge] = ()) -> TrainData:
    """Read train/train.csv, list every person's photos, and put labels and people right.

    Args:
        fixes: of `folds.corrections.read_fixes`.
        merges: of `folds.corrections.read_merges`.

    Raises:
        MaskensError: no such folder, an unusable CSV, or any inconsistency between the rows and the
            photo folders; all of them are listed together, with row and file. Or fixes or merges that don't fit.
    """
    from folds.corrections import (
        apply_fixes,  # here, because it reads its lists with `read_table`
        apply_merges,
    )

    _need_folder(root, "train/train.csv")
    table = root / "train" / "train.csv"
    rows = read_table(table, ("id", "gender", "age", "path"))
    images = root / "train" / "images"
    if not images.is_dir():
        raise MaskensError(f"{images} does not exist: train.csv is there, its photo folders are not.")
    folders = os.listdir(images)
    problems: list[str] = []
    seen: dict[str, str] = {}
    people: list[Person] = []
    for row in rows:
        number = row[LINE]
        where = f"train.csv row {number}"
        person_id, path = row["id"], with_zeros(row["path"], folders)
        folder = str(PurePosixPath(path))  # a, a/ and ./a are one folder
        if folder in seen:
            problems.append(f"{where}: path '{path}' is already in row {seen[folder]}")
            continue
        seen[folder] = number
        gender, age, faults = _labels(row)
        if not person_id:
            faults.append("id is empty")
        outside = not path or _leaves(path)
        if outside:
            faults.append(f"path '{path}' is not a folder inside {images}")
        elif not _inside(on_disk(images, path), images):
            outside = True
            faults.append(f"{images / path} {LINKED_OUT}")
        problems += [f"{where}: {fault}" for fault in faults]
        if outside:
            continue
        photos, faults = _photos_of(on_disk(images, path), images)
        problems += [f"{where}: {fault}" for fault in faults]
        if not faults:
            names, sizes, changed = zip(*photos, strict=True)
            people.append(Person(path, person_id, gender, age, names, sizes, changed=changed))
    refuse(
        problems,
        f"{table} and its photos don't fit together ({counted(problems)})",
        "Mend them and run again.",
    )
    people.sort(key=lambda p: p.path)
    return apply_merges(apply_fixes(TrainData(root, tuple(people), fingerprint_of(people)), fixes), merges)


def read_eval(root: Path, skip_bad: bool = False) -> EvalData:
    """Read eval/info.csv and check that every photo it names is there, once.

    Args:
        skip_bad: skip photos whose files are missing or empty.

    Raises:
        MaskensError: no such folder, an unusable CSV, or rows without a photo (listed together).
    """
    _need_folder(root, "eval/info.csv")
    table = root / "eval" / "info.csv"
    rows = read_table(table, ("ImageID",), as_written=True)
    images = root / "eval" / "images"
    entries = [e for e in os.scandir(images) if e.is_file()] if images.is_dir() else None
    if entries is None:
        raise MaskensError(f"{images} does not exist: info.csv is there, its photos are not.")
    sizes = {composed(e.name): e.stat().st_size for e in entries}
    times = {composed(e.name): e.stat().st_mtime_ns for e in entries}
    out = {composed(e.name) for e in entries if e.is_symlink() and not _inside(Path(e.path), images)}
    problems: list[str] = []
    bad: dict[str, str] = {}
    seen: dict[str, str] = {}
    for row in rows:
        number = row[LINE]
        image, name = row["ImageID"], composed(row["ImageID"])
        if image in seen:
            problems.append(f"info.csv row {number}: ImageID '{image}' is already in row {seen[image]}")
        elif name not in sizes:
            near = did_you_mean(name, _same_stem(name, sizes))
            bad[image] = f"info.csv row {number}: no photo {images / image}{near}"
        elif name in out:
            problems.append(f"info.csv row {number}: {images / image} {LINKED_OUT}")
        elif sizes[name] == 0:
            bad[image] = f"info.csv row {number}: {images / image} is an empty file"
        seen.setdefault(image, number)
    advice = "Mend them and run again."
    if bad and not skip_bad:
        problems += bad.values()
        advice += " Or answer without files that are missing or empty: maskens infer --skip-bad-photos"
    refuse(problems, f"{table} and its photos don't fit together ({counted(problems)})", advice)
    skipped = {f"eval/images/{i}": "is an empty file" if composed(i) in sizes else "is missing" for i in bad}
    fingerprint = sha256_of_lines(f"{i}\t{sizes.get(composed(i), 'missing')}" for i in seen)
    return EvalData(root, tuple(seen), fingerprint, skipped, tuple(times.get(composed(i), 0) for i in seen))


def read_eval_people(data: EvalData, column: str) -> IntArray:
    """Who is on each photo to predict, by a column of eval/info.csv.

    Returns:
        int64 (photos,), in the order of `data.ids`, equal for photos of one person, 0..people-1.

    Raises:
        MaskensError: no such column, one that names no people, or rows where it is empty (listed together).
    """
    if column in ("ImageID", "ans"):
        raise MaskensError(f"the column '{column}' of info.csv does not say who is on a photo.")
    table = data.root / "eval" / "info.csv"
    rows = read_table(table, ("ImageID", column))
    refuse(
        [f"info.csv row {row[LINE]}: '{column}' of '{row['ImageID']}' is empty" for row in rows if not row[column]],
        f"{table} does not name the person on every photo",
        "Fill them in; a person of a single photo may have any name of its own.",
    )
    return np.unique([row[column] for row in rows], return_inverse=True)[1].astype(np.int64)


def place_of(data: Path, run: Path) -> str:
    """How a run folder remembers where its data are: relative to itself if they were named relative to the working
    folder, so that both can be copied together."""
    return str(data.resolve()) if data.is_absolute() else os.path.relpath(data, run.resolve())


def remembered_place(place: str, run: Path) -> Path:
    """Where the data of a run folder are, by `place_of`.

    Raises:
        MaskensError: nothing is there.
    """
    data = Path(place) if os.path.isabs(place) else Path(os.path.relpath(run.resolve() / place))
    if data.exists():
        return data
    raise MaskensError(
        f"{run} remembers its data in {data}, where nothing is. Name where they are now with --data DIR; "
        f"to have it remembered: maskens folds --run {typed(run)} --data DIR"
    )


def _need_folder(root: Path, table: str) -> None:
    if (root / table).is_file():
        return
    near = did_you_mean_folder(root, table)
    if near and root.exists():
        raise MaskensError(f"{root} is no data folder: it holds no {table}{near}.")
    if not root.is_dir():
        sample = "" if near else f", or make a generated one: maskens sample {typed(root)} --people 90"
        raise MaskensError(
            f"there is no data folder {root}{near}. Name yours with --data DIR (or MASKENS_DATA){sample}"
        )


def _labels(row: dict[str, str]) -> tuple[int, int, list[str]]:
    faults = []
    gender = row["gender"].lower()
    if gender not in GENDERS:
        faults.append(f"gender '{row['gender']}' is neither male nor female{did_you_mean(gender, GENDERS)}")
    age = whole_number(row["age"])
    if not 0 <= age <= OLDEST:
        faults.append(f"age '{row['age']}' is not a whole number of years between 0 and {OLDEST}")
    return GENDERS.index(gender) if gender in GENDERS else -1, age, faults


def _leaves(path: str) -> bool:
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or str(parts) == "." or ":" in path


def _inside(path: Path, images: Path) -> bool:
    """Whether no link below the folder of photos leads out of it. It may be a link itself: who made it chose that."""
    below = path.relative_to(images).parts
    linked = any(os.path.islink(images.joinpath(*below[: n + 1])) for n in range(len(below)))
    return not linked or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(images))


def _photos_of(folder: Path, images: Path) -> tuple[list[tuple[str, int, int]], list[str]]:
    """(name, bytes, time of change) of the seven photos in SHOTS order, or what is wrong with the folder."""
    try:
        entries = [e for e in os.scandir(folder) if not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return [], [f"no folder {folder}"]
    except OSError as error:
        return [], [f"can't read {folder}: {error.strerror}"]
    found: dict[str, tuple[str, int, int]] = {}
    faults = []
    for entry in sorted(entries, key=lambda e: e.name):
        stem, extension = os.path.splitext(entry.name)
        if extension.lower() not in EXTENSIONS:
            continue
        size, changed = (entry.stat().st_size, entry.stat().st_mtime_ns) if entry.is_file() else (-1, 0)
        if size >= 0 and entry.is_symlink() and not _inside(Path(entry.path), images):
            faults.append(f"{folder / entry.name} {LINKED_OUT}")
        if stem not in SHOT_MASK:
            faults.append(f"{folder / entry.name} is none of {', '.join(SHOTS)}{did_you_mean(stem, SHOTS)}")
        elif stem in found:
            faults.append(f"{folder} has both {found[stem][0]} and {entry.name}: which is '{stem}'?")
        elif size < 0:
            faults.append(f"{folder / entry.name} is not a file, or a link to none")
        elif size == 0:
            faults.append(f"{folder / entry.name} is an empty file")
        found.setdefault(
            stem, (sys.intern(entry.name), size, changed)
        )  # most people's photos have the same seven names
    missing = [s for s in SHOTS if s not in found]
    if missing:
        faults.append(f"{folder} lacks the photo {', '.join(missing)} (.jpg, .jpeg or .png)")
    return [found[s] for s in SHOTS if s in found], faults


def _same_stem(image: str, sizes: dict[str, int]) -> list[str]:
    stem = os.path.splitext(image)[0]
    return [name for name in sizes if os.path.splitext(name)[0] == stem]
