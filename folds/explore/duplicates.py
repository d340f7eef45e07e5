"""People with nearly the same photo: two ids that may be one person, listed before they are merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from folds.corrections import MERGE_COLUMNS
from folds.errors import MaskensError
from folds.files import safe_csv
from folds.pages.contact_sheet import Cell, Sheet, photo_caption, thumbnails
from folds.people import PhotoSet, TrainData
from folds.photos import Pixels, Progress, in_threads, read_photo

BITS = 256
NEAR = 24  # of them, that recompression or rescaling may turn; strangers differ in more: benchmarks/near_duplicates.py
CHUNK = 64  # hashes that are compared with all at a time: few, so that what differs fits into the cache
FILE = "merge-candidates.csv"

Hash = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class MergeCandidate:
    """Two people with nearly the same photo."""

    a: str  # id
    b: str
    files: tuple[str, str]  # of a and of b: their most alike photos
    bits: int  # of BITS that differ between these
    alike: int  # pairs of their photos that are nearly the same

    def __str__(self) -> str:
        return f"{'  ~  '.join(self.files)}  ({self.difference})"

    @property
    def difference(self) -> str:
        bits = "same bits" if self.bits == 0 else f"{self.bits} of {BITS} bits differ"
        return bits if self.alike == 1 else f"{bits}, {self.alike} such pairs"


def perceptual_hash(photo: Pixels, side: int = 16) -> Hash:
    """side^2 bits, uint64 (side^2 / 64,), that survive rescaling and recompression of a photo, uint8 (h, w, 3) RGB.

    They are the signs of the lowest side x side DCT coefficients of the 32 x 32 grey photo, against their median
    ("pHash", Zauner 2010, who has 8 x 8: too few for aligned faces).
    """
    grey = cv2.resize(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:side, :side].ravel()
    bits = low > np.median(low[1:])  # the first coefficient is the mean brightness
    return np.packbits(bits).view(np.uint64)


def hash_photos(
    of: PhotoSet, photos: Sequence[int], workers: int, on_progress: Progress | None = None
) -> tuple[dict[int, Hash], list[str]]:
    """(photo -> perceptual hash, a message for each photo that can't be read), from `workers` threads."""

    def one(photo: int) -> Hash | str:
        try:
            return perceptual_hash(read_photo(of.path(of.files[photo])))
        except MaskensError as error:
            return str(error)

    found = dict(zip(photos, in_threads(one, photos, workers, on_progress), strict=True))
    hashes = {photo: value for photo, value in found.items() if not isinstance(value, str)}
    return hashes, [value for value in found.values() if isinstance(value, str)]


def near_duplicates(hashes: Hash, people: npt.NDArray[np.str_]) -> list[tuple[int, int, int]]:
    """Pairs of photos, of uint64 (n, 4) hashes, of different people, (n,), that differ in at most NEAR bits: (first,
    second, bits) with first < second, most alike first."""
    found: list[tuple[int, int, int]] = []
    words = np.ascontiguousarray(hashes.T)
    for start in range(0, len(hashes), CHUNK):
        bits = np.zeros((min(CHUNK, len(hashes) - start), len(hashes) - start), dtype=np.uint16)
        for word in words:
            bits += np.bitwise_count(word[start : start + CHUNK, None] ^ word[start:])
        for a, b in np.argwhere(bits <= NEAR):
            if a < b and people[start + a] != people[start + b]:
                found.append((int(start + a), int(start + b), int(bits[a, b])))
    return sorted(found, key=lambda pair: (pair[2], pair[0], pair[1]))


def merge_candidates(data: TrainData, hashes: Mapping[int, Hash]) -> tuple[MergeCandidate, ...]:
    """Pairs of people with nearly the same photo, most alike first, by photo -> `perceptual_hash`."""
    photos = list(hashes)
    groups = np.array([data.people[data.photo_person[photo]].group for photo in photos])
    found: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for one, other, bits in near_duplicates(np.array([*hashes.values()]), groups):
        (a, first), (b, second) = sorted(
            (data.people[data.photo_person[photos[n]]].id, photos[n]) for n in (one, other)
        )
        found.setdefault((a, b), []).append((first, second, bits))
    candidates = []
    for (a, b), pairs in found.items():
        first, second, bits = pairs[0]
        candidates.append(MergeCandidate(a, b, (data.files[first], data.files[second]), bits, len(pairs)))
    return tuple(sorted(candidates, key=lambda c: (c.bits, -c.alike)))


def extra_duplicates(
    data: TrainData, to_predict: PhotoSet | None, workers: int, on_progress: Progress | None = None
) -> list[tuple[str, str, int]]:
    """Extra photos that are nearly a photo of another person in the folds, or one to predict: (the extra photo as its
    list has it, the other one, bits that differ), most alike first; unreadable ones are skipped."""
    last_first = range(len(data.files))[::-1]  # so that the first of a pair is the extra photo
    hashes, _ = hash_photos(data.photos, last_first, workers, on_progress)
    photos = [(data.files[i], data.people[data.photo_person[i]].group, data.scored[i], hashes[i]) for i in hashes]
    if to_predict:
        hashes, _ = hash_photos(to_predict, np.flatnonzero(to_predict.readable).tolist(), workers, on_progress)
        photos += [(to_predict.files[i], "", np.True_, hashes[i]) for i in hashes]
    pairs = near_duplicates(np.array([p[3] for p in photos]), np.array([p[1] for p in photos]))
    return [
        (photos[a][0].partition(":")[2], photos[b][0], bits)
        for a, b, bits in pairs
        if not photos[a][2] and photos[b][2]
    ]


def portrait_candidates(
    data: TrainData, workers: int, on_progress: Progress | None = None
) -> tuple[MergeCandidate, ...]:
    """Candidates by one photo of each row alone, of seven the one without a mask; unreadable and extra ones are
    skipped."""
    portraits = data.portraits[: len(data.own)].tolist()
    return merge_candidates(data, hash_photos(data.photos, portraits, workers, on_progress)[0])


def candidates_csv(candidates: Iterable[MergeCandidate]) -> str:
    """The list as `maskens folds --merge` takes it."""
    rows = [(c.a, c.b, c.bits, c.alike, *c.files) for c in candidates]
    return safe_csv((*MERGE_COLUMNS, "bits", "photos", "photo_a", "photo_b"), rows)


def candidates_sheet(data: TrainData, candidates: Sequence[MergeCandidate], workers: int) -> Sheet:
    """The most alike photos of each pair of people, a row a pair; `workers` threads open them."""
    shown = [(c, file, name) for c in candidates for file, name in zip(c.files, (c.a, c.b), strict=True)]
    pictures = thumbnails([data.photos.path(file) for _, file, _ in shown], workers)
    cells = (
        Cell(picture, f"{photo_caption(file)}\nid {name}\n{c.difference}", file)
        for (c, file, name), picture in zip(shown, pictures, strict=True)
    )
    return Sheet("duplicates", "nearly the same photo under two ids", tuple(cells), columns=2)
