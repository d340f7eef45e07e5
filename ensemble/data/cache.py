"""Photos decoded and resized once into a file that all jobs, epochs and models read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.data.pixel_file import PixelFile, create
from ensemble.recipes.geometry import Geometry
from folds.data.decode import Pixels, Progress, in_threads, read_photo, read_sizes, resize_and_crop
from folds.data.people import PhotoSet
from folds.errors import MaskensError, refuse
from folds.files import sha256

BUILDING = ".building-"
SPARE = 64 * 2**20  # bytes of disk to leave free


def load_resized(path: Path, geometries: Sequence[Geometry]) -> tuple[Pixels, ...]:
    """A photo in each geometry, uint8 (height, width, 3); the file is read once.

    Raises:
        MaskensError: it can't be read.
    """
    photos = read_sizes(path, [g.resize if g.reduced else None for g in geometries])
    return tuple(resize_and_crop(photo, g.resize, g.crop) for photo, g in zip(photos, geometries, strict=True))


class DecodedPhotos:
    """Indexable photos, each in one or more geometries: from the cache's files, or decoded at each access.

    Pickles as paths only, so that worker processes share the page cache and not a copy.
    """

    def __init__(self, photos: PhotoSet, geometries: Sequence[Geometry], cached: Sequence[Path] | None = None) -> None:
        self.photos, self.geometries, self.cached = photos, tuple(geometries), cached
        self._open: list[PixelFile] | None = None

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
        if self.cached is None:
            return load_resized(self.photos.root / self.files[index], self.geometries)
        try:
            if self._open is None:
                self._open = [PixelFile(path) for path in self.cached]
            return tuple(file[index] for file in self._open)
        except (OSError, ValueError) as error:
            raise MaskensError(f"the photo cache is gone or damaged ({error}): run again, it is made anew") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


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
        MaskensError: photos that can't be read (all listed), or too little disk (with figures).
    """
    if cache is None:
        return DecodedPhotos(photos, geometries)
    missing = _missing(photos, geometries, cache)
    if missing:
        _build(photos, missing, cache, workers, on_progress)
    return DecodedPhotos(photos, geometries, [_file(cache, photos, g) for g in geometries])


def missing_bytes(photos: PhotoSet, geometries: Sequence[Geometry], cache: Path | None) -> int:
    """How much larger the cache would become; arguments as of `open_photos`."""
    missing = _missing(photos, geometries, cache) if cache else {}
    return sum(len(photos.files) * int(np.prod(g.shape)) for g in missing)


def _missing(photos: PhotoSet, geometries: Sequence[Geometry], cache: Path) -> dict[Geometry, Path]:
    files = {g: _file(cache, photos, g) for g in geometries}
    return {g: file for g, file in files.items() if not _complete(file, (len(photos.files), *g.shape))}


def _file(cache: Path, photos: PhotoSet, geometry: Geometry) -> Path:
    height, width, _ = geometry.shape
    return cache / f"{height}x{width}-{sha256(f'{photos.fingerprint} {geometry} v1')[:16]}.npy"


def _complete(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return PixelFile(path).shape == shape
    except (OSError, ValueError):
        return False


def _build(
    photos: PhotoSet, targets: dict[Geometry, Path], cache: Path, workers: int, on_progress: Progress | None
) -> None:
    needed = sum(len(photos.files) * int(np.prod(g.shape)) for g in targets)
    scratch: Path | None = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        free = shutil.disk_usage(cache).free
        if needed + SPARE > free:
            raise MaskensError(
                f"the photo cache needs {needed / 1e9:.1f} GB in {cache}, where {free / 1e9:.1f} GB are free. "
                "Name a larger disk with --cache DIR, or decode at each access with --cache none (slower)."
            )
        scratch = Path(tempfile.mkdtemp(prefix=BUILDING, dir=cache))
        building = [create(scratch / p.name, (len(photos.files), *g.shape)) for g, p in targets.items()]

        def one(index: int) -> None:
            sizes = load_resized(photos.root / photos.files[index], list(targets))
            for file, photo in zip(building, sizes, strict=True):
                file[index] = photo

        _each_photo(one, photos, workers, on_progress)
        for file, path in zip(building, targets.values(), strict=True):
            file.flush()
            os.replace(file.path, path)
    except OSError as error:
        raise MaskensError(f"can't write the photo cache in {cache}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def check_readable(photos: PhotoSet, workers: int, on_progress: Progress | None = None) -> None:
    """Decode every photo and keep none.

    Raises:
        MaskensError: photos that can't be read, all listed.
    """

    def one(index: int) -> None:
        read_photo(photos.root / photos.files[index])

    _each_photo(one, photos, workers, on_progress)


def _each_photo(function: Callable[[int], None], photos: PhotoSet, workers: int, on_progress: Progress | None) -> None:
    """Call a function that decodes the photo of an index for each photo; refuse those that can't be read."""

    def problem(index: int) -> str:
        try:
            function(index)
        except MaskensError as error:
            return str(error)
        return ""

    problems = [p for p in in_threads(problem, range(len(photos.files)), workers, on_progress) if p]
    advice = "Replace them (or take their rows out of the CSV) and run again."
    refuse(problems, f"photos in {photos.root} can't be used", advice)


def _remove_stale(cache: Path) -> None:
    """What a killed process left half built more than a day ago."""
    for folder in cache.glob(f"{BUILDING}*"):
        if time.time() - folder.stat().st_mtime > 24 * 3600:
            shutil.rmtree(folder, ignore_errors=True)
