"""Two ids that may be one person: a list and a sheet to look at before they are merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from folds.corrections import MERGE_COLUMNS
from folds.errors import MaskensError
from folds.explore.duplicates import near_duplicates, perceptual_hash
from folds.files import safe_csv
from folds.labels import SHOTS
from folds.pages.contact_sheet import Cell, Sheet, thumbnails
from folds.people import TrainData
from folds.photos import Pixels, Progress, in_threads, read_photo

FILE, SHEET = "merge-candidates.csv", "duplicates"


@dataclass(frozen=True)
class MergeCandidate:
    """Two people with nearly the same photo."""

    a: str  # id
    b: str
    photos: tuple[int, int]  # of a and of b: their most alike
    bits: int  # of 64 that differ between these
    alike: int  # pairs of their photos that are nearly the same


def merge_candidates(data: TrainData, duplicates: Iterable[tuple[int, int, int]]) -> tuple[MergeCandidate, ...]:
    """The people behind near-duplicates, most alike first.

    Args:
        duplicates: (photo, photo of another person, differing bits), most alike first.
    """
    found: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for one, other, bits in duplicates:
        first, second = sorted((one, other), key=lambda i: data.people[data.photo_person[i]].id)
        ids = data.people[data.photo_person[first]].id, data.people[data.photo_person[second]].id
        found.setdefault(ids, []).append((first, second, bits))
    candidates = [MergeCandidate(a, b, pairs[0][:2], pairs[0][2], len(pairs)) for (a, b), pairs in found.items()]
    return tuple(sorted(candidates, key=lambda c: (c.bits, -c.alike, c.photos)))


def portrait_candidates(
    data: TrainData, workers: int, on_progress: Progress | None = None
) -> tuple[MergeCandidate, ...]:
    """Candidates by people's photos without a mask alone, a seventh of all; unreadable ones are left out.

    Args:
        workers: threads.
    """
    portraits = range(SHOTS.index("normal"), len(data.files), len(SHOTS))

    def one(photo: int) -> np.uint64 | None:
        try:
            return perceptual_hash(read_photo(data.photos.path(data.files[photo])))
        except MaskensError:
            return None

    hashes = list(in_threads(one, portraits, workers, on_progress))
    kept = [(photo, found) for photo, found in zip(portraits, hashes, strict=True) if found is not None]
    photos = [photo for photo, _ in kept]
    people = np.array([data.people[data.photo_person[photo]].group for photo in photos])
    pairs = near_duplicates(np.array([found for _, found in kept], dtype=np.uint64), people)
    return merge_candidates(data, [(photos[a], photos[b], bits) for a, b, bits in pairs])


def candidates_csv(data: TrainData, candidates: Iterable[MergeCandidate]) -> str:
    """The list as `maskens folds --merge` takes it."""
    rows = [(c.a, c.b, c.bits, c.alike, *(data.files[photo] for photo in c.photos)) for c in candidates]
    return safe_csv((*MERGE_COLUMNS, "bits", "photos", "photo_a", "photo_b"), rows)


def candidates_sheet(
    data: TrainData,
    candidates: Sequence[MergeCandidate],
    shown: int,
    thumbs: Mapping[int, Pixels | None] | None = None,
    workers: int = 1,
) -> Sheet:
    """The most alike photos of each pair of people side by side.

    Args:
        shown: most pairs.
        thumbs: photo -> small picture, of those at hand; without them photos are opened.
        workers: threads that open them.
    """
    chosen = [photo for c in candidates[:shown] for photo in c.photos]
    pictures = (
        [thumbs.get(photo) for photo in chosen]
        if thumbs is not None
        else thumbnails([data.photos.path(data.files[photo]) for photo in chosen], workers)
    )
    notes = [note for c in candidates[:shown] for note in [_note(c)] * 2]
    cells = tuple(_cell(data, *of) for of in zip(chosen, pictures, notes, strict=True))
    title = f"nearly the same photo under two people ({min(shown, len(candidates))} of {len(candidates)} pairs)"
    return Sheet(SHEET, title, cells, columns=4, group=2)


def _note(candidate: MergeCandidate) -> str:
    bits = "same bits" if candidate.bits == 0 else f"{candidate.bits} of 64 bits differ"
    return bits if candidate.alike == 1 else f"{bits}, {candidate.alike} such pairs"


def _cell(data: TrainData, photo: int, picture: Pixels | None, note: str) -> Cell:
    file = data.files[photo].removeprefix("train/images/")
    person = data.people[data.photo_person[photo]]
    return Cell(picture, "/\n".join(file.rsplit("/", 1)) + f"\nid {person.id}\n{note}", data.files[photo])
