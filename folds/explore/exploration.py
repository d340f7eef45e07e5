"""Statistics of labels and photos before any training, and what looks wrong with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np

from folds.errors import MaskensError
from folds.explore.duplicates import Hash, MergeCandidate, merge_candidates, perceptual_hash
from folds.labels import CLASSES, UNKNOWN, FloatArray, age_band, label_text
from folds.pages.contact_sheet import photo_caption, thumbnail, thumbnails
from folds.people import TrainData
from folds.photos import Pixels, Progress, in_threads, photo_format, read_photo
from folds.table import find_name, read_table

STAND_OUT = 7  # photos at each end of a measure: a row of the page
PEOPLE_SHOWN = 24  # of those whose labels disagree
FOLDER_NAME = re.compile(r"(?P<id>.+)_(?P<gender>male|female)_(?P<race>.+)_(?P<age>\d+)", re.IGNORECASE)

Conflict = tuple[str, tuple[int, ...]]
"""Labels that disagree, in words, and the people concerned (indices into `TrainData.people`)."""


@dataclass(frozen=True)
class PhotoFacts:
    """Size, format, colours and hash of a readable photo."""

    size: str  # "width x height" in pixels, EXIF rotation applied
    kind: str  # ".jpg, JPEG, RGB": extension, actual format, colour mode
    hash: Hash  # `perceptual_hash`
    mean: FloatArray  # (3,): of red, green, blue, 0..255
    spread: FloatArray  # (3,): their standard deviation
    brightness: float  # mean of the grey photo, 0..255
    contrast: float  # its standard deviation


@dataclass(frozen=True)
class Exploration:
    """Everything that the page shows."""

    data: TrainData
    seed: int
    photos: dict[int, PhotoFacts]  # of those that can be read
    unreadable: list[str]  # a message a photo
    extremes: dict[str, list[tuple[int, float]]]  # "darkest", ...: photo and value, at most one a person
    drawn: tuple[tuple[int, ...], ...]  # of each class, the photos on its contact sheet
    candidates: tuple[MergeCandidate, ...]  # people with nearly the same photo
    conflicts: list[Conflict]
    thumbs: dict[int, Pixels]  # photo -> small picture, of those to be shown that can be read

    @property
    def colour(self) -> tuple[FloatArray, FloatArray]:
        """(mean, standard deviation) of red, green, blue over photos of equal weight, each float64 (3,), 0..255."""
        if not self.photos:
            return np.zeros(3), np.zeros(3)
        mean, spread = (np.array([getattr(f, name) for f in self.photos.values()]) for name in ("mean", "spread"))
        whole = mean.mean(axis=0)
        return whole, np.sqrt(np.maximum((spread**2 + mean**2).mean(axis=0) - whole**2, 0))


def explore(
    data: TrainData, per_class: int, seed: int, workers: int, on_progress: Progress | None = None
) -> Exploration:
    """Decode every photo once in `workers` threads, and those to show that stand out once more. A class's contact sheet
    shows at most `per_class` photos."""
    drawn = draw_photos(data, per_class, seed)
    keep = {i for photos in drawn for i in photos}

    def look(i: int) -> tuple[PhotoFacts, Pixels | None] | str:
        path = data.photos.path(data.files[i])
        try:
            photo = read_photo(path)
            kind = ", ".join((path.suffix.lower(), *photo_format(path)))
        except MaskensError as error:
            return str(error)
        mean, spread = (np.asarray(m, dtype=np.float64).ravel() for m in cv2.meanStdDev(photo))
        (brightness,), (contrast,) = (m.ravel() for m in cv2.meanStdDev(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)))
        size, bits = "{1} x {0}".format(*photo.shape), perceptual_hash(photo)
        facts = PhotoFacts(size, kind, bits, mean, spread, float(brightness), float(contrast))
        return facts, thumbnail(photo) if i in keep else None

    facts, thumbs, unreadable = dict[int, PhotoFacts](), dict[int, Pixels](), list[str]()
    for i, result in enumerate(in_threads(look, range(len(data.files)), workers, on_progress)):
        if isinstance(result, str):
            unreadable.append(result)
            continue
        facts[i], thumb = result
        if thumb is not None:
            thumbs[i] = thumb
    candidates, conflicts = merge_candidates(data, {i: f.hash for i, f in facts.items()}), find_conflicts(data)
    brightness = {i: f.brightness for i, f in facts.items()}
    outliers = {
        "darkest": extremes(data, brightness),
        "brightest": extremes(data, brightness, highest=True),
        "least contrast": extremes(data, {i: f.contrast for i, f in facts.items()}),
    }
    odd = {i for photos in outliers.values() for i, _ in photos} | {
        int(data.portraits[p]) for p in people_of(conflicts)
    }
    more = sorted(odd - thumbs.keys())
    pictures = thumbnails([data.photos.path(data.files[i]) for i in more], workers)
    thumbs |= {i: picture for i, picture in zip(more, pictures, strict=True) if picture is not None}
    return Exploration(data, seed, facts, unreadable, outliers, drawn, candidates, conflicts, thumbs)


def extremes(data: TrainData, values: Mapping[int, float], highest: bool = False) -> list[tuple[int, float]]:
    """(photo, value) of the lowest or highest values, at most one photo a person."""
    found: dict[str, tuple[int, float]] = {}
    for photo, value in sorted(values.items(), key=lambda item: item[1], reverse=highest):
        found.setdefault(data.people[data.photo_person[photo]].group, (photo, value))
    return list(found.values())[:STAND_OUT]


def people_of(conflicts: Iterable[Conflict]) -> list[int]:
    """The first people with conflicts, each once."""
    return list(dict.fromkeys(p for _, people in conflicts for p in people))[:PEOPLE_SHOWN]


def draw_photos(data: TrainData, per_class: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Up to `per_class` photos of each class: as many people as there are before anyone is shown twice."""
    drawn = []
    for number in range(CLASSES):
        photos = np.random.default_rng([seed, number]).permutation(np.flatnonzero(data.classes == number))
        seen: Counter[str] = Counter()
        turns = []
        for person in data.photo_person[photos]:
            turns.append(seen[data.people[person].group])
            seen[data.people[person].group] += 1
        order = np.argsort(turns, kind="stable")[:per_class]
        drawn.append(tuple(int(i) for i in photos[order]))
    return tuple(drawn)


def examples(found: Exploration) -> list[int]:
    """A few readable photos of different people, mask states and genders."""
    data = found.data
    masks, genders, _ = data.labels
    order = np.random.default_rng([found.seed, CLASSES]).permutation(np.array(list(found.photos), dtype=np.int64))
    chosen: dict[str, int] = {}
    for mask, gender in ((0, 0), (1, 1), (2, 0), (0, 1)):
        for i in order[(masks[order] == mask) & (genders[order] == gender)]:
            person = data.people[data.photo_person[i]].group
            if person not in chosen:
                chosen[person] = int(i)
                break
    return list(chosen.values())


def photos_of(data: TrainData, chosen: Iterable[int]) -> list[tuple[str, Pixels]]:
    """(caption, uint8 (h, w, 3) RGB) of each photo. Raises MaskensError: one can't be read."""
    return [(photo_caption(data.files[i]), read_photo(data.photos.path(data.files[i]))) for i in chosen]


def find_conflicts(data: TrainData) -> list[Conflict]:
    """People whose labels disagree between the rows of one id, or with a folder name <id>_<gender>_<race>_<age> if none
    of their labels is fixed. Photos of a list may show a person at several ages."""
    rows: dict[str, list[int]] = {}
    for i, person in enumerate(data.people):
        rows.setdefault(person.id, []).append(i)
    found: list[Conflict] = []
    for name, indices in rows.items():
        if len({data.people[i].gender for i in indices} - {UNKNOWN}) > 1:
            found.append((f"id {name} is male in one row and female in another", tuple(indices)))
        ages = sorted({data.people[i].age for i in indices})
        if len(ages) > 1 and not data.table:
            bands = len(set(age_band(ages).tolist()))
            far = f", in {bands} age bands" if bands > 1 else ""
            found.append((f"id {name} is {' and '.join(map(str, ages))} years old{far}", tuple(indices)))
    if data.table:
        return found
    races = {row["path"]: row.get("race", "").lower() for row in read_table(data.root / "train/train.csv", ("path",))}
    fixed = {fix.path for fix in data.fixes}
    for i, person in enumerate(data.people):
        name_parts = FOLDER_NAME.fullmatch(PurePosixPath(person.path).name)
        if not name_parts or person.path in fixed:
            continue
        of_name = {k: v.lower() for k, v in name_parts.groupdict().items()}
        of_name |= {"id": name_parts["id"], "age": str(int(name_parts["age"]))}
        of_row = {
            "id": find_name(person.id, [name_parts["id"]]),
            "gender": label_text("gender", person.gender),
            "race": races.get(person.path) or of_name["race"],
            "age": str(person.age),
        }
        if differ := [f"{key} {of_row[key]}" for key, value in of_name.items() if value != of_row[key]]:
            found.append((f"folder {person.path}: train.csv has {', '.join(differ)}", (i,)))
    return found
