"""Looking at the data before any training: what the labels and photos are, and what looks wrong with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt

from folds.errors import MaskensError
from folds.explore.duplicates import near_duplicates, perceptual_hash
from folds.explore.merge_candidates import MergeCandidate, merge_candidates
from folds.labels import CLASSES, GENDERS, SHOTS, FloatArray, age_band
from folds.pages.contact_sheet import thumbnail, thumbnails
from folds.people import TrainData, repeated_ids
from folds.photos import Pixels, Progress, in_threads, photo_format, read_photo
from folds.table import find_name, read_table

PAIRS = 24  # people with nearly the same photo that are shown; all are counted
STAND_OUT = 7  # photos at each end of a measure: a row of the page
PEOPLE_SHOWN = 24  # of those whose labels disagree
FOLDER_NAME = re.compile(r"(?P<id>.+)_(?P<gender>male|female)_(?P<race>.+)_(?P<age>\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """Something odd about labels, in words, and the rows that it is about (indices into `people`)."""

    words: str
    people: tuple[int, ...]


@dataclass(frozen=True)
class Measures:
    """What one pass over the photos found, a row a photo in the order of `TrainData.files`; 0 if unreadable."""

    readable: npt.NDArray[np.bool_]  # (photos,)
    sizes: npt.NDArray[np.int64]  # (photos, 2): height, width in pixels, EXIF rotation applied
    mean: FloatArray  # (photos, 3): of red, green, blue, 0..255
    spread: FloatArray  # (photos, 3): standard deviation within the photo
    brightness: FloatArray  # (photos,): mean of the grey photo, 0..255
    contrast: FloatArray  # (photos,): its standard deviation
    hashes: npt.NDArray[np.uint64]  # (photos,)
    kinds: tuple[str, ...]  # ".jpg, JPEG, RGB": end of the name, real format, colour mode; "" if unreadable
    unreadable: tuple[str, ...]  # one message a file

    @property
    def colour(self) -> tuple[FloatArray, FloatArray]:
        """(mean, spread) of red, green, blue over the whole set, each float64 (3,), 0..255.

        Every photo counts the same, whatever its size, as it will after resizing; 0 if none is readable.
        """
        if not self.readable.any():
            return np.zeros(3), np.zeros(3)
        mean, spread = self.mean[self.readable], self.spread[self.readable]
        whole = mean.mean(axis=0)
        square = (spread**2 + mean**2).mean(axis=0)
        return whole, np.sqrt(np.maximum(square - whole**2, 0))


@dataclass(frozen=True)
class Exploration:
    """Everything that the page shows."""

    data: TrainData
    seed: int
    measures: Measures
    extremes: dict[str, list[tuple[int, float]]]  # "darkest", ...: photo and value, at most one a person
    drawn: tuple[tuple[int, ...], ...]  # of each class, the photos on its contact sheet
    candidates: tuple[MergeCandidate, ...]  # people with nearly the same photo
    findings: tuple[Finding, ...]
    repeated: tuple[str, ...]  # ids on several folders
    thumbs: dict[int, Pixels]  # photo -> small picture, of those to be shown that can be read

    @property
    def class_people(self) -> list[int]:
        """People of each of the 18 classes."""
        ids = np.array([p.group for p in self.data.people])[self.data.photo_person]
        return [len(set(ids[self.data.classes == c])) for c in range(CLASSES)]


def explore(
    data: TrainData, per_class: int, seed: int, workers: int, on_progress: Progress | None = None
) -> Exploration:
    """Decode every photo once in `workers` threads; the few that turn out to be odd once more, to show them.

    Args:
        per_class: most photos on the contact sheet of a class.
        on_progress: called with (photos done, photos in all).
    """
    drawn = draw_photos(data, per_class, seed)
    measures, thumbs = measure(data, workers, {i for photos in drawn for i in photos}, on_progress)
    ids = np.array([p.group for p in data.people])[data.photo_person]
    kept = np.flatnonzero(measures.readable)
    pairs = near_duplicates(measures.hashes[kept], ids[kept])
    candidates = merge_candidates(data, [(int(kept[a]), int(kept[b]), bits) for a, b, bits in pairs])
    findings, outliers = tuple(label_findings(data)), extremes(measures, ids)
    odd = {photo for c in candidates[:PAIRS] for photo in c.photos}
    odd |= {i for photos in outliers.values() for i, _ in photos}
    odd |= {portrait(p) for p in people_of(findings)}
    thumbs |= _thumbnails(data, sorted(odd - thumbs.keys()), workers)
    repeated = tuple(repeated_ids(data.people))
    return Exploration(data, seed, measures, outliers, drawn, candidates, findings, repeated, thumbs)


def extremes(measures: Measures, ids: npt.NDArray[np.str_]) -> dict[str, list[tuple[int, float]]]:
    """The photos that stand out: (index, value) of the darkest, the brightest and those of least contrast.

    A person is shown once in each list: with the photo that stands out most.

    Args:
        ids: (photos,), equal for photos of one person.
    """

    def lowest(values: FloatArray, sign: int = 1) -> list[tuple[int, float]]:
        first: dict[str, int] = {}
        for i in order[np.argsort(sign * values[order], kind="stable")]:
            first.setdefault(str(ids[i]), int(i))
        return [(i, float(values[i])) for i in list(first.values())[:STAND_OUT]]

    order = np.flatnonzero(measures.readable)
    return {
        "darkest": lowest(measures.brightness),
        "brightest": lowest(measures.brightness, -1),
        "least contrast": lowest(measures.contrast),
    }


def portrait(person: int) -> int:
    """Index of a person's photo without a mask."""
    return person * len(SHOTS) + SHOTS.index("normal")


def photo_caption(data: TrainData, photo: int) -> str:
    """A photo's folder and file name, a line each."""
    return "/\n".join(data.files[photo].removeprefix("train/images/").rsplit("/", 1))


def people_of(findings: Iterable[Finding]) -> list[int]:
    """The first people that findings are about, each once."""
    return list(dict.fromkeys(p for f in findings for p in f.people))[:PEOPLE_SHOWN]


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
    """A few readable photos of different people, in different mask states, of both genders in turn."""
    data = found.data
    masks, genders, _ = data.labels
    order = np.random.default_rng([found.seed, CLASSES]).permutation(np.flatnonzero(found.measures.readable))
    chosen: dict[str, int] = {}
    for mask, gender in ((0, 0), (1, 1), (2, 0), (0, 1)):
        for i in order[(masks[order] == mask) & (genders[order] == gender)]:
            person = data.people[data.photo_person[i]].group
            if person not in chosen:
                chosen[person] = int(i)
                break
    return list(chosen.values())


def a_few_each(found: Exploration, photos: int = 2) -> list[int]:
    """A few readable photos of each class, from those on its contact sheet."""
    readable = found.measures.readable
    return [i for drawn in found.drawn for i in [d for d in drawn if readable[d]][:photos]]


def photos_of(data: TrainData, chosen: Iterable[int]) -> list[tuple[str, Pixels]]:
    """(caption, uint8 (h, w, 3) RGB) of each photo.

    Raises:
        MaskensError: one can't be read.
    """
    return [(photo_caption(data, i), read_photo(data.photos.path(data.files[i]))) for i in chosen]


def measure(
    data: TrainData, workers: int, keep: set[int], on_progress: Progress | None = None
) -> tuple[Measures, dict[int, Pixels]]:
    """One pass over the photos.

    Args:
        keep: the photos whose small picture is wanted.

    Returns:
        (measures, thumbs): thumbs hold those of `keep` that can be read.
    """
    files = data.files
    n = len(files)
    readable = np.zeros(n, dtype=np.bool_)
    sizes = np.zeros((n, 2), dtype=np.int64)
    moments = np.zeros((n, 8))
    hashes = np.zeros(n, dtype=np.uint64)
    kinds = [""] * n
    unreadable: list[str] = []
    thumbs: dict[int, Pixels] = {}

    def one(i: int) -> tuple[tuple[int, int], FloatArray, np.uint64, str, Pixels | None] | str:
        path = data.photos.path(files[i])
        try:
            photo = read_photo(path)
            kind = ", ".join((path.suffix.lower(), *photo_format(path)))
        except MaskensError as error:
            return str(error)
        thumb = thumbnail(photo) if i in keep else None
        return (photo.shape[0], photo.shape[1]), _moments(photo), perceptual_hash(photo), kind, thumb

    for i, result in enumerate(in_threads(one, range(n), workers, on_progress)):
        if isinstance(result, str):
            unreadable.append(result)
        else:
            readable[i] = True
            sizes[i], moments[i], hashes[i], kinds[i], thumb = result
            if thumb is not None:
                thumbs[i] = thumb
    mean, spread, brightness, contrast = moments[:, :3], moments[:, 3:6], moments[:, 6], moments[:, 7]
    found = Measures(readable, sizes, mean, spread, brightness, contrast, hashes, tuple(kinds), tuple(unreadable))
    return found, thumbs


def _moments(photo: Pixels) -> FloatArray:
    """float64 (8,): means of red, green, blue, their standard deviations, mean and deviation of the grey photo."""
    parts = (*cv2.meanStdDev(photo), *cv2.meanStdDev(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)))
    return np.concatenate([p.ravel() for p in parts])


def _thumbnails(data: TrainData, photos: Sequence[int], workers: int) -> dict[int, Pixels]:
    files = data.files
    pictures = thumbnails([data.photos.path(files[i]) for i in photos], workers)
    return {i: picture for i, picture in zip(photos, pictures, strict=True) if picture is not None}


def label_findings(data: TrainData) -> list[Finding]:
    """People whose labels disagree: between the rows of one id, or between a row and its folder's name.

    A folder's name counts if it reads <id>_<gender>_<race>_<age>; other names say nothing, nor does that of a
    person whose label is fixed.
    """
    rows: dict[str, list[int]] = {}
    for i, person in enumerate(data.people):
        rows.setdefault(person.id, []).append(i)
    found = []
    for name, indices in rows.items():
        if len({data.people[i].gender for i in indices}) > 1:
            found.append(Finding(f"id {name} is male in one row and female in another", tuple(indices)))
        ages = sorted({data.people[i].age for i in indices})
        if len(ages) > 1:
            bands = len(set(age_band(ages).tolist()))
            far = f", in {bands} age bands" if bands > 1 else ""
            found.append(Finding(f"id {name} is {' and '.join(map(str, ages))} years old{far}", tuple(indices)))
    return found + _folder_names(data)


def _folder_names(data: TrainData) -> list[Finding]:
    table = read_table(data.root / "train" / "train.csv", ("path",))
    races = {row["path"]: row.get("race", "") for row in table}
    fixed = {fix.path for fix in data.fixes}
    found = []
    for i, person in enumerate(data.people):
        name = FOLDER_NAME.fullmatch(PurePosixPath(person.path).name)
        if not name or person.path in fixed:
            continue
        says = {k: v.lower() for k, v in name.groupdict().items()} | {"id": name["id"], "age": str(int(name["age"]))}
        race = races.get(person.path, "").lower() or says["race"]
        row = {
            "id": find_name(person.id, [name["id"]]),
            "gender": GENDERS[person.gender],
            "race": race,
            "age": str(person.age),
        }
        differ = [f"{key} {row[key]}" for key in says if says[key] != row[key]]
        if differ:
            found.append(Finding(f"folder {person.path}: train.csv says {', '.join(differ)}", (i,)))
    return found
