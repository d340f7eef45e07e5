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
import numpy.typing as npt

from ensemble.data.load import LoadedPhoto, load_photo, refuse_without_detector
from ensemble.data.pixel_file import PixelFile, create
from ensemble.recipes.geometry import Geometry
from folds.data.decode import Pixels, Progress, in_threads, read_photo
from folds.data.people import PhotoSet
from folds.errors import MaskensError, refuse
from folds.files import replacing, sha256

BUILDING = ".building-"
SPARE = 64 * 2**20  # bytes of disk to leave free


class DecodedPhotos:
    """Indexable photos, each in one or more geometries: from the cache's files, or decoded at each access.

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
            return load_photo(self.photos.root / self.files[index], self.geometries)
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
                    self._faces &= np.load(_faces_file(path), allow_pickle=False)
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
        MaskensError: photos that can't be read (all listed), or too little disk (with figures).
    """
    refuse_without_detector(geometries)
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
    return {g: file for g, file in files.items() if not _complete(file, g, len(photos.files))}


def _file(cache: Path, photos: PhotoSet, geometry: Geometry) -> Path:
    height, width, _ = geometry.shape
    return cache / f"{height}x{width}-{sha256(f'{photos.fingerprint} {geometry} v1')[:16]}.npy"


def _faces_file(path: Path) -> Path:
    """Beside photos of faces cut out: on which of them one was found, bool (photos,)."""
    return path.with_suffix(".faces.npy")


def _complete(path: Path, geometry: Geometry, photos: int) -> bool:
    try:
        whole = PixelFile(path).shape == (photos, *geometry.shape)
        return whole and (geometry.crop != "face" or len(np.load(_faces_file(path), allow_pickle=False)) == photos)
    except Exception:  # whatever a damaged file raises: it is made anew
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
        faces = np.ones(len(photos.files), np.bool_)

        def one(index: int) -> None:
            sizes, faces[index] = load_photo(photos.root / photos.files[index], list(targets))
            for file, photo in zip(building, sizes, strict=True):
                file[index] = photo

        _each_photo(one, photos, workers, on_progress)
        for file, (geometry, path) in zip(building, targets.items(), strict=True):
            file.flush()
            if geometry.crop == "face":
                with replacing(_faces_file(path)) as handle:
                    np.save(handle, faces)
            os.replace(file.path, path)
    except OSError as error:
        raise MaskensError(f"can't write the photo cache in {cache}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


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
    faces = np.ones(len(photos.files), np.bool_)
    cut = [g for g in geometries if g.crop == "face"]

    def one(index: int) -> None:
        path = photos.root / photos.files[index]
        read_photo(path)
        if cut:
            faces[index] = load_photo(path, cut).face

    _each_photo(one, photos, workers, on_progress)
    return faces


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
