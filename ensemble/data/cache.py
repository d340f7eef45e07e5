"""Photos decoded and resized once into a file that all jobs, epochs and models read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.data.cache_files import (
    build,
    each_photo,
    faces_file,
    missing_geometries,
    pixel_file,
    reasons,
    refuse_unreadable,
)
from ensemble.data.load import LoadedPhoto, load_photo, refuse_without_detector
from ensemble.data.pixel_file import PixelFile
from ensemble.recipes.geometry import Geometry
from folds.data.decode import Pixels, Progress, read_photo
from folds.data.people import PhotoSet
from folds.data.skipped import read_skipped, skipped_csv
from folds.errors import MaskensError
from folds.files import sha256, write_text


class DecodedPhotos:
    """Indexable photos, each in one or more geometries: from the cache's files, or decoded at each access.

    Those that `photos` skips are not to be asked for: in the cache they are black.
    Pickles as paths only, so that worker processes share the page cache and not a copy.
    """

    def __init__(self, photos: PhotoSet, geometries: Sequence[Geometry], cached: Sequence[Path] | None = None) -> None:
        self.photos, self.geometries, self.cached = photos, tuple(geometries), cached
        self._open: list[PixelFile] | None = None
        self._faces: npt.NDArray[np.bool_] | None = None

    @property
    def files(self) -> Sequence[str]:
        return self.photos.files

    def __len__(self) -> int:
        return len(self.photos.files)

    def __getitem__(self, index: int) -> tuple[Pixels, ...]:
        """The photo in each geometry, uint8 (height, width, 3).

        Raises:
            MaskensError: it can't be read.
        """
        return self.load(index).sizes

    def load(self, index: int) -> LoadedPhoto:
        """The photo in each geometry, and whether its face was found.

        Raises:
            MaskensError: it can't be read.
        """
        if self.cached is None:
            return load_photo(self.photos.path(self.files[index]), self.geometries)
        try:
            if self._open is None:
                self._open = [PixelFile(path) for path in self.cached]
            return LoadedPhoto(tuple(file[index] for file in self._open), bool(self.faces[index]))
        except (OSError, ValueError) as error:
            raise MaskensError(f"the photo cache is gone or damaged ({error}): run again, it is made anew") from error

    @property
    def faces(self) -> npt.NDArray[np.bool_]:
        """Of cached photos, (photos,): False where a face was to be cut out and none was found.

        Raises:
            OSError, ValueError: the cache is gone or damaged.
        """
        if self._faces is None:
            self._faces = np.ones(len(self), np.bool_)
            for geometry, path in zip(self.geometries, self.cached or (), strict=True):
                if geometry.crop == "face":
                    self._faces &= np.load(faces_file(path), allow_pickle=False)
        return self._faces

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None, "_faces": None}


def open_photos(
    photos: PhotoSet,
    geometries: Sequence[Geometry],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
) -> DecodedPhotos:
    """The photos in each geometry; what the cache lacks is decoded now, each file read once for all.

    Args:
        geometries: without repeats.
        cache: folder of the decoded photos; None decodes at each access instead.
        workers: decoding threads.

    Raises:
        MaskensError: photos that can't be read (all listed) and that `photos` does not skip, or too little disk (with
            figures).
    """
    refuse_without_detector(geometries)
    if cache is None:
        return DecodedPhotos(photos, geometries)
    missing = missing_geometries(photos, geometries, cache)
    if missing:
        build(photos, missing, cache, workers, on_progress)
    return DecodedPhotos(photos, geometries, [pixel_file(cache, photos, g) for g in geometries])


def skip_unreadable(
    photos: PhotoSet,
    geometries: Sequence[Geometry],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
    write: bool = True,
) -> PhotoSet:
    """The photos, with those that can't be read among the skipped ones; `open_photos` takes the others.

    A cache has a list of them beside its files. Those listed are tried again each time, and once one of them can be
    read, all photos are: nothing that was mended stays out.

    Args:
        geometries, cache, workers: as of `open_photos`.
        write: fill the cache on the way, so that each file is read once for both; else all are opened, none is kept.

    Raises:
        MaskensError: none can be read, or too little disk.
    """
    refuse_without_detector(geometries)
    found = photos.without(_listed(photos, cache)) if cache else photos
    if cache is None or not write:
        if cache is None or missing_geometries(found, geometries, cache):
            found = found.without(reasons(found, _open_all(found, geometries, workers, on_progress)[1]))
        return found
    while missing := missing_geometries(found, geometries, cache):  # again, if more can't be read than were listed
        found = build(found, missing, cache, workers, on_progress, skip=True)
    if found.skipped:
        write_text(_list_file(photos, cache), skipped_csv(found.skipped))
    return found


def _list_file(photos: PhotoSet, cache: Path) -> Path:
    return cache / f"skipped-{sha256(photos.fingerprint)[:16]}.csv"


def _listed(photos: PhotoSet, cache: Path) -> dict[str, str]:
    """file -> why, of the photos that could not be read before, if that is still so of all of them."""
    try:
        listed = read_skipped(_list_file(photos, cache))
    except MaskensError:
        return {}
    some = photos.some([row for row, file in enumerate(photos.files) if file in listed])
    still = _open_all(some, [], workers=1)[1]
    return {file: listed[file] for file in some.files} if len(still) == int(some.readable.sum()) else {}


def missing_bytes(photos: PhotoSet, geometries: Sequence[Geometry], cache: Path | None) -> int:
    """How much larger the cache would become; arguments as of `open_photos`."""
    missing = missing_geometries(photos, geometries, cache) if cache else []
    return sum(len(photos.files) * int(np.prod(g.shape)) for g in missing)


def check_readable(
    photos: PhotoSet, geometries: Sequence[Geometry], workers: int, on_progress: Progress | None = None
) -> npt.NDArray[np.bool_]:
    """Decode every photo, in whole beside its geometries, and keep none.

    Returns:
        bool (photos,): False where a face was to be cut out and none was found.

    Raises:
        MaskensError: photos that can't be read, all listed.
    """
    refuse_without_detector(geometries)
    faces, problems = _open_all(photos, geometries, workers, on_progress)
    refuse_unreadable(photos, problems)
    return faces


def _open_all(
    photos: PhotoSet, geometries: Sequence[Geometry], workers: int, on_progress: Progress | None = None
) -> tuple[npt.NDArray[np.bool_], dict[str, str]]:
    """(as `check_readable`, file -> what is wrong with it)."""
    faces = np.ones(len(photos.files), np.bool_)
    cut = [g for g in geometries if g.crop == "face"]

    def one(index: int) -> None:
        path = photos.path(photos.files[index])
        read_photo(path)
        if cut:
            faces[index] = load_photo(path, cut).face

    return faces, each_photo(one, photos, workers, on_progress)
