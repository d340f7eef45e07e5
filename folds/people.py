"""What a data folder holds, as frozen dataclasses: people, photos, label fixes, and photos that are skipped."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from folds.errors import MaskensError, did_you_mean, typed
from folds.files import safe_csv, sha256_of_lines, unescape_cell
from folds.labels import (
    AGES,
    CLASSES,
    FIELDS,
    OLDEST,
    SHOT_MASK,
    SHOTS,
    UNKNOWN,
    IntArray,
    age_band,
    encode,
    parse_label,
)
from folds.table import read_table

ALONE = ("",)
LIST_COLUMNS = ("photo", "person", "mask", "gender", "age")
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
    """One row of train.csv: a folder of seven photos. Or one row of a list of photos: a photo. Rows with the same
    `group` are one person. A label that is not known is UNKNOWN."""

    path: str
    id: str
    gender: int
    age: int  # years, or by `labels.of_band` where only the band is known
    photos: tuple[str, ...]  # file names in the order of SHOTS; ALONE for a photo that is a row
    bytes: tuple[int, ...]  # their sizes
    masks: tuple[int, ...] = AS_NAMED  # their mask labels
    changed: tuple[int, ...] = dataclasses.field(default=(), compare=False)  # when each was last changed, ns since 1970
    merged_into: str = ""  # the id of the group, if this id was merged into another
    extra: bool = False  # trained on, never scored

    @property
    def group(self) -> str:
        """Equal for all rows of a person, merged ids too: the unit of folds, draws and intervals."""
        return self.merged_into or self.id

    @property
    def shots(self) -> tuple[str, ...]:
        """What lists of labels call each photo of the row."""
        return ALONE if self.photos == ALONE else SHOTS


@dataclass(frozen=True, slots=True)
class Fix:
    """One row of a list of fixes, as text. Where it came from is no part of its identity."""

    path: str  # the person's folder as in train.csv, or the photo in a list; until it is applied, it may hold a *
    photo: str  # file stem if the field is mask, else ""; of a list always ""
    field: str  # gender, age or mask
    old: str
    new: str
    reason: str = ""
    source: str = dataclasses.field(default="", compare=False)  # a shipped name, or a file
    where: str = dataclasses.field(default="", compare=False)  # source and row


@dataclass(frozen=True)
class Lists:
    """The list of photos that describes training data, and how lists are read."""

    photos: Path | None = None  # None: the data folder has its own table
    extra: tuple[Path, ...] = ()  # lists of extra photos, trained on and never scored
    columns: tuple[str, ...] = ()  # as typed: "person=subject_id,age=years"
    labels: tuple[str, ...] = ()  # "gender:M=male,F=female"

    @property
    def as_options(self) -> str:
        """The options of `maskens folds` that name these lists."""
        photos = [self.photos] if self.photos else []
        options = {"photos": photos, "extra": self.extra, "columns": self.columns, "labels": self.labels}
        return "".join(f" --{name} {typed(value)}" for name, values in options.items() for value in values)

    @property
    def column_names(self) -> dict[str, str]:
        """Our name of a column -> the lists' name. Raises MaskensError: not NAME=VALUE, or no such column."""
        found = dict(_pairs("--columns", text) for words in self.columns for text in words.split(","))
        if wrong := [name for name in found if name not in LIST_COLUMNS]:
            raise MaskensError(
                f"--columns {wrong[0]}={found[wrong[0]]}: a list has no column '{wrong[0]}'"
                f"{did_you_mean(wrong[0], LIST_COLUMNS)}; it has {', '.join(LIST_COLUMNS)}."
            )
        return found

    @property
    def words(self) -> dict[str, dict[str, int]]:
        """Field -> the lists' word -> its label. Raises MaskensError: malformed, or no such field or label."""
        found: dict[str, dict[str, int]] = {field: {} for field in FIELDS}
        for given in self.labels:
            field, _, rest = given.partition(":")
            if field not in FIELDS or not rest:
                near = did_you_mean(field, FIELDS)
                raise MaskensError(f"--labels {given}: write FIELD:WORD=LABEL, with {', '.join(FIELDS)}{near}.")
            for text in rest.split(","):
                word, label = _pairs("--labels", text)
                if (value := parse_label(field, label)) is None:
                    raise MaskensError(f"--labels {given}: {no_label(field, label)}")
                found[field][word] = value
        return found


NO_LISTS = Lists()


def _pairs(option: str, text: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise MaskensError(f"{option} {text}: '{text}' is not NAME=VALUE.")
    return name, value


def no_label(field: str, text: str, words: Iterable[str] = ()) -> str:
    """An error message for text that is no label of a field; `words` are a list's own."""
    if field == "age":
        return f"age '{text}' is neither years from 1 to {OLDEST} nor one of {', '.join(AGES)}"
    known = (*FIELDS[field], *words)
    return f"{field} '{text}' is none of {', '.join(known)}{did_you_mean(text.lower(), known)}"


FaceCrop = Literal["face", "eyes"]  # of a photo: around the largest face; turned, scaled and shifted by its eyes


@dataclass(frozen=True)
class PhotoSet:
    """Photo files in a fixed order."""

    root: Path
    files: Sequence[str]  # paths below `root`
    fingerprint: str  # of their names and sizes, the same for every copy
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)  # file -> why it can't be read: never opened
    changed: Sequence[int] = ()  # when each was last changed, ns since 1970; empty if unknown
    places: Mapping[str, Path] = dataclasses.field(default_factory=dict)  # "extra1" -> below what "extra1:a.jpg" lies

    @functools.cached_property
    def version(self) -> str:
        """sha256 of names, sizes and times: the key of cached pixels."""
        return sha256_of_lines([self.fingerprint, *map(str, self.changed)])

    def path(self, file: str) -> Path:
        place, colon, rest = file.partition(":")
        return on_disk(self.places[place], rest) if colon and place in self.places else on_disk(self.root, file)

    @functools.cached_property
    def readable(self) -> npt.NDArray[np.bool_]:
        """bool (photos,): False for those that are skipped."""
        return np.array([file not in self.skipped for file in self.files], dtype=np.bool_)

    def some(self, rows: Sequence[int] | IntArray) -> PhotoSet:
        """Those at `rows`, with a fingerprint of their own."""
        files = [self.files[i] for i in rows]
        skipped = {file: self.skipped[file] for file in files if file in self.skipped}
        changed = [self.changed[i] for i in rows] if self.changed else ()
        print = sha256_of_lines([self.fingerprint, *files])
        return dataclasses.replace(self, files=files, fingerprint=print, skipped=skipped, changed=changed)

    def without(self, unreadable: Mapping[str, str]) -> PhotoSet:
        """The same photos, of which these are skipped too: file -> why. Raises MaskensError: none is left."""
        skipped = {**self.skipped, **unreadable}
        if self.files and len(skipped) == len(self.files):
            file, why = min(skipped.items())
            raise MaskensError(f"none of the {len(skipped)} photos in {self.root} can be read, e.g. {file}: {why}")
        return dataclasses.replace(self, skipped=skipped)


@dataclass(frozen=True)
class TrainData:
    """The labelled people of a data folder or a list of photos, sorted by `path`; after them those of extra photos."""

    root: Path
    people: tuple[Person, ...]
    fixes: tuple[Fix, ...] = ()  # that the labels follow; whole paths, sorted
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)  # file -> why it can't be read: never opened
    table: Path | None = None  # the list of photos; None: train/train.csv below `root`
    lists: Lists = NO_LISTS  # how it was read

    @property
    def source(self) -> Path:
        """The list of photos or the data folder."""
        return self.table or self.root

    @property
    def table_name(self) -> str:
        return self.table.name if self.table else "train.csv"

    @functools.cached_property
    def own(self) -> tuple[Person, ...]:
        """The people without those of extra photos."""
        return tuple(p for p in self.people if not p.extra)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of labels, file names and file sizes, without extra photos."""
        return _fingerprint(self.own)

    @property
    def extra_hash(self) -> str:
        """`fingerprint` of the extra photos; "" without any."""
        return _fingerprint([p for p in self.people if p.extra]) if len(self.own) < len(self.people) else ""

    @functools.cached_property
    def photos(self) -> PhotoSet:
        """Its fingerprint is of file names and sizes alone: the same photos under other labels keep it."""
        changed = [time for p in self.people for time in p.changed]
        root = self.table.parent if self.table else self.root
        places = {f"extra{n}": table.parent for n, table in enumerate(self.lists.extra, start=1)}
        return PhotoSet(root, self.files, self._photos_fingerprint(self.people), self.skipped, changed, places)

    @property
    def own_photos_fingerprint(self) -> str:
        """As that of `photos`, without extra photos."""
        return self._photos_fingerprint(self.own)

    def _photos_fingerprint(self, people: Sequence[Person]) -> str:
        sizes = (size for p in people for size in p.bytes)
        return sha256_of_lines(f"{file}\t{size}" for file, size in zip(self.files, sizes, strict=False))

    @functools.cached_property
    def scored(self) -> npt.NDArray[np.bool_]:
        """bool (photos,): False for extra photos."""
        return np.array([not p.extra for p in self.people], dtype=np.bool_)[self.photo_person]

    @functools.cached_property
    def files(self) -> list[str]:
        """Path of each photo below the root of `photos`, row by row."""
        return [f"train/images/{p.path}/{name}" if name else p.path for p in self.people for name in p.photos]

    @functools.cached_property
    def photo_person(self) -> IntArray:
        """int64 (photos,): index into `people` of each photo."""
        return np.repeat(np.arange(len(self.people)), [len(p.photos) for p in self.people])

    @property
    def portraits(self) -> IntArray:
        """int64 (people,): index of a photo of each row, without a mask if it has several."""
        first = np.searchsorted(self.photo_person, np.arange(len(self.people)))
        return np.asarray(first + [p.shots.index("normal") if p.shots == SHOTS else 0 for p in self.people])

    @property
    def labels(self) -> tuple[IntArray, IntArray, IntArray]:
        """(mask, gender, age band) of each photo, each int64 (photos,); UNKNOWN where it is not known."""
        masks = np.array([mask for p in self.people for mask in p.masks], dtype=np.int64)
        genders = np.array([p.gender for p in self.people], dtype=np.int64)[self.photo_person]
        return masks, genders, age_band(self.years)

    @property
    def years(self) -> IntArray:
        """int64 (photos,): age of the person on each photo, coded like `Person.age`."""
        return np.array([p.age for p in self.people], dtype=np.int64)[self.photo_person]

    @functools.cached_property
    def classes(self) -> IntArray:
        """int64 (photos,), 0..17; UNKNOWN for a photo that lacks a label."""
        labels = np.stack(self.labels)
        whole = (labels != UNKNOWN).all(axis=0)
        found = np.full(len(whole), UNKNOWN, dtype=np.int64)
        found[whole] = encode(*labels[:, whole])
        return found


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


def _fingerprint(people: Iterable[Person]) -> str:
    return sha256_of_lines(
        f"{p.path}\t{p.id}\t{p.gender}\t{p.age}\t"
        + "\t".join(f"{n}:{b}" for n, b in zip(p.photos, p.bytes, strict=True))
        + (f"\tmasks {p.masks}" if p.masks != AS_NAMED else "")
        + (f"\tmerged {p.merged_into}" if p.merged_into else "")
        for p in people
    )


def class_counts(data: TrainData) -> list[int]:
    """Photos of each of the 18 classes, without extra photos."""
    classes = data.classes[data.scored & (data.classes != UNKNOWN)]
    counts: list[int] = np.bincount(classes, minlength=CLASSES).tolist()
    return counts


def label_conflicts(data: TrainData) -> list[str]:
    """People whose rows disagree on gender: usually a label error, never a reason to split them."""
    genders: dict[str, set[int]] = {}
    for person in data.people:
        genders.setdefault(person.group, set()).update({person.gender} - {UNKNOWN})
    return [f"id {i} is male in one row and female in another" for i, g in genders.items() if len(g) > 1]


def repeated_ids(people: Sequence[Person]) -> list[str]:
    """Ids that occur on more than one folder (one person each, kept in one fold)."""
    return [i for i, n in Counter(p.id for p in people if p.shots == SHOTS).items() if n > 1]
