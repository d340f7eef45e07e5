"""Reading a data folder: who is in it and which file is which photo. Opens no photo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from folds.corrections import Merge, apply_fixes, apply_merges
from folds.errors import MaskensError, did_you_mean, did_you_mean_folder, refuse, typed
from folds.files import sha256_of_lines, unescape_cell
from folds.labels import GENDERS, SHOTS
from folds.people import OLDEST, EvalData, Fix, Person, PhotoSet, TrainData, on_disk
from folds.table import LINE, composed, find_name, read_table, whole_number

EVAL = "eval"  # the part of a data folder with the photos to predict
EXTENSIONS = (".jpg", ".jpeg", ".png")
LINKED_OUT = "is a link that leads out of the folder of photos: copy what it leads to"


def read_train(root: Path, fixes: Sequence[Fix] = (), merges: Sequence[Merge] = ()) -> TrainData:
    """Read train/train.csv, list every person's photos, and apply corrections.

    Raises MaskensError: no such folder, an unusable CSV, rows and photos that don't fit together (all listed, with row
    and file), or fixes or merges that don't fit.
    """
    table, images = _table_and_images(root, "train/train.csv")
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
        parts = PurePosixPath(path.replace("\\", "/"))
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
        if parts.is_absolute() or ".." in parts.parts or str(parts) == "." or ":" in path:
            faults.append(f"path '{path}' is not a folder inside {images}")
        elif _leads_out(on_disk(images, path), real_images):
            faults.append(f"{images / path} {LINKED_OUT}")
        else:
            photos, photo_faults = _photos_of(on_disk(images, path), real_images)
            faults += photo_faults
        problems += [f"train.csv row {row[LINE]}: {fault}" for fault in faults]
        if not faults:
            names, sizes, changed = zip(*photos, strict=True)
            people.append(Person(path, composed(row["id"]), GENDERS.index(gender), age, names, sizes, changed=changed))
    refuse(problems, f"{table} and its photos don't fit together", "Correct them and run again.")
    people.sort(key=lambda p: p.path)
    return apply_merges(apply_fixes(TrainData(root, tuple(people)), fixes), merges)


def find_eval(root: Path, skip_bad: bool = False) -> EvalData | None:
    """As `read_eval`; None of a data folder without photos to predict."""
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


def read_eval_list(table: Path, skip_bad: bool = False) -> EvalData:
    """Read a list of photos to predict: a CSV whose column `photo` has paths relative to the CSV's folder.

    `skip_bad` as of `read_eval`. Raises MaskensError: an unusable CSV, or rows without a photo (all listed).
    """
    root = table.parent
    rows = [
        (row[LINE], photo, on_disk(root, photo) if inside(photo) else None)
        for row in read_table(table, ("photo",))
        for photo in [str(PurePosixPath(unescape_cell(row["photo"])))]  # ./a is a
    ]
    return photos_to_predict(table, "photo", rows, root, "", skip_bad)


def inside(path: str) -> bool:
    """Whether a path of a CSV stays below the folder that it is relative to, and names something there."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return not (parts.is_absolute() or ".." in parts.parts or str(parts) == "." or ":" in path)


def photos_to_predict(
    table: Path,
    column: str,
    rows: Sequence[tuple[str, str, Path | None]],
    root: Path,
    folder: str,
    skip_bad: bool = False,
) -> EvalData:
    """The photos of a table, checked.

    Args:
        rows: of each photo its row in the table, its name in `column`, and its file, None if there is none.
        root: whole names are relative to it.
        folder: below `root`; names are relative to it.
        skip_bad: skips photos whose files are missing or empty.

    Raises:
        MaskensError: photos that are missing, empty, named twice, or links that lead out of the folder (all listed).
    """
    images = root / folder
    real_images = os.path.realpath(images)
    problems: list[str] = []
    bad: dict[str, str] = {}
    seen: dict[str, str] = {}
    stats: list[os.stat_result | None] = []
    for number, image, file in rows:
        fault = ""
        if image in seen:
            problems.append(f"{table.name} row {number}: {column} '{image}' is already in row {seen[image]}")
            continue
        seen[image] = number
        stats.append(file.stat() if file is not None and file.is_file() else None)
        if not folder and not inside(image):
            problems.append(f"{table.name} row {number}: {column} '{image}' is not a file inside {images}")
        elif file is None or stats[-1] is None:
            fault = bad[image] = "is missing"
        elif (os.path.islink(file) or "/" in image) and _leads_out(file, real_images):
            fault = LINKED_OUT
        elif stats[-1].st_size == 0:
            fault = bad[image] = "is an empty file"
        if fault and not (skip_bad and image in bad):
            problems.append(f"{table.name} row {number}: {images / image} {fault}")
    skip = " Or skip files that are missing or empty: maskens infer --skip-bad-photos" if bad else ""
    refuse(problems, f"{table} and its photos don't fit together", f"Correct them and run again.{skip}")
    fingerprint = sha256_of_lines(f"{i}\t{s.st_size if s else 'missing'}" for i, s in zip(seen, stats, strict=True))
    files = [f"{folder}/{i}" if folder else i for i in seen]
    skipped = {f"{folder}/{i}" if folder else i: fault for i, fault in bad.items()}
    changed = [s.st_mtime_ns if s else 0 for s in stats]
    return EvalData(tuple(seen), PhotoSet(root, files, fingerprint, skipped, changed))


def _table_and_images(root: Path, table: str) -> tuple[Path, Path]:
    """The table of a data folder, and the folder of photos beside it."""
    near = "" if (root / table).is_file() else did_you_mean_folder(root, table)
    if near and root.exists():
        raise MaskensError(f"{root} is no data folder: it holds no {table}{near}.")
    if not root.is_dir():
        sample = "" if near else f", or make a generated one: maskens sample {typed(root)} --people 90"
        raise MaskensError(
            f"there is no data folder {root}{near}. Name yours with --data DIR (or MASKENS_DATA){sample}"
        )
    images = (root / table).with_name("images")
    if (root / table).is_file() and not images.is_dir():
        raise MaskensError(f"{images} does not exist: {images.parent.name} has its table, but no photos.")
    return root / table, images


def _leads_out(path: Path, real_images: str) -> bool:
    """Whether a link below the folder of photos leads out of it. The folder may be a link itself."""
    return not os.path.realpath(path).startswith(real_images + os.sep)


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
        if size >= 0 and entry.is_symlink() and _leads_out(photo, real_images):
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
