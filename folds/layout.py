"""Reading a data folder: who is in it and which file is which photo. Opens no photo."""

from __future__ import annotations

import csv
import functools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from folds.errors import MaskensError, did_you_mean, refuse
from folds.files import sha256_of_lines
from folds.labels import CLASSES, GENDERS, SHOT_MASK, SHOTS, IntArray, age_band, encode

if TYPE_CHECKING:
    from folds.fixes import Fix

EXTENSIONS = (".jpg", ".jpeg", ".png")
OLDEST = 120
LINE = ""  # the key under which `read_table` gives the line of a row
AS_NAMED = tuple(SHOT_MASK[s] for s in SHOTS)  # the masks of a person without fixes


@dataclass(frozen=True, slots=True)
class Person:
    """One row of train.csv: a folder of seven photos. Two rows with the same `id` are one person."""

    path: str
    id: str
    gender: int
    age: int  # years
    photos: tuple[str, ...]  # file names in the order of SHOTS
    bytes: tuple[int, ...]  # their sizes
    masks: tuple[int, ...] = AS_NAMED  # their mask labels


@dataclass(frozen=True)
class TrainData:
    """The labelled people of a data folder, sorted by `path` whatever the order of the rows."""

    root: Path
    people: tuple[Person, ...]
    fingerprint: str  # of labels, file names and file sizes
    fixes: tuple[Fix, ...] = ()  # that the labels follow; whole paths, sorted

    @functools.cached_property
    def photos_fingerprint(self) -> str:
        """Of file names and sizes alone: the same photos under other labels keep it."""
        return sha256_of_lines(
            f"train/images/{p.path}/{name}\t{size}"
            for p in self.people
            for name, size in zip(p.photos, p.bytes, strict=True)
        )

    @property
    def files(self) -> list[str]:
        """Path of each photo below `root`, person by person in the order of SHOTS; length 7 * people."""
        return [f"train/images/{p.path}/{name}" for p in self.people for name in p.photos]

    @property
    def photo_person(self) -> IntArray:
        """int64 (photos,): index into `people` of each photo."""
        return np.repeat(np.arange(len(self.people)), len(SHOTS))

    @property
    def labels(self) -> tuple[IntArray, IntArray, IntArray]:
        """(mask, gender, age band) of each photo, each int64 (photos,)."""
        masks = np.array([p.masks for p in self.people], dtype=np.int64).reshape(-1)
        genders = np.repeat(np.array([p.gender for p in self.people], dtype=np.int64), len(SHOTS))
        return masks, genders, age_band(self.years)

    @property
    def years(self) -> IntArray:
        """int64 (photos,): age in years of the person on each photo."""
        return np.repeat(np.array([p.age for p in self.people], dtype=np.int64), len(SHOTS))

    @property
    def classes(self) -> IntArray:
        """int64 (photos,), 0..17."""
        return encode(*self.labels)


@dataclass(frozen=True)
class EvalData:
    """The photos to predict, in the order of info.csv."""

    root: Path
    ids: tuple[str, ...]
    fingerprint: str

    @property
    def files(self) -> list[str]:
        """Path of each photo below `root`."""
        return [f"eval/images/{i}" for i in self.ids]


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV as strings, stripped; extra columns and a byte-order mark do no harm.

    Raises:
        MaskensError: no such file, not UTF-8, empty, or a needed column missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, skipinitialspace=True)
            columns = [c.strip() for c in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [{c: (row[c] or "").strip() for c in columns} | {LINE: str(reader.line_num)} for row in reader]
    except (FileNotFoundError, NotADirectoryError):
        raise MaskensError(f"{path} does not exist.") from None
    except OSError as error:
        raise MaskensError(f"can't read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MaskensError(f"{path} is not a CSV in UTF-8: {error}") from error
    if not columns:
        raise MaskensError(f"{path} is empty: it needs a header with the columns {', '.join(needed)}.")
    missing = [f"'{c}'{did_you_mean(c, columns)}" for c in needed if c not in columns]
    if missing:
        raise MaskensError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(columns)}.")
    if not rows:
        raise MaskensError(f"{path} has a header but no rows.")
    return rows


def read_train(root: Path, fixes: Sequence[Fix] = ()) -> TrainData:
    """Read train/train.csv, list every person's photos, and put the labels right.

    Args:
        fixes: of `folds.fixes.read_fixes`.

    Raises:
        MaskensError: no such folder, an unusable CSV, or any inconsistency between the rows and the
            photo folders; all of them are listed together, with row and file. Or fixes that don't fit.
    """
    from folds.fixes import apply_fixes  # here, because it reads its lists with `read_table`

    _need_folder(root)
    table = root / "train" / "train.csv"
    rows = read_table(table, ("id", "gender", "age", "path"))
    images = root / "train" / "images"
    if not images.is_dir():
        raise MaskensError(f"{images} does not exist: train.csv is there, its photo folders are not.")
    problems: list[str] = []
    seen: dict[str, str] = {}
    people: list[Person] = []
    for row in rows:
        number = row[LINE]
        where = f"train.csv row {number}"
        person_id, path = row["id"], row["path"]
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
        problems += [f"{where}: {fault}" for fault in faults]
        if outside:
            continue
        photos, faults = _photos_of(images / path)
        problems += [f"{where}: {fault}" for fault in faults]
        if not faults:
            names, sizes = zip(*photos, strict=True)
            people.append(Person(path, person_id, gender, age, names, sizes))
    refuse(
        problems,
        f"{table} and its photos don't fit together ({len(problems)} problems)",
        "Mend them and run again.",
    )
    people.sort(key=lambda p: p.path)
    return apply_fixes(TrainData(root, tuple(people), fingerprint_of(people)), fixes)


def read_eval(root: Path) -> EvalData:
    """Read eval/info.csv and check that every photo it names is there, once.

    Raises:
        MaskensError: no such folder, an unusable CSV, or rows without a photo (listed together).
    """
    _need_folder(root)
    table = root / "eval" / "info.csv"
    rows = read_table(table, ("ImageID",))
    images = root / "eval" / "images"
    sizes = {e.name: e.stat().st_size for e in os.scandir(images) if e.is_file()} if images.is_dir() else None
    if sizes is None:
        raise MaskensError(f"{images} does not exist: info.csv is there, its photos are not.")
    problems: list[str] = []
    seen: dict[str, str] = {}
    for row in rows:
        number = row[LINE]
        image = row["ImageID"]
        if image in seen:
            problems.append(f"info.csv row {number}: ImageID '{image}' is already in row {seen[image]}")
        elif image not in sizes:
            problems.append(
                f"info.csv row {number}: no photo {images / image}{did_you_mean(image, _same_stem(image, sizes))}"
            )
        elif sizes[image] == 0:
            problems.append(f"info.csv row {number}: {images / image} is an empty file")
        seen.setdefault(image, number)
    refuse(
        problems,
        f"{table} and its photos don't fit together ({len(problems)} problems)",
        "Mend them and run again.",
    )
    return EvalData(root, tuple(seen), sha256_of_lines(f"{i}\t{sizes[i]}" for i in seen))


def class_counts(data: TrainData) -> list[int]:
    """Photos of each of the 18 classes."""
    return [int(n) for n in np.bincount(data.classes, minlength=CLASSES)]


def label_conflicts(data: TrainData) -> list[str]:
    """People whose rows disagree on gender: usually a label error, never a reason to split them."""
    genders: dict[str, set[int]] = {}
    for person in data.people:
        genders.setdefault(person.id, set()).add(person.gender)
    return [f"id {i} is male in one row and female in another" for i, g in genders.items() if len(g) > 1]


def _need_folder(root: Path) -> None:
    if not root.is_dir():
        raise MaskensError(
            f"there is no data folder {root}. Name yours with --data DIR (or MASKENS_DATA), "
            f"or make a generated one: maskens sample {root} --people 90"
        )


def _labels(row: dict[str, str]) -> tuple[int, int, list[str]]:
    faults = []
    gender = row["gender"].lower()
    if gender not in GENDERS:
        faults.append(f"gender '{row['gender']}' is neither male nor female{did_you_mean(gender, GENDERS)}")
    age = int(row["age"]) if row["age"].isdecimal() and len(row["age"]) <= 3 else -1
    if not 0 <= age <= OLDEST:
        faults.append(f"age '{row['age']}' is not a whole number of years between 0 and {OLDEST}")
    return GENDERS.index(gender) if gender in GENDERS else -1, age, faults


def _leaves(path: str) -> bool:
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or str(parts) == "." or ":" in path


def _photos_of(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """(name, bytes) of the seven photos in SHOTS order, or what is wrong with the folder."""
    try:
        entries = [e for e in os.scandir(folder) if not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return [], [f"no folder {folder}"]
    except OSError as error:
        return [], [f"can't read {folder}: {error.strerror}"]
    found: dict[str, tuple[str, int]] = {}
    faults = []
    for entry in sorted(entries, key=lambda e: e.name):
        stem, extension = os.path.splitext(entry.name)
        if extension.lower() not in EXTENSIONS:
            continue
        size = entry.stat().st_size if entry.is_file() else -1
        if stem not in SHOT_MASK:
            faults.append(f"{folder / entry.name} is none of {', '.join(SHOTS)}{did_you_mean(stem, SHOTS)}")
        elif stem in found:
            faults.append(f"{folder} has both {found[stem][0]} and {entry.name}: which is '{stem}'?")
        elif size < 0:
            faults.append(f"{folder / entry.name} is not a file, or a link to none")
        elif size == 0:
            faults.append(f"{folder / entry.name} is an empty file")
        found.setdefault(stem, (sys.intern(entry.name), size))  # most people's photos have the same seven names
    missing = [s for s in SHOTS if s not in found]
    if missing:
        faults.append(f"{folder} lacks the photo {', '.join(missing)} (.jpg, .jpeg or .png)")
    return [found[s] for s in SHOTS if s in found], faults


def _same_stem(image: str, sizes: dict[str, int]) -> list[str]:
    stem = os.path.splitext(image)[0]
    return [name for name in sizes if os.path.splitext(name)[0] == stem]


def fingerprint_of(people: Sequence[Person]) -> str:
    """Of labels, file names and file sizes, in the order of `people`."""
    lines = (
        f"{p.path}\t{p.id}\t{p.gender}\t{p.age}\t"
        + "\t".join(f"{n}:{b}" for n, b in zip(p.photos, p.bytes, strict=True))
        + (f"\tmasks {p.masks}" if p.masks != AS_NAMED else "")  # only then: earlier runs have no masks in theirs
        for p in people
    )
    return sha256_of_lines(lines)


def repeated_ids(people: Sequence[Person]) -> list[str]:
    """Ids that occur on more than one folder (one person each, kept in one fold)."""
    return [i for i, n in Counter(p.id for p in people).items() if n > 1]
