"""What a data folder holds, as frozen dataclasses: people, photos, label fixes, and photos that are skipped."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from folds.errors import MaskensError
from folds.files import safe_csv, sha256_of_lines, unescape_cell
from folds.labels import CLASSES, SHOT_MASK, SHOTS, IntArray, age_band, encode
from folds.table import read_table

OLDEST = 120
AS_NAMED = tuple(SHOT_MASK[s] for s in SHOTS)  # the masks of a person without fixes
SKIPPED_COLUMNS = ("photo", "reason")
SKIPPED_SHOWN = 3  # photos in a line of the terminal
SKIP_ADVICE = "Replace them, remove their rows from the CSV, or skip them with --skip-bad-photos; then run again."


def skipped_csv(skipped: Mapping[str, str]) -> str:
    """A row a photo, sorted: file -> why it can't be read. `read_skipped` reads it."""
    return safe_csv(SKIPPED_COLUMNS, sorted(skipped.items()))


def read_skipped(path: Path) -> dict[str, str]:
    """file -> why it can't be read. Raises MaskensError: no such file, or an unusable one."""
    return {unescape_cell(row["photo"]): row["reason"] for row in read_table(path, SKIPPED_COLUMNS)}


def skipped_hash(files: Iterable[str]) -> str:
    """sha256 of which photos are skipped, whatever the reasons; "" if none is."""
    names = sorted(files)
    return sha256_of_lines(names) if names else ""


def kept_skipped(file: Path, expected: str) -> dict[str, str]:
    """The photos that a run skips, as `file` lists them; `expected` is their `skipped_hash`. Raises MaskensError: the
    file is missing or was edited."""
    found = read_skipped(file) if file.exists() else {}
    if skipped_hash(found) == expected:
        return found
    raise MaskensError(
        f"{file} is missing or was edited. It lists the photos that the run's models skip. "
        "Put it back as it was, or start a new run: maskens folds --run NEW_DIR"
    )


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """The first few photos, each with why it can't be read, and how many more there are."""
    shown = [f"{file} ({why})" for file, why in sorted(skipped.items())[:SKIPPED_SHOWN]]
    if len(skipped) > SKIPPED_SHOWN:
        shown.append(f"and {len(skipped) - SKIPPED_SHOWN} more")
    return ", ".join(shown)


def count_skipped(skipped: Mapping[str, str], photos: int) -> str:
    """How many of a run's photos are skipped, for a note."""
    return f"{len(skipped):,} of {photos:,} labelled photos can't be read and are skipped"


@dataclass(frozen=True, slots=True)
class Person:
    """One row of train.csv: a folder of seven photos. Two rows with the same `group` are one person."""

    path: str
    id: str
    gender: int
    age: int  # years
    photos: tuple[str, ...]  # file names in the order of SHOTS
    bytes: tuple[int, ...]  # their sizes
    masks: tuple[int, ...] = AS_NAMED  # their mask labels
    changed: tuple[int, ...] = dataclasses.field(default=(), compare=False)  # when they were, as of `PhotoSet`
    merged_into: str = ""  # the id that the person goes by, if that is another: two ids turned out to be one person

    @property
    def group(self) -> str:
        """Equal for all rows of a person, merged ids too: the unit of folds, draws and intervals."""
        return self.merged_into or self.id


@dataclass(frozen=True, slots=True)
class Fix:
    """One row of a list of fixes, as text. Where it came from is no part of its identity."""

    path: str  # the person's folder as in train.csv; until it is applied, it may hold a *
    photo: str  # file stem if the field is mask, else ""
    field: str  # gender, age or mask
    old: str
    new: str
    reason: str = ""
    source: str = dataclasses.field(default="", compare=False)  # a shipped name, or a file
    where: str = dataclasses.field(default="", compare=False)  # source and row


@dataclass(frozen=True)
class PhotoSet:
    """Photo files in a fixed order."""

    root: Path
    files: Sequence[str]  # paths below `root`
    fingerprint: str  # of their names and sizes, the same for every copy
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)  # file -> why it can't be read: never opened
    changed: Sequence[int] = ()  # when each was last changed, ns since 1970; empty if unknown

    @functools.cached_property
    def version(self) -> str:
        """sha256 of names, sizes and times: the key of cached pixels."""
        return sha256_of_lines([self.fingerprint, *map(str, self.changed)])

    def path(self, file: str) -> Path:
        return on_disk(self.root, file)

    @functools.cached_property
    def readable(self) -> npt.NDArray[np.bool_]:
        """bool (photos,): False for those that are skipped."""
        return np.array([file not in self.skipped for file in self.files], dtype=np.bool_)

    def some(self, rows: Sequence[int] | IntArray) -> PhotoSet:
        """Those at `rows`, with a fingerprint of their own."""
        files = [self.files[i] for i in rows]
        skipped = {file: self.skipped[file] for file in files if file in self.skipped}
        changed = [self.changed[i] for i in rows] if self.changed else ()
        return PhotoSet(self.root, files, sha256_of_lines([self.fingerprint, *files]), skipped, changed)

    def without(self, unreadable: Mapping[str, str]) -> PhotoSet:
        """The same photos, of which these are skipped too: file -> why. Raises MaskensError: none is left."""
        skipped = {**self.skipped, **unreadable}
        if self.files and len(skipped) == len(self.files):
            file, why = min(skipped.items())
            raise MaskensError(f"none of the {len(skipped)} photos in {self.root} can be read, e.g. {file}: {why}")
        return dataclasses.replace(self, skipped=skipped)


@dataclass(frozen=True)
class TrainData:
    """The labelled people of a data folder, sorted by `path` whatever the order of the rows."""

    root: Path
    people: tuple[Person, ...]
    fixes: tuple[Fix, ...] = ()  # that the labels follow; whole paths, sorted
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)  # as of `PhotoSet`

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of labels, file names and file sizes."""
        return sha256_of_lines(
            f"{p.path}\t{p.id}\t{p.gender}\t{p.age}\t"
            + "\t".join(f"{n}:{b}" for n, b in zip(p.photos, p.bytes, strict=True))
            + (f"\tmasks {p.masks}" if p.masks != AS_NAMED else "")
            + (f"\tmerged {p.merged_into}" if p.merged_into else "")
            for p in self.people
        )

    @functools.cached_property
    def photos(self) -> PhotoSet:
        """Its fingerprint is of file names and sizes alone: the same photos under other labels keep it."""
        sizes = (size for p in self.people for size in p.bytes)
        lines = (f"{file}\t{size}" for file, size in zip(self.files, sizes, strict=True))
        changed = [time for p in self.people for time in p.changed]
        return PhotoSet(self.root, self.files, sha256_of_lines(lines), self.skipped, changed)

    @property
    def files(self) -> list[str]:
        """Path of each photo below `root`, person by person in the order of SHOTS."""
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

    ids: tuple[str, ...]
    photos: PhotoSet

    @property
    def skipped_ids(self) -> dict[str, str]:
        """ImageID -> why the photo can't be read, in the order of info.csv."""
        skipped = self.photos.skipped
        return {i: skipped[f] for i, f in zip(self.ids, self.photos.files, strict=True) if f in skipped}


def on_disk(root: Path, file: str) -> Path:
    """Where a file of a CSV lies below `root`: its name may have Unicode's other form there."""
    forms = (file, unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file))
    return next((root / form for form in forms if file.isascii() or (root / form).exists()), root / file)


def class_counts(data: TrainData) -> list[int]:
    """Photos of each of the 18 classes."""
    counts: list[int] = np.bincount(data.classes, minlength=CLASSES).tolist()
    return counts


def label_conflicts(data: TrainData) -> list[str]:
    """People whose rows disagree on gender: usually a label error, never a reason to split them."""
    genders: dict[str, set[int]] = {}
    for person in data.people:
        genders.setdefault(person.group, set()).add(person.gender)
    return [f"id {i} is male in one row and female in another" for i, g in genders.items() if len(g) > 1]


def repeated_ids(people: Sequence[Person]) -> list[str]:
    """Ids that occur on more than one folder (one person each, kept in one fold)."""
    return [i for i, n in Counter(p.id for p in people).items() if n > 1]
