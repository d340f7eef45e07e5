"""Reading a data folder: who is in it and which file is which photo. Opens no photo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from folds.corrections import Merge, apply_fixes, apply_merges
from folds.errors import MaskensError, did_you_mean, did_you_mean_folder, refuse, typed
from folds.labels import GENDERS, OLDEST, SHOTS
from folds.people import NO_LISTS, EvalData, Fix, Lists, Person, TrainData, on_disk
from folds.photo_list import LINKED_OUT, inside, leads_out, photos_to_predict, read_labelled_lists
from folds.table import LINE, composed, find_name, read_table, whole_number

TABLE, LIST = "train/train.csv", "train/photos.csv"
EVAL = "eval"  # the part of a data folder with the photos to predict
EXTENSIONS = (".jpg", ".jpeg", ".png")


def read_train(
    root: Path, fixes: Sequence[Fix] = (), merges: Sequence[Merge] = (), lists: Lists = NO_LISTS
) -> TrainData:
    """Read the labelled photos and apply corrections: those of the list that `lists` names, else of train/train.csv or
    train/photos.csv; and those of the extra lists.

    Raises MaskensError: no such folder, an unusable CSV, rows and photos that don't fit together (all listed, with row
    and file), or fixes or merges that don't fit.
    """
    table = lists.photos
    if table is None and (root / LIST).is_file():
        table = root / LIST
        if (root / TABLE).exists():
            raise MaskensError(f"{root} has {TABLE} and {LIST}: move one away, or name a list with --photos.")
    people = (() if table else _people_of_folders(root)) + read_labelled_lists(table, lists)
    return apply_merges(apply_fixes(TrainData(root, people, table=table, lists=lists), fixes), merges)


def _people_of_folders(root: Path) -> tuple[Person, ...]:
    """The people of train/train.csv, sorted by path. Raises MaskensError: no such folder, an unusable CSV, or rows and
    photos that don't fit together (all listed)."""
    table, images = _table_and_images(root, TABLE)
    rows = read_table(table, ("id", "gender", "age", "path"))
    real_images = os.path.realpath(images)
    folders = {composed(name) for name in os.listdir(images)}
    problems: list[str] = []
    seen: dict[str, str] = {}
    people: list[Person] = []
    for row in rows:
        faults = []
        path, gender, age = find_name(row["path"], folders), row["gender"].lower(), whole_number(row["age"])
        folder = str(PurePosixPath(path))  # a, a/ and ./a are one folder
        if folder in seen:
            problems.append(f"train.csv row {row[LINE]}: path '{path}' is already in row {seen[folder]}")
            continue
        seen[folder] = row[LINE]
        if gender not in GENDERS:
            faults.append(f"gender '{row['gender']}' is neither male nor female{did_you_mean(gender, GENDERS)}")
        if not 0 <= age <= OLDEST:
            faults.append(f"age '{row['age']}' is not a whole number of years between 0 and {OLDEST}")
        if not row["id"]:
            faults.append("id is empty")
        photos = list[tuple[str, int, int]]()
        if not inside(path):
            faults.append(f"path '{path}' is not a folder inside {images}")
        elif leads_out(on_disk(images, path), real_images):
            faults.append(f"{images / path} {LINKED_OUT}")
        else:
            photos, photo_faults = _photos_of(on_disk(images, path), real_images)
            faults += photo_faults
        problems += [f"train.csv row {row[LINE]}: {fault}" for fault in faults]
        if not faults:
            names, sizes, changed = zip(*photos, strict=True)
            people.append(Person(path, composed(row["id"]), GENDERS.index(gender), age, names, sizes, changed=changed))
    refuse(problems, f"{table} and its photos don't fit together", "Correct them and run again.")
    return tuple(sorted(people, key=lambda p: p.path))


def find_eval(root: Path, skip_bad: bool = False) -> EvalData | None:
    """The photos to predict, by `read_eval`; None for a data folder without any."""
    return read_eval(root, skip_bad) if (root / EVAL).exists() else None


def read_eval(root: Path, skip_bad: bool = False) -> EvalData:
    """Read eval/info.csv; `skip_bad` skips photos whose files are missing or empty.

    Raises MaskensError: no such folder, an unusable CSV, or rows without a photo (all listed).
    """
    table, images = _table_and_images(root, "eval/info.csv")
    listed = read_table(table, ("ImageID",))
    found = {composed(entry.name): Path(entry.path) for entry in os.scandir(images) if entry.is_file()}
    rows = [(row[LINE], row["ImageID"], found.get(composed(row["ImageID"]))) for row in listed]
    return photos_to_predict(table, "ImageID", rows, root, "eval/images", skip_bad)


def _table_and_images(root: Path, table: str) -> tuple[Path, Path]:
    """The table of a data folder, and the folder of photos beside it."""
    near = "" if (root / table).is_file() else did_you_mean_folder(root, table)
    if root.exists() and not (root / table).exists():
        or_list = "" if near or table != TABLE else f" or {LIST}. Name another list with --photos"
        raise MaskensError(f"{root} is not a data folder: it has no {table}{near}{or_list}.")
    if not root.is_dir():
        sample = "" if near else f", or make a generated one: maskens sample {typed(root)} --people 90"
        raise MaskensError(
            f"there is no data folder {root}{near}. Name yours with --data DIR (or MASKENS_DATA){sample}"
        )
    images = (root / table).with_name("images")
    if (root / table).is_file() and not images.is_dir():
        raise MaskensError(f"{images} does not exist: {images.parent.name} has its table, but no photos.")
    return root / table, images


def _photos_of(folder: Path, real_images: str) -> tuple[list[tuple[str, int, int]], list[str]]:
    """(name, bytes, time of change) of the seven photos in SHOTS order, and what is wrong with the folder."""
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return [], [f"no folder {folder}"]
    except OSError as error:
        return [], [f"can't read {folder}: {error.strerror}"]
    found: dict[str, tuple[str, int, int]] = {}
    faults = []
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        if entry.name.startswith(".") or extension.lower() not in EXTENSIONS:
            continue
        photo = folder / entry.name
        size, changed = (entry.stat().st_size, entry.stat().st_mtime_ns) if entry.is_file() else (-1, 0)
        if size >= 0 and entry.is_symlink() and leads_out(photo, real_images):
            faults.append(f"{photo} {LINKED_OUT}")
        if stem not in SHOTS:
            faults.append(f"{photo} is none of {', '.join(SHOTS)}{did_you_mean(stem, SHOTS)}")
        elif stem in found:
            faults.append(f"{folder} has both {found[stem][0]} and {entry.name}: which is '{stem}'?")
        elif size <= 0:
            faults.append(f"{photo} is {'not a file, or a link to none' if size else 'an empty file'}")
        name = sys.intern(entry.name)  # most people's photos have the same seven names
        found.setdefault(stem, (name, size, changed))
    if missing := [s for s in SHOTS if s not in found]:
        faults.append(f"{folder} lacks the photo {', '.join(missing)} (.jpg, .jpeg or .png)")
    return [found[s] for s in SHOTS if s in found], faults
